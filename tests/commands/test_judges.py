"""Judges outside the program: http, openai and exec, with every fault they can have. Real sockets and processes."""

import base64
import http.server
import io
import json
import re
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from command import ROOT, TINY, contraflow, fails, read_lines
from PIL import Image


class Server:
    """A judge on loopback: answer(request number, parsed body) gives (status, body, headers) or does what it likes."""

    def __init__(self, answer, port=0):
        outer, self.requests, self.lock = self, [], threading.Lock()

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with outer.lock:
                    outer.requests.append((time.monotonic(), dict(self.headers), body, self.client_address))
                    number = len(outer.requests)
                result = answer(number, body)
                if result is None:  # hang up without a word
                    self.close_connection = True
                    return
                status, reply, headers = result
                reply = reply.encode() if isinstance(reply, str) else reply
                self.send_response(status)
                for k, v in {"Content-Length": str(len(reply)), **headers}.items():
                    self.send_header(k, v)
                self.end_headers()
                self.wfile.write(reply)
                if "Content-Length" in headers:
                    self.close_connection = True

            def log_message(self, *args):
                pass

        class Quiet(http.server.ThreadingHTTPServer):
            def handle_error(self, *args):
                pass

        self.server = Quiet(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def serve():
    servers = []

    def start(answer):
        servers.append(Server(answer))
        return servers[-1]

    yield start
    for s in servers:
        s.server.shutdown()
        s.server.server_close()


@pytest.fixture
def images(tmp_path):
    r, files = np.random.default_rng(0), []
    for i in range(6):
        Image.fromarray(r.integers(0, 256, (9 + i, 7, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
        files.append(tmp_path / f"{i}.png")
    return files


def score(folder, rewards, files, check=True):
    (folder / "c.yaml").write_text(json.dumps(dict(rewards=rewards)))
    (folder / "p.jsonl").write_text("".join(json.dumps(dict(prompt=f'prompt {i} "é"', tag="t", n=i)) + "\n" for i in range(len(files))))
    done = contraflow("score", "--config", folder / "c.yaml", "--prompts", folder / "p.jsonl", *files, check=False)
    return done.stderr if not done.stdout else [x["reward"] for x in json.loads(done.stdout)["images"]], done


def means(body):
    out = []
    for item in body["items"]:
        out.append(float(np.array(Image.open(io.BytesIO(base64.b64decode(item["image"])))).mean()))
    return out


def true_means(files):
    return [float(np.array(Image.open(f)).mean()) for f in files]


def good(number, body):
    return 200, json.dumps(dict(scores=means(body))), {}


# ---- http ------------------------------------------------------------------------------------------


def test_http(serve, images, tmp_path, monkeypatch):
    """Exact pixels, prompts, metadata; batches in order; one connection for many requests; the token, and nowhere else."""
    monkeypatch.setenv("JUDGE_TOKEN", "s3cret")
    s = serve(good)
    got, done = score(tmp_path, {"http": dict(url=s.url, batch=2, in_flight=1, token_env="JUDGE_TOKEN")}, images)
    assert np.allclose(got, true_means(images)) and len(s.requests) == 3
    items = [i for _, _, body, _ in s.requests for i in body["items"]]
    assert [i["prompt"] for i in items] == [f'prompt {k} "é"' for k in range(6)] and [i["meta"]["n"] for i in items] == list(range(6))
    assert {h["Authorization"] for _, h, _, _ in s.requests} == {"Bearer s3cret"} and "s3cret" not in done.stdout + done.stderr
    assert len({address for *_, address in s.requests}) == 1  # kept alive


FAULTS = {
    "500 twice": (lambda n, b: (500, "broken", {}) if n <= 2 else good(n, b), 6, 3),
    "hang-up once": (lambda n, b: None if n == 1 else good(n, b), 6, 2),
    "429": (lambda n, b: (429, "later", {"Retry-After": "1"}) if n == 1 else good(n, b), 6, 2),
    "truncated": (lambda n, b: (200, '{"scores": [', {"Content-Length": "500"}) if n == 1 else good(n, b), 6, 2),
    "500 for ever": (lambda n, b: (500, "broken", {}), 0, 4),
    "404": (lambda n, b: (404, "no such judge", {}), 0, 1),
    "garbage": (lambda n, b: (200, "<html>", {}), 0, 1),
    "no list": (lambda n, b: (200, '{"score": 1}', {}), 0, 1),
    "says why": (lambda n, b: (200, '{"error": "out of memory"}', {}), 0, 1),
    "wrong count": (lambda n, b: (200, '{"scores": [1, 2]}', {}), 0, 1),
    "NaN": (lambda n, b: (200, '{"scores": [NaN, 1, Infinity, 1, {"score": -Infinity}, 1]}', {}), 3, 1),
    "some": (lambda n, b: (200, '{"scores": [1, null, {"score": 2}, {"error": "blurred"}, "5", {}]}', {}), 2, 1),
    "too large a number": (lambda n, b: (200, '{"scores": [1, 1, 1, 1, 1, 1e400]}', {}), 5, 1),
    "absurd": (lambda n, b: (200, '{"scores": [1, 1, 1, 1, 1, 1e308]}', {}), 5, 1),
    "302": (lambda n, b: (302, "", {"Location": "/elsewhere"}), 0, 1),
}  # fmt: skip
WHY = {"404": "no such judge", "garbage": "JSON", "no list": "no list", "says why": "out of memory", "wrong count": "2 scores for 6",
       "500 for ever": "status 500", "absurd": "1e+308", "302": "/elsewhere: set `url`"}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_http_faults(serve, images, tmp_path, name):
    answer, available, requests = FAULTS[name]
    s = serve(answer)
    got, done = score(tmp_path, {"http": dict(url=s.url, batch=8, retries=3, timeout=5)}, images)
    assert sum(x is not None for x in got) == available and len(s.requests) == requests, (got, done.stderr)
    if available == 6:
        assert np.allclose(got, true_means(images))
    if name in WHY:
        assert WHY[name] in done.stderr, done.stderr
    if name == "429":
        assert s.requests[1][0] - s.requests[0][0] >= 1


def test_http_slow_and_refused(serve, images, tmp_path):
    s = serve(lambda n, b: time.sleep(1.5) or good(n, b))
    start = time.monotonic()
    got, done = score(tmp_path, {"http": dict(url=s.url, timeout=0.3, retries=1, deadline=20)}, images)
    assert got == [None] * 6 and "imeout" in done.stderr and time.monotonic() - start < 8
    got, done = score(tmp_path, {"http": dict(url="http://127.0.0.1:9/", timeout=5, retries=20, deadline=1)}, images)
    assert got == [None] * 6 and time.monotonic() - start < 16


def test_http_waits_for_a_server_that_starts(images, tmp_path):
    """Refused connections are the deadline's: two seconds of them are more than no retries.  The address is named."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    late = []
    timer = threading.Timer(2, lambda: late.append(Server(good, port)))
    timer.start()
    got, done = score(tmp_path, {"http": dict(url=f"http://me:secret@127.0.0.1:{port}/v1", retries=0, deadline=60)}, images)
    timer.join()
    late[0].server.shutdown()
    late[0].server.server_close()
    assert np.allclose(got, true_means(images))
    assert f"http://127.0.0.1:{port}/v1: " in done.stderr and "secret" not in done.stderr and "deadline" in done.stderr


@pytest.mark.parametrize("status", [307, 308])
def test_http_redirected(serve, images, tmp_path, monkeypatch, status):
    """As FastAPI answers a path without its slash: the same post goes where it says, though never a token to another server."""
    monkeypatch.setenv("JUDGE_TOKEN", "s3cret")
    target = serve(good)
    s = serve(lambda n, body: (status, "", {"Location": target.url + "/"}))
    got, done = score(tmp_path, {"http": dict(url=s.url, batch=3, retries=0)}, images)
    assert np.allclose(got, true_means(images)) and len(target.requests) == 2 and done.stderr.count("redirects every request") == 1
    got, done = score(tmp_path, {"http": dict(url=s.url, batch=3, retries=0, token_env="JUDGE_TOKEN")}, images)
    assert got == [None] * 6 and len(target.requests) == 2 and "must not get the token" in done.stderr
    around = serve(lambda n, body: (status, "", {"Location": "/v1"}))
    got, done = score(tmp_path, {"http": dict(url=around.url, batch=6, retries=0, token_env="JUDGE_TOKEN")}, images)
    assert got == [None] * 6 and len(around.requests) == 6 and "redirected more than 5 times" in done.stderr


def test_http_proxy_is_not_for_this_machine(serve, images, tmp_path, monkeypatch):
    """Clusters export http_proxy everywhere.  Another machine's address goes through it."""
    s, proxy = serve(good), serve(lambda n, body: (404, "a proxy", {}))
    for name in "http_proxy", "all_proxy":
        monkeypatch.setenv(name, proxy.url)
    monkeypatch.delenv("no_proxy", raising=False)
    for host in "127.0.0.1", "localhost", "127.1.2.3":
        got, _ = score(tmp_path, {"http": dict(url=s.url.replace("127.0.0.1", host), retries=0, deadline=1)}, images[:1])
        assert not proxy.requests and (host == "127.1.2.3" or np.allclose(got, true_means(images[:1])))
    score(tmp_path, {"http": dict(url="http://judge.invalid/", retries=0, deadline=5)}, images[:1])
    assert len(proxy.requests) == 1


def test_http_many_at_once(serve, images, tmp_path):
    """Requests fly together: 6 that take half a second each need less than two in a row would."""
    s = serve(lambda n, b: time.sleep(0.5) or good(n, b))
    got, _ = score(tmp_path, {"http": dict(url=s.url, batch=1, in_flight=6)}, images)
    times = [t for t, *_ in s.requests]
    assert np.allclose(got, true_means(images)) and max(times) - min(times) < 0.45


# ---- openai ----------------------------------------------------------------------------------------


def chat(text):
    return 200, json.dumps(dict(choices=[dict(message=dict(content=text))])), {}


def test_openai(serve, images, tmp_path, monkeypatch):
    """The request as OpenAI has it; the last match counts; what is no score from 1 to 5 is none."""
    monkeypatch.setenv("KEY", "k")
    said = ["Final Score: 2.5", "first Final Score: 1, on reflection\nFinal Score:  4", "I like it.", "Final Score: 9", "Final Score: 5.", ""]

    def answer(n, body):
        text = body["messages"][0]["content"][1]["text"]
        return chat(said[int(re.search(r"prompt (\d)", text)[1])])

    s = serve(answer)
    got, done = score(tmp_path, {"openai": dict(url=s.url, model="judge", key_env="KEY")}, images)
    assert got == [0.5, 0.8, None, None, 1.0, None] and "no score from 1 to 5" in done.stderr
    for _, headers, body, _ in s.requests:
        image, text = body["messages"][0]["content"]
        assert headers["Authorization"] == "Bearer k" and (body["model"], body["temperature"]) == ("judge", 0)
        assert image["image_url"]["url"].startswith("data:image/png;base64,") and "{prompt}" not in text["text"]
        assert "\nFinal Score: X" in text["text"] and 'é"' in text["text"]
    got, _ = score(tmp_path, {"openai": dict(url=s.url, template="rate {prompt}", pattern="(\\d+)%", scale=0.01, low=0, high=100)}, images)
    assert got == [None] * 6


def says(content, **choice):
    return 200, json.dumps(dict(choices=[dict(message=content if isinstance(content, dict) else dict(content=content), **choice)])), {}


# What a model may answer, and the score that a person reads there; None: no score, and what is said.
ANSWERS = [
    ("Final Score: 1e-1", None), ("Final Score: 1e0", 1), ("Final Score: 4.5e0.", 4.5), ("Final Score: 4.50", 4.5), ("Final Score: +3", 3),
    ("**Final Score:** 4", 4), ("Final Score: **4**", 4), ("**Final Score: 3.5**", 3.5), ("### Final Score\n**Final Score**: `2`", 2), ("final score: 4", 4),
    ("> Final Score: _5_", 5), ("Final Score: 4/5", 4), ("Final Score: .5", None), ("Final Score: 3,5", None), ("Final Score: 3.4.1", None),
    ("Final Score: 4-5", None), ("Final Score: 0x2", None), ("Final Score: 4th", None), ("Final Score: -3", None), ("Final Score: 1e999", None),
    ("Final Score: 4 stars, out of 5.", 4), ("Final Score: X\nFinal Score: 2", 2), ("Final Score: four", None),
    ([dict(type="text", text="Final "), dict(type="text", text="Score: 4")], 4), ([dict(type="text", text=dict(value="Final Score: 2"))], 2),
    ([dict(type="refusal", refusal="I will not")], "refuses: I will not"), (dict(content=None, refusal="no people"), "refuses: no people"),
    (None, "no text (finish_reason stop)"), ([], "no text"), ("", "no text"), (dict(content=None, tool_calls=[]), "no text"),
]  # fmt: skip


def test_openai_answers(serve, images, tmp_path):
    """Numbers whole or not at all, in the markdown that chat models write; every shape of content that the schema allows."""
    for first in range(0, len(ANSWERS), 6):
        some = ANSWERS[first : first + 6]

        def answer(n, body, some=some):
            return says(some[int(re.search(r"prompt (\d)", body["messages"][0]["content"][1]["text"])[1])][0], finish_reason="stop")

        s = serve(answer)
        got, done = score(tmp_path, {"openai": dict(url=s.url, scale=1)}, images[: len(some)])
        assert got == [want if isinstance(want, (int, float)) else None for _, want in some], (some, got)
        for (_, want), row in zip(some, json.loads(done.stdout)["images"], strict=True):
            if not isinstance(want, (int, float)):
                assert (want or "no score from 1 to 5") in row["openai"]["why"], (want, row)


def test_openai_patterns(serve, images, tmp_path):
    """A group that takes no part in a match gives no score, and does not hide a later match that has one."""
    for pattern, text, want in [
        (r"none|(\d+)|n(/)a", "n/a", None), (r"(?i)score:\s*(\d+)?", "Score: let me think. Score: 4", 4), (r"N/A|(\d+)", "N/A, or rather 3", 3),
        (r"é*(\d)?", "ééé à 2", 2),
    ]:  # fmt: skip
        s = serve(lambda n, body, text=text: says(text, finish_reason="stop"))
        assert score(tmp_path, {"openai": dict(url=s.url, scale=1, pattern=pattern)}, images[:1])[0] == [want], pattern


def test_openai_keys(serve, images, tmp_path):
    """A question from a file, as it is; what is not to be sent; an answer that was cut off, perhaps within its number."""
    (tmp_path / "question.txt").write_text("Caption: [{prompt}]\nwith \\n as it is\n")
    s = serve(lambda n, body: says("Final Score: 4", finish_reason="length"))
    keys = dict(url=s.url, template_file=str(tmp_path / "question.txt"), temperature=-1, max_tokens=0, max_completion_tokens=900)
    got, done = score(tmp_path, {"openai": keys}, images[:1])
    body = s.requests[0][2]
    assert body["messages"][0]["content"][1]["text"] == 'Caption: [prompt 0 "é"]\nwith \\n as it is'
    assert "temperature" not in body and "max_tokens" not in body and body["max_completion_tokens"] == 900
    assert got == [None] and "cut off: raise max_tokens" in done.stderr
    s = serve(lambda n, body: says("Final Score: 4\nbecause", finish_reason="length"))
    assert score(tmp_path, {"openai": dict(url=s.url)}, images[:1])[0] == [0.8]
    (tmp_path / "question.txt").write_text("no place")
    assert "{prompt}" in score(tmp_path, {"openai": keys}, images[:1])[0]
    assert "No such file" in score(tmp_path, {"openai": keys | dict(template_file="none.txt")}, images[:1])[0]


@pytest.mark.parametrize("kind, quality", [("png", 95), ("jpeg", 95), ("jpeg", 30)])
def test_openai_image_kinds(serve, images, tmp_path, kind, quality):
    """What the judge sees: the sampled pixels as a PNG, or those that PIL's JPEG of that quality has."""
    s = serve(lambda n, body: chat("Final Score: 3"))
    got, _ = score(tmp_path, {"openai": dict(url=s.url, image=kind, jpeg_quality=quality, in_flight=1)}, images)
    assert np.allclose(got, 0.6)
    for file, (_, _, body, _) in zip(images, s.requests, strict=True):
        head, data = body["messages"][0]["content"][0]["image_url"]["url"].split(",")
        want = io.BytesIO()
        Image.open(file).save(want, kind, quality=quality)
        seen = Image.open(io.BytesIO(base64.b64decode(data)))
        assert head == f"data:image/{kind};base64" and seen.format == kind.upper()
        assert (np.array(seen) == np.array(Image.open(want))).all()


def test_openai_faults(serve, images, tmp_path):
    s = serve(lambda n, b: [(503, "busy", {}), (200, "{}", {}), (200, "?", {}), None, chat("Final Score: 3")][min(n - 1, 4)])
    got, done = score(tmp_path, {"openai": dict(url=s.url, in_flight=1, retries=2, timeout=5)}, images[:5])
    assert np.allclose([x for x in got if x is not None], 0.6) and got.count(None) == 2


@pytest.mark.parametrize("reward, message", [
    (dict(http={}), "rewards.http.url"), (dict(http=dict(url="ftp://x")), "must begin with http://"),
    (dict(http=dict(url="http://x", token_env="NOT_THERE")), "NOT_THERE"), (dict(openai=dict(key_env="NOT_THERE")), "NOT_THERE"),
    (dict(openai=dict(template="no place")), "{prompt}"), (dict(openai=dict(pattern="(")), "regular expression"),
    (dict(openai=dict(pattern="x")), "no group"), (dict(openai=dict(low=5)), "not below"), (dict(openai=dict(image="webp")), "webp"), (dict(openai=dict(jpeg_quality=0)), "jpeg_quality"),
    (dict(exec=dict(command=["/no/such/judge"])), "/no/such/judge"), (dict(exec={}), "rewards.exec.command"),
])  # fmt: skip
def test_mistakes(images, tmp_path, reward, message):
    (tmp_path / "c.yaml").write_text(json.dumps(dict(rewards=reward)))
    (tmp_path / "p.txt").write_text("x\n")
    assert message in fails("score", "--config", tmp_path / "c.yaml", "--prompts", tmp_path / "p.txt", images[0])


# ---- exec ------------------------------------------------------------------------------------------

CHILD = r"""
import json, os, struct, sys, time
def frame():
    head = sys.stdin.buffer.read(4)
    if len(head) < 4: sys.exit(0)
    return sys.stdin.buffer.read(struct.unpack("<I", head)[0])
def say(data):
    sys.stdout.buffer.write(struct.pack("<I", len(data)) + data); sys.stdout.buffer.flush()
count = os.path.join(sys.argv[1], "starts")
open(count, "a").write("x")
starts, mode, batch = len(open(count).read()), sys.argv[2], 0
while True:
    items = json.loads(frame())["items"]
    scores = [sum(frame()) / (3 * i["width"] * i["height"]) for i in items]
    batch += 1
    first = starts == 1 and batch == 1
    if mode == "dies" and first: os._exit(7)
    if mode == "killed" and first: os.kill(os.getpid(), 9)
    if mode == "hangs" and first: time.sleep(60)
    if mode == "dies always": os._exit(7)
    if mode == "prints" and first: print("hello, this is no frame"); sys.stdout.flush()
    if mode == "says why" and batch == 1: say(b'{"error": "out of memory"}'); continue
    if mode == "NaN": scores[0] = float("nan")
    if mode == "half" and first: sys.stdout.buffer.write(b"\x40\0\0\0{"); sys.stdout.buffer.flush(); os._exit(0)
    say(json.dumps({"scores": scores[:-1] if mode == "short" else scores}).encode())
"""


@pytest.mark.parametrize("mode, starts, available", [
    ("works", 1, 6), ("dies", 2, 6), ("killed", 2, 6), ("hangs", 2, 6), ("prints", 2, 6), ("half", 2, 6), ("dies always", 9, 0), ("short", 9, 0),
    ("says why", 1, 4), ("NaN", 1, 3),
])  # fmt: skip
def test_exec(images, tmp_path, mode, starts, available):
    (tmp_path / "child.py").write_text(CHILD)
    command = [sys.executable, str(tmp_path / "child.py"), str(tmp_path), mode]
    begun = time.monotonic()
    got, done = score(tmp_path, {"exec": dict(command=command, batch=2, timeout=0.3, retries=2)}, images)
    assert sum(x is not None for x in got) == available, done.stderr
    assert len((tmp_path / "starts").read_text()) == starts
    assert all(x is None or np.allclose(x, want) for x, want in zip(got, true_means(images), strict=True))
    if mode == "says why":
        assert "the reward says: out of memory" in done.stderr
    if mode == "dies always":  # a quarter of a second, then half of one, before each batch's second and third try
        assert time.monotonic() - begun > 3 * 0.75


def test_examples(images, tmp_path):
    got, _ = score(tmp_path, {"exec": dict(command=[sys.executable, str(ROOT / "examples/judge_exec.py")])}, images)
    for f, x in zip(images, got):
        a = np.array(Image.open(f)).astype(float)
        assert abs(x - a[..., 0].sum() / a.sum()) < 1e-9


# ---- plugin ----------------------------------------------------------------------------------------


def build_plugin(folder, name, text):
    (folder / f"{name}.c").write_text(text)
    subprocess.run(["cc", "-shared", "-fPIC", "-Wall", "-Werror", f"-I{ROOT}", "-o", folder / f"{name}.so", folder / f"{name}.c"], check=True)
    return str(folder / f"{name}.so")


def test_plugin(images, tmp_path):
    """The example, built as it says; one image below its bound is unavailable and not zero."""
    text = (ROOT / "examples/judge_plugin.c").read_text()
    blue = [float(a[..., 2].sum() / a.sum()) for a in (np.array(Image.open(f)).astype(float) for f in images)]
    least = sorted(blue)[1] - 1e-6
    got, done = score(tmp_path, {"plugin": dict(path=build_plugin(tmp_path, "blue", text), options=str(least))}, images)
    assert [x is None for x in got] == [b < least for b in blue] and got.count(None) == 1 and "too little blue" in done.stderr
    assert all(x is None or abs(x - b) < 1e-9 for x, b in zip(got, blue))
    refused = {
        "old": (text.replace("= CONTRAFLOW_PLUGIN_ABI,", "= 0,"), "version 0 of the interface"),
        "nameless": ("int x;", "exports no contraflow_reward()"), "options": (text, "are not a number"),
        "idle": (text.replace(".score = score, ", "").replace("static int score", "int score"), "has no score()"),
    }  # fmt: skip
    for name, (source, message) in refused.items():
        said, _ = score(tmp_path, {"plugin": dict(path=build_plugin(tmp_path, name, source), options="x" if name == "options" else "0")}, images)
        assert message in said and said.count("\n") == 1
    for path, message in [("blue.so", "no slash"), (str(tmp_path / "none.so"), "cannot load")]:
        said, _ = score(tmp_path, {"plugin": dict(path=path)}, images)
        assert message in said


HANGS = r"""
#include "rewards/judges/plugin.h"
#include <unistd.h>
static int score(void *state, const struct contraflow_item *item, int n, struct contraflow_score *out)
{
	for (int i = 0; i < n; i++) {
		while (item[i].height == HEIGHT)
			sleep(1);
		out[i] = (struct contraflow_score) { .value = 1, .ok = 1 };
	}
	return 0;
}
static const struct contraflow_reward hangs = { CONTRAFLOW_PLUGIN_ABI, "hangs", 0, score, 0 };
const struct contraflow_reward *contraflow_reward(void) { return &hangs; }
"""


def test_hanging_plugin(images, tmp_path):
    """A library that never returns takes its images with it, and neither the other rewards nor the end of the program."""
    rewards = dict(hangs=dict(type="plugin", path=build_plugin(tmp_path, "hangs", HANGS.replace("HEIGHT", "9")), deadline=0.3),
                   works=dict(type="plugin", path=build_plugin(tmp_path, "works", HANGS.replace("HEIGHT", "1"))))  # fmt: skip
    got, done = score(tmp_path, rewards, images)
    assert got == [None] * 6 and done.returncode == 1 and "hangs: no score within its deadline of 0.3 s" in done.stderr
    assert all(r["works"]["score"] == 1 and r["hangs"]["score"] is None for r in json.loads(done.stdout)["images"])


# ---- Several of one kind -----------------------------------------------------------------------------


def test_two_of_a_kind(serve, images, tmp_path):
    """Entries have names of their own; results and messages use them."""
    a, b = serve(good), serve(lambda n, body: (404, "gone", {}))
    rewards = dict(fast=dict(type="http", url=a.url, weight=2), slow=dict(type="http", url=b.url, weight=0.5), jpeg_compressibility={})
    got, done = score(tmp_path, rewards, images)
    assert got == [None] * 6 and "could not be scored: slow: " in done.stderr
    rows = json.loads(done.stdout)["images"]
    assert np.allclose([r["fast"]["score"] for r in rows], true_means(images)) and all(r["slow"]["score"] is None for r in rows)
    rewards["slow"]["url"] = a.url
    got, done = score(tmp_path, rewards, images)
    assert np.allclose(got, [2.5 * r["fast"]["score"] + r["jpeg_compressibility"]["score"] for r in json.loads(done.stdout)["images"]])


# ---- In training -----------------------------------------------------------------------------------


def test_training_with_judges(serve, tmp_path):
    """geneval and the JPEG's size in-process, brightness by exec and by http: any number of ranks gives the same
    advantages, and a judge that fails now and then takes samples away and changes no others' scores."""
    (tmp_path / "child.py").write_text(CHILD)
    s = serve(good)
    rewards = dict(geneval=dict(weight=1), jpeg_compressibility=dict(weight=0.5), http=dict(url=s.url, weight=0.01, batch=4),
                   exec=dict(command=[sys.executable, str(tmp_path / "child.py"), str(tmp_path), "works"], weight=-0.01))  # fmt: skip
    runs = []
    for ranks in 1, 2:
        args = [x for k, v in rewards.items() for x in ("--set", f"rewards.{k}={json.dumps(v)}")]
        contraflow("train", "configs/shapes.yaml", "--run", tmp_path / str(ranks), *TINY, *args, "--set", "train.max_steps=2", ranks=ranks)
        runs.append(read_lines(tmp_path / str(ranks) / "metrics.jsonl"))
    for a, b in zip(*runs):
        for key in "reward/mean", "reward/std", "reward/http", "reward/exec", "reward/geneval":
            assert abs(a[key] - b[key]) < 1e-4 * max(1, abs(a[key])), key
        assert abs(a["reward/http"] - a["reward/exec"]) < 1e-6 and a["reward/unavailable"] == 0
        total = a["reward/geneval"] + 0.5 * a["reward/jpeg_compressibility"]
        assert abs(a["reward/mean"] - total) < 1e-6  # the two judges cancel
    flaky = serve(lambda n, b: (400, "no", {}) if n % 3 == 0 else good(n, b))
    contraflow("train", "configs/shapes.yaml", "--run", tmp_path / "flaky", *TINY, "--set", "train.max_steps=1", "--set", "rewards.geneval={}",
               "--set", f"rewards.http={json.dumps(dict(url=flaky.url, weight=0.01, batch=2, in_flight=1, retries=0))}")  # fmt: skip
    row = read_lines(tmp_path / "flaky/metrics.jsonl")[0]
    assert 0 < row["reward/unavailable"] < 8 and np.isfinite(row["loss/policy"])
    # The same with a quorum: prompts go on without a judge that failed them, and lose no image.
    flaky = serve(lambda n, b: (400, "no", {}) if n % 3 == 0 else good(n, b))
    contraflow("train", "configs/shapes.yaml", "--run", tmp_path / "quorum", *TINY, "--set", "train.max_steps=1", "--set", "rewards.geneval={}",
               "--set", f"rewards.http={json.dumps(dict(url=flaky.url, weight=0.01, batch=2, in_flight=1, retries=0, quorum=1))}")  # fmt: skip
    row = read_lines(tmp_path / "quorum/metrics.jsonl")[0]
    assert row["reward/unavailable"] == 0 and 0 < row["reward/left_out"] <= 3 and np.isfinite(row["loss/policy"])
