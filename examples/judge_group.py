#!/usr/bin/env python3
"""A reward that ranks a prompt's images, for the type `exec` with `group: true`: the reddest gets 1, the least red 0.

    rewards: {exec: {command: [python3, examples/judge_group.py], group: true}}

Frames as in judge_exec.py; the JSON also has "group": true, and its items are all images of one prompt, in order.
"""

import json
import struct
import sys


def read_frame():
    head = sys.stdin.buffer.read(4)
    if len(head) < 4:
        sys.exit(0)  # the run has ended
    return sys.stdin.buffer.read(struct.unpack("<I", head)[0])


def redness(pixels):
    return sum(pixels[0::3]) / max(sum(pixels), 1)


while True:
    request = json.loads(read_frame())
    red = [redness(read_frame()) for _ in request["items"]]
    if request.get("group"):
        scores = [sum(other < r for other in red) / max(len(red) - 1, 1) for r in red]  # equals share a place
        answer = {"scores": scores}
    else:
        answer = {"error": "it ranks groups: set `group: true`"}
    data = json.dumps(answer).encode()
    sys.stdout.buffer.write(struct.pack("<I", len(data)) + data)
    sys.stdout.buffer.flush()
