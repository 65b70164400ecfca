#!/usr/bin/env python3
"""A reward for the type `exec`: PP-OCR reads the text that the prompt puts between double quotes.

    python3 -m venv ppocr && ppocr/bin/pip install rapidocr-onnxruntime     # the models are in the package
    rewards: {ppocr: {type: exec, command: [ppocr/bin/python, examples/judge_ppocr.py]}}

The score is that of the reward `ocr`, with another reader: 1 - min(distance, length) / length over lower-case text without white
space, distance 0 when the wanted text is in what was read. The protocol is judge_exec.py's.
"""

import json
import os
import re
import struct
import sys

import numpy as np

# Libraries print to standard output, which must carry nothing but frames: frames get a copy of it, and all else goes to standard error.
frames = os.fdopen(os.dup(1), "wb")
os.dup2(2, 1)

from rapidocr_onnxruntime import RapidOCR  # noqa: E402


def read_frame():
    head = sys.stdin.buffer.read(4)
    if len(head) < 4:
        sys.exit(0)  # the run has ended
    return sys.stdin.buffer.read(struct.unpack("<I", head)[0])


def letters(text):
    return "".join(text.split()).lower()


def distance(a, b):
    """Levenshtein's."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        old, row = row, [i]
        for j, y in enumerate(b, 1):
            row.append(min(old[j] + 1, row[j - 1] + 1, old[j - 1] + (x != y)))
    return row[-1]


def judge(reader, item, pixels):
    quoted = re.search('"([^"]*)"', item["prompt"])
    want = letters(quoted[1]) if quoted else ""
    if not want:
        return {"error": "the prompt asks for no text: write that between double quotes"}
    rgb = np.frombuffer(pixels, np.uint8).reshape(item["height"], item["width"], 3)
    lines, _ = reader(np.ascontiguousarray(rgb[:, :, ::-1]))  # blue first, as OpenCV has it
    read = letters("".join(text for _, text, _ in lines or []))
    d = 0 if want in read else distance(want, read)
    return 1 - min(d, len(want)) / len(want)


reader = RapidOCR()
while True:
    items = json.loads(read_frame())["items"]
    answer = json.dumps({"scores": [judge(reader, item, read_frame()) for item in items]}).encode()
    frames.write(struct.pack("<I", len(answer)) + answer)
    frames.flush()
