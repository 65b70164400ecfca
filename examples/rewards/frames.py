"""What the judges in this folder share: the protocol of the reward `exec` (examples/judge_exec.py says it), and images as PNG."""

import base64
import json
import os
import struct
import sys
import zlib

# Libraries print to standard output, which must carry nothing but frames: frames get a copy of it, and all else goes to standard error.
frames = os.fdopen(os.dup(1), "wb")
os.dup2(2, 1)


def read_frame():
    head = sys.stdin.buffer.read(4)
    if len(head) < 4:
        sys.exit(0)  # the run has ended
    return sys.stdin.buffer.read(struct.unpack("<I", head)[0])


def serve(judge):
    """judge(items, pixels) gets a batch: the items (prompt, meta, width, height) and the pixels of each (RGB, rows from the top).
    It returns a score for each: a number, an object with `score` and sub-scores, or {"error": "why"}."""
    while True:
        items = json.loads(read_frame())["items"]
        answer = json.dumps({"scores": judge(items, [read_frame() for _ in items])}).encode()
        frames.write(struct.pack("<I", len(answer)) + answer)
        frames.flush()


def png(item, pixels):
    """A PNG file of it, in base64."""
    w, h = item["width"], item["height"]

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + pixels[y * w * 3 : (y + 1) * w * 3] for y in range(h))
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", w, h, 8, 2, 0, 0, 0))
    file = b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows, 1)) + chunk(b"IEND", b"")
    return base64.b64encode(file).decode()
