#!/usr/bin/env python3
"""How well scoring overlaps with sampling: epochs of the shapes world with a reward that takes as long as the sampling does.

    tools/bench_overlap.py [--ranks 2] [--batches 8] [--judge exec] [--rounds 8]

First some epochs with a reward that answers at once measure how long a rank samples. Then the reward takes that time, divided over
the images (it sleeps, like one that waits for another machine), and the time of sampling and scoring an epoch together is compared
with what either takes alone.
"""

import argparse
import http.server
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
JUDGE = """
import json, struct, sys, time
pipe, seconds = sys.stdin.buffer, float(sys.argv[1])
frame = lambda: pipe.read(struct.unpack("<I", (pipe.read(4) or sys.exit(0)))[0])
while True:
    items = json.loads(frame())["items"]
    scores = [frame()[0] / 255 for _ in items]
    time.sleep(seconds * len(items))
    answer = json.dumps({"scores": scores}).encode()
    sys.stdout.buffer.write(struct.pack("<I", len(answer)) + answer)
    sys.stdout.buffer.flush()
"""


def serve(seconds):
    """One judge behind HTTP for each rank: one request at a time, as long as an exec one takes."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version, wbufsize = "HTTP/1.1", -1

        def do_POST(self):
            items = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["items"]
            time.sleep(seconds * len(items))
            reply = json.dumps({"scores": [len(x["image"]) / 1e4 for x in items]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server, f"http://127.0.0.1:{server.server_address[1]}/"


def rounds(a, seconds, folder):
    """Medians of an epoch's sampling and of the wait for scores after it, in seconds."""
    each = a.images // a.ranks
    server = None
    if a.judge == "exec":
        judge = {"type": "exec", "command": [sys.executable, "-c", JUDGE, str(seconds)], "batch": 4096}
    else:
        server, url = serve(seconds)
        judge = {"type": "http", "url": url, "batch": 4096, "in_flight": 1}
    config = {"extends": str(ROOT / "configs/shapes.yaml"), "rewards": {"geneval": {}, "slow": judge},
              "prompts": {"groups": a.images // 16, "group_size": 16, "test": ""}, "rollout": {"batch": each // a.batches},
              "train": {"max_steps": a.rounds + 1}, "log": {"tensorboard": False}, "run": {"threads": 1}}  # fmt: skip
    (folder / "c.yaml").write_text(json.dumps(config))
    run = folder / f"run-{seconds}"
    launch = ["mpirun", "--oversubscribe", "-n", str(a.ranks)] if a.ranks > 1 else []
    env = {**os.environ, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "OMP_NUM_THREADS": "1"}
    subprocess.run([*launch, a.build / "contraflow", "train", folder / "c.yaml", "--run", run, "--quiet"], check=True, env=env, cwd=ROOT)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()][1:]  # the first warms up
    if server:
        server.shutdown()
    return tuple(statistics.median(r[f"time/{k}"] for r in rows) for k in ("rollout", "reward_wait"))


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--ranks", type=int, default=2)
    p.add_argument("--images", type=int, default=768, help="images per epoch, over all ranks")
    p.add_argument("--batches", type=int, default=8, help="batches into which a rank's images are divided")
    p.add_argument("--rounds", type=int, default=8)
    p.add_argument("--judge", choices=["exec", "http"], default="exec")
    p.add_argument("--build", type=lambda s: pathlib.Path(s).resolve(), default=ROOT / "build")
    a = p.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        alone, _ = rounds(a, 0, folder)
        took, wait = rounds(a, alone / (a.images // a.ranks), folder)
    print(f"{a.judge}, {a.ranks} ranks, {a.batches} batches a rank: sampling {alone:.2f} s alone, {took:.2f} s beside a reward that takes "
          f"{alone:.2f} s, then {wait:.2f} s of waiting: {(took + wait) / alone:.2f}x the longer of the two")  # fmt: skip


if __name__ == "__main__":
    main()
