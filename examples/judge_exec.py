#!/usr/bin/env python3
"""A reward for the type `exec`: frames on standard input, scores on standard output. It rewards red images.

    rewards: {exec: {command: [python3, examples/judge_exec.py]}}

A frame is 4 bytes of length (little-endian) and that many bytes. A batch is one frame of JSON,
{"version": 1, "items": [{"prompt", "meta", "width", "height"}, ...]}, and for each item a frame of its pixels (RGB, 8 bits,
rows from the top). The answer is one frame of JSON: {"scores": [...]}, for each item a number, or {"error": "why"}.
Print to standard error only.
"""

import json
import struct
import sys


def read_frame():
    head = sys.stdin.buffer.read(4)
    if len(head) < 4:
        sys.exit(0)  # the run has ended
    return sys.stdin.buffer.read(struct.unpack("<I", head)[0])


def judge(item, pixels):
    red, everything = sum(pixels[0::3]), sum(pixels)
    return red / everything if everything else {"error": "the image is black"}


while True:
    items = json.loads(read_frame())["items"]
    answer = json.dumps({"scores": [judge(item, read_frame()) for item in items]}).encode()
    sys.stdout.buffer.write(struct.pack("<I", len(answer)) + answer)
    sys.stdout.buffer.flush()
