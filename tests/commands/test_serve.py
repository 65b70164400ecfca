"""contraflow serve-reward as those meet it who call it: real sockets, our own reward `http`, and rude strangers."""

import base64
import contextlib
import http.client
import io
import json
import os
import pathlib
import random
import re
import resource
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib

import numpy as np
import pytest
from command import FRAMES, ROOT, TINY, build, contraflow, fails, read_zst
from PIL import Image, ImageDraw, ImageFont

# Answers after the seconds that the prompt names ("wait 1.5"), with the mean of the image; None when it says "none".
JUDGE = FRAMES + r"""
import re, time
while True:
    items, scores = json.loads(frame())["items"], []
    for i in items:
        pixels, wait = frame(), re.search(r"wait ([\d.]+)", i["prompt"])
        time.sleep(float(wait[1]) if wait else 0)
        scores.append(None if "none" in i["prompt"] else sum(pixels) / len(pixels))
    answer(scores)
"""
JPEG = dict(jpeg_compressibility={})


class Server:
    def __init__(self, *args, env=None):
        self.process = subprocess.Popen(
            [build() / "contraflow", "serve-reward", "--port", "0", *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1", **(env or {})},
        )  # fmt: skip
        line = self.process.stdout.readline()
        assert line.startswith("listening on http://127.0.0.1:") and line.endswith("/score\n"), line + self.process.stderr.read()
        self.url = line.split()[-1]
        self.port = int(re.search(r":(\d+)/", self.url)[1])
        self.at_rest = self.left()  # without a connection

    def request(self, body=None, method="POST", path="/score", headers={}):
        """Status, JSON of the answer, headers."""
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        c.request(method, path, body if body is None or isinstance(body, bytes) else json.dumps(body), headers)
        r = c.getresponse()
        answer = r.status, json.loads(r.read() or b"null"), dict(r.getheaders())
        c.close()
        return answer

    def connect(self):
        return socket.create_connection(("127.0.0.1", self.port), timeout=60)

    def count(self, what):
        return len(list(pathlib.Path(f"/proc/{self.process.pid}/{what}").iterdir()))

    def children(self):
        found = []
        for task in pathlib.Path(f"/proc/{self.process.pid}/task").iterdir():
            with contextlib.suppress(FileNotFoundError):  # a thread that ended just now
                found += [int(pid) for pid in (task / "children").read_text().split()]
        return found

    def left(self):
        return self.count("fd"), self.count("task")

    def settles(self):
        """Everything that connections had is given back, which may take a moment after their end."""
        end = time.monotonic() + 20
        while self.left() != self.at_rest and time.monotonic() < end:
            time.sleep(0.1)
        assert self.left() == self.at_rest

    def stop(self, number=signal.SIGTERM):
        """What it said; it must end by itself, without an error."""
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=60)
        assert self.process.returncode == 0 and out == "", (self.process.returncode, err)
        return err


def is_gone(pid):
    """Or is a zombie, where the machine's first process leaves those lying."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        try:
            if ") Z" in pathlib.Path(f"/proc/{pid}/stat").read_text():
                return True
        except OSError:
            return True
        time.sleep(0.1)
    return False


@pytest.fixture
def serve(tmp_path):
    servers = []

    def start(rewards, *args, **kwargs):
        (tmp_path / "serve.yaml").write_text(json.dumps(dict(rewards=rewards)))
        servers.append(Server(tmp_path / "serve.yaml", *args, **kwargs))
        return servers[-1]

    yield start
    for s in servers:
        if s.process.poll() is None:
            s.process.kill()
            s.process.communicate()


@pytest.fixture
def judge(tmp_path):
    (tmp_path / "judge.py").write_text(JUDGE)
    return dict(type="exec", command=[sys.executable, str(tmp_path / "judge.py")], retries=0)


def make_image(seed, size=(24, 17), kind="PNG"):
    b = io.BytesIO()
    a = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    Image.fromarray(a).save(b, kind, **(dict(quality=90) if kind == "JPEG" else {}))
    return b.getvalue()


def item(image, prompt="p", **meta):
    return dict(prompt=prompt, meta=meta, image=base64.b64encode(image).decode())


def ask(*items):
    return dict(version=1, items=list(items))


def receive(s):
    """Everything until the other side hangs up."""
    data = b""
    while chunk := s.recv(65536):
        data += chunk
    return data


def post_head(size, extra=""):
    return f"POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n{extra}\r\n".encode()


# ---- Scores ----------------------------------------------------------------------------------------


@pytest.fixture
def signs(tmp_path):
    """Images of text, as PNG and JPEG, with prompts that ask for it or for something like it."""
    font = ImageFont.truetype(str(next(pathlib.Path("/usr/share/fonts").rglob("DejaVuSans-Bold.ttf"))), 40)
    files, prompts = [], []
    for i, (there, want) in enumerate([("OPEN", "open"), ("BREAD", "bead"), ("GARDEN", "warden"), ("", "nothing")]):
        im = Image.new("RGB", (240, 120), (240, 230, 200 + i))
        ImageDraw.Draw(im).text((120, 60), there, font=font, fill=(20, 20, 60), anchor="mm")
        files.append(tmp_path / f"{i}.{'jpg' if i % 2 else 'png'}")
        im.save(files[-1])
        prompts.append(dict(prompt=f'a sign "{want}" é', n=i, deep={"z": [1.5, None], "a": 0.1}))
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(p) + "\n" for p in prompts))
    return files, prompts


def in_process(folder, rewards, files):
    (folder / "score.yaml").write_text(json.dumps(dict(rewards=rewards)))
    return json.loads(contraflow("score", "--config", folder / "score.yaml", "--prompts", folder / "prompts.jsonl", *files).stdout)["images"]


def test_the_same_scores(serve, signs, judge, tmp_path):
    """To the last digit those of `contraflow score`: asked by hand, and by our own reward in batches of every size."""
    files, prompts = signs
    rewards = {"text": dict(type="ocr", weight=0.7), "size": dict(type="jpeg_compressibility", weight=0.3), "light": dict(judge, weight=0.1)}
    want = in_process(tmp_path, rewards, files)
    s = serve(rewards)
    status, answer, headers = s.request(ask(*(item(f.read_bytes(), **p) for f, p in zip(files, prompts))))
    assert status == 200 and headers["Content-Type"] == "application/json"
    assert [x["score"] for x in answer["scores"]] == [x["reward"] for x in want]
    assert [x["rewards"] for x in answer["scores"]] == [{k: x[k] for k in rewards} for x in want]
    assert len({x["reward"] for x in want}) == 4 and want[0]["text"]["score"] == 1
    for batch in 1, 3, 4:
        got = in_process(tmp_path, {"http": dict(url=s.url, batch=batch, in_flight=3)}, files)
        assert [x["reward"] for x in got] == [x["reward"] for x in want]


def test_sub_scores(serve, tmp_path):
    """GenEval's: an image is sent with the metadata that its rules need."""
    lines = (ROOT / "data/shapes/validation.jsonl").read_text().splitlines()[::13]
    (tmp_path / "prompts.jsonl").write_text("\n".join(lines))
    contraflow("shapes", "--render", tmp_path / "prompts.jsonl", "-o", tmp_path)
    files = [tmp_path / f"{i:05}.png" for i in range(len(lines))]
    files = files[:6] + files[:5:-1]  # the last ones are images of other prompts
    want = in_process(tmp_path, {"geneval": {}}, files)
    s = serve({"geneval": {}})
    got = s.request(ask(*(item(f.read_bytes(), **json.loads(l)) for f, l in zip(files, lines))))[1]["scores"]
    assert [x["rewards"]["geneval"] for x in got] == [x["geneval"] for x in want] and len({x["reward"] for x in want}) > 2
    assert "strict" in want[0]["geneval"] and any("found" in x["geneval"].get("why", "") for x in want)
    # ... and through `http`, beside another reward, under the names that it asks for
    s = serve({"size": dict(type="jpeg_compressibility", weight=0), "rules": dict(type="geneval")})
    names = ["strict", "correct"]
    got = in_process(tmp_path, {"far": dict(type="http", url=s.url, sub_scores=names)}, files)
    assert [{k: x["far"].get(k) for k in ("score", "why", *names)} for x in got] == [{k: x["geneval"].get(k) for k in ("score", "why", *names)} for x in want]
    config = ["--set", f"rewards.far={json.dumps(dict(type='http', url=s.url, sub_scores=names))}", "--reward", "far"]
    (tmp_path / "far.yaml").write_text("rewards: {}")
    done = contraflow("score", "--config", tmp_path / "far.yaml", *config, "--prompts", tmp_path / "prompts.jsonl", *files)
    assert json.loads(done.stdout)["summary"]["strict"] is not None


def test_training(serve, tmp_path):
    """A run whose judge is our server has the same bits as one that judges by itself; two ranks ask at once."""
    s = serve({"geneval": {}})
    states = []
    for name, *sets in ("own",), ("served", "rewards.geneval.type=http", f"rewards.geneval.url={s.url}", "rewards.geneval.batch=4"):
        sets = ["train.max_steps=2", "optimizer.lr=3e-4", *sets]
        contraflow("train", "configs/shapes.yaml", "--run", tmp_path / name, *TINY, *(x for v in sets for x in ("--set", v)), ranks=2)
        states.append(read_zst(tmp_path / name / "checkpoints/step-00000002/state.safetensors.zst"))
        lines = [json.loads(l) for l in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        assert len(lines) == 2 and all(l["reward/unavailable"] == 0 for l in lines)
    assert np.abs(states[0]["theta"]).max() > 1e-4
    for k in "theta", "old", "ema":
        assert np.array_equal(states[0][k], states[1][k])
    s.stop()


def test_what_cannot_be_scored(serve, judge):
    """It is {"error": why}, never a number, and the others keep their scores; so for our own reward as well."""
    s = serve({"ocr": dict(weight=1), "light": judge})
    items = [item(make_image(0), 'a "b"'), item(make_image(1), "no text"), item(make_image(2), 'none "b"'), item(make_image(3), 'a "c"')]
    status, answer, _ = s.request(ask(*items))
    scores = answer["scores"]
    assert status == 200 and ["score" in x for x in scores] == [True, False, False, True]
    for x, mean in zip(scores, (np.array(Image.open(io.BytesIO(base64.b64decode(i["image"])))).mean() for i in items)):
        assert x["rewards"]["light"]["score"] is None or abs(x["rewards"]["light"]["score"] - mean) < 1e-9
    assert scores[1]["error"].startswith("ocr: the prompt asks for no text") and scores[1]["rewards"]["ocr"] == {"score": None, "why": scores[1]["error"][5:]}
    assert scores[1]["rewards"]["light"]["score"] > 0 and scores[2]["error"].startswith("light: ")
    assert s.request(ask())[1] == {"scores": []}


def test_a_judge_that_hangs(serve, judge):
    """The deadline of the request: what is not scored is an error; the server lives on, and ends with its judge."""
    s = serve({"light": dict(judge, timeout=600)}, "--deadline", "1.5", "--threads", "1")
    status, answer, _ = s.request(ask(item(make_image(0), "wait 300")))
    assert status == 200 and answer["scores"][0]["error"] == "light: not scored in time"
    assert s.request(ask(item(make_image(0))))[1]["scores"][0]["error"] == "light: not scored in time"  # behind the other
    assert s.request(method="GET", path="/health")[0] == 200
    (child,) = s.children()
    s.stop()
    assert is_gone(child)


def test_a_slow_judge(serve, judge):
    """A connection is not idle while its request is scored."""
    s = serve({"light": judge}, "--idle", "1")
    c = http.client.HTTPConnection("127.0.0.1", s.port, timeout=60)
    for _ in range(2):
        c.request("POST", "/score", json.dumps(ask(item(make_image(0), "wait 3"))))
        assert "score" in json.loads(c.getresponse().read())["scores"][0]


# ---- Which rewards, and who may ask ----------------------------------------------------------------


def test_choice_of_rewards(serve, tmp_path):
    s = serve({"jpeg_compressibility": dict(weight=3), "geneval": {}}, "--reward", "jpeg_compressibility", "--quiet",
              "--set", "rewards.jpeg_compressibility.weight=5")  # fmt: skip
    one = s.request(ask(item(make_image(0))))[1]["scores"][0]
    assert list(one["rewards"]) == ["jpeg_compressibility"] and one["score"] == 5 * one["rewards"]["jpeg_compressibility"]["score"] < 0
    assert s.stop() == ""
    bare = Server("--reward", "jpeg_incompressibility")
    assert bare.request(ask(item(make_image(0))))[1]["scores"][0]["score"] == pytest.approx(-500 * one["score"] / 5)
    assert "serving jpeg_incompressibility, weight 1" in bare.stop(signal.SIGINT)


@pytest.mark.parametrize("args, message", [
    ([], "name a configuration or a reward"), (["--reward", "orc"], "did you mean 'ocr'?"), (["--reward", "ocr", "--set", "train.x=1"], "only keys of `rewards`"),
    (["{file}", "--reward", "jpeg_compresibility"], "did you mean 'jpeg_compressibility'?"), (["--reward", "ocr", "--port", "70000"], "[0, 65535]"),
    (["--reward", "ocr", "--token-env", "NOT_THERE"], "the environment variable NOT_THERE"), (["--reward", "ocr", "--token-env", "EMPTY"], "the environment variable EMPTY"),
    (["--reward", "ocr", "--token-env", "LINE"], "LINE has white space or control characters"), (["--reward", "ocr", "--quiet=false"], "--quiet takes no value"),
    (["--reward", "ocr", "--host", "no.such.host.invalid"], "cannot find the address 'no.such.host.invalid'"),
    (["--reward", "ocr", "--host", "0.0.0.0"], "0.0.0.0 can be reached from other machines: set a token"),
    (["--reward", "ocr", "--host", "::"], "set a token"), (["--reward", "ocr", "--requests", "0"], "[1, 10000]"),
    (["--reward", "ocr", "--idle", "nan"], "--idle"), (["--reward", "ocr", "--deadline", "-1"], "--deadline"),
    (["--reward", "ocr", "--port", "{taken}"], "Address already in use"), (["/no/such.yaml"], "/no/such.yaml"),
])  # fmt: skip
def test_mistakes(tmp_path, args, message, monkeypatch):
    monkeypatch.setenv("EMPTY", "")
    monkeypatch.setenv("LINE", "s3cret\n")
    (tmp_path / "c.yaml").write_text(json.dumps(dict(rewards=JPEG)))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        args = [a.format(file=tmp_path / "c.yaml", taken=taken.getsockname()[1]) for a in args]
        assert message in fails("serve-reward", *args)


def test_token(serve, tmp_path, signs, monkeypatch):
    """Missing, wrong in every way, right; /health is everybody's; the secret stands nowhere; other machines may ask then."""
    s = serve(JPEG, "--token-env", "JUDGE_TOKEN", env=dict(JUDGE_TOKEN="s3cret-Token"))
    body = ask(item(make_image(0)))
    for wrong in (None, "", "s3cret-Token", "Bearer", "Bearer ", "Bearer s3cret-Toke", "Bearer s3cret-TokenX", "Bearer S3cret-Token",
                  "Bearer s3cret-Tokens3cret-Token", "Basic s3cret-Token"):  # fmt: skip
        for path in "/score", "/nothing":
            status, answer, headers = s.request(body, path=path, headers={} if wrong is None else {"Authorization": wrong})
            assert status == 401 and headers["WWW-Authenticate"] == "Bearer" and "token" in answer["error"], (wrong, path)
    assert s.request(body, headers={"Authorization": "bearer s3cret-Token"})[0] == 200
    assert s.request(body, path="/nothing", headers={"Authorization": "Bearer s3cret-Token"})[0] == 404
    assert s.request(method="GET", path="/health")[:2] == (200, {"status": "ok"})
    monkeypatch.setenv("JUDGE_TOKEN", "s3cret-Token")
    files, _ = signs
    got = in_process(tmp_path, {"http": dict(url=s.url, token_env="JUDGE_TOKEN")}, files)
    assert [x["reward"] for x in got] == [x["reward"] for x in in_process(tmp_path, JPEG, files)]
    assert "s3cret" not in s.stop()
    s = subprocess.Popen([build() / "contraflow", "serve-reward", "--reward", "jpeg_compressibility", "--host", "0.0.0.0", "--port", "0",
                          "--token-env", "JUDGE_TOKEN"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # fmt: skip
    assert re.fullmatch(r"listening on http://0\.0\.0\.0:\d+/score\n", s.stdout.readline())
    s.terminate()
    assert "s3cret" not in "".join(s.communicate(timeout=60)) and s.returncode == 0


# ---- Requests that are wrong -----------------------------------------------------------------------


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of(w, h):
    """A small file that says it is so large."""
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", w, h, 8, 2, 0, 0, 0)) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


def jpeg_of(w, h):
    j = make_image(0, kind="JPEG")
    at = j.index(b"\xff\xc0") + 5
    return j[:at] + struct.pack(">HH", h, w) + j[at + 4 :]


good = item(make_image(0))
BAD = {
    "nothing": (b"", "JSON"), "garbage": (b"\xff\x00\x01", "JSON"), "cut": (json.dumps(ask(good)).encode()[:-40], "JSON"),
    "two": (b"{}{}", "JSON"), "list": (b"[]", "not an object"), "no version": (dict(items=[]), "version: is required"),
    "later version": (dict(version=2, items=[]), "version: 2 is not supported"), "version as text": (dict(version="1", items=[]), "version"),
    "no items": (dict(version=1), "items: is required"), "items no list": (dict(version=1, items=good), "items: is required, a list"),
    "item no object": (ask(good, 7), "items[1]: must be an object"), "no prompt": (ask({k: v for k, v in good.items() if k != "prompt"}), "items[0]: prompt"),
    "prompt a number": (ask(dict(good, prompt=7)), "items[0]: prompt: is required, a string"), "meta a list": (ask(good, dict(good, meta=[])), "items[1]: meta: must be an object"),
    "no image": (ask(dict(prompt="p")), "items[0]: image: is required"), "image null": (ask(dict(good, image=None)), "items[0]: image"),
    "spaces in base64": (ask(dict(good, image=good["image"][:8] + "\n" + good["image"][8:])), "items[0]: image: not base64"),
    "no padding": (ask(dict(good, image="QQ")), "not base64"), "neither": (ask(good, good, item(b"GIF89a")), "items[2]: image: neither PNG nor JPEG"),
    "cut PNG": (ask(good, item(make_image(1)[:-300])), "items[1]: image: not a valid PNG"), "cut JPEG": (ask(item(make_image(1, kind="JPEG")[:-300])), "items[0]: image: not a valid JPEG"),
    "wide PNG": (ask(item(png_of(9000, 1))), "items[0]: image: 9000 x 1 pixels"), "huge PNG": (ask(item(png_of(8100, 8000))), "more than 64000000 pixels"),
    "huge PNG for us": (ask(item(png_of(2**31 - 1, 2**31 - 1))), "items[0]: image"), "huge JPEG": (ask(good, item(jpeg_of(65500, 65500))), "items[1]: image"),
    "many pixels": (ask(*[item(png_of(6000, 6000))] * 2), "items[1]: image: with it the images have more than 64000000"),
    "deep": (b"[" * 100000, "JSON"), "values": (b'{"version":1,"items":[' + b"0," * 300000 + b"0]}", "more than 257000 JSON values"),
    "too many": (dict(version=1, items=[{}] * 257), "items: 257 are too many"), "twice a key": (b'{"version":1,"version":1,"items":[]}', "duplicate"),
    "no UTF-8": (b'{"version":1,"items":[{"prompt":"\xff\xfe"}]}', "decode byte 0xff"),
}  # fmt: skip


def test_bad_requests(serve):
    """400 with one line that names the item; the connection and the server go on."""
    s = serve(JPEG)
    c = http.client.HTTPConnection("127.0.0.1", s.port, timeout=60)
    for name, (body, message) in BAD.items():
        c.request("POST", "/score", body if isinstance(body, bytes) else json.dumps(body))
        r = c.getresponse()
        answer = json.loads(r.read())
        assert r.status == 400 and list(answer) == ["error"] and message in answer["error"] and "\n" not in answer["error"], (name, r.status, answer)
    address = c.sock.getsockname()
    c.request("POST", "/score", json.dumps(ask(good, dict(prompt="p", image=good["image"], meta=None, more=1))))
    assert "score" in json.loads(c.getresponse().read())["scores"][1] and c.sock.getsockname() == address  # one connection for all
    for method, path, status in [("GET", "/score", 405), ("PUT", "/score", 405), ("DELETE", "/health", 405), ("POST", "/health", 405), ("POST", "/", 404),
                                 ("GET", "/score/", 404), ("GET", "/../etc/passwd", 404), ("HEAD", "/health", 200)]:  # fmt: skip
        got, answer, headers = s.request(b"{}" if method in ("PUT", "POST") else None, method, path)
        assert got == status and (method == "HEAD" or "error" in answer), (method, path, got)
        assert status != 405 or headers["Allow"] == ("POST" if path == "/score" else "GET")


def test_bombs_cost_nothing(serve):
    """64 megapixels in a few bytes are refused by their headers: the server's memory stays where it was."""
    s = serve(JPEG, "--max-pixels", "1", "--max-side", "60000")

    def peak():
        return int(re.search(r"VmHWM:\s+(\d+)", pathlib.Path(f"/proc/{s.process.pid}/status").read_text())[1]) // 1024

    s.request(ask(good))
    before = peak()
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 8000, 8000, 8, 2, 0, 0, 0)) + chunk(b"IDAT", zlib.compress(b"\0" * (24001 * 8000)))
    status, answer, _ = s.request(ask(good, item(bomb + chunk(b"IEND", b""))))
    assert status == 400 and "items[1]: image: with it the images have more than 1000000 pixels" in answer["error"] and peak() - before < 30


def test_bodies(serve):
    """Too long: the answer comes without the body being kept, and even when all of it is sent first. Length untold: 411."""
    s = serve(JPEG, "--max-body", "1")
    long = json.dumps(ask(item(make_image(0, (800, 700))))).encode()
    assert len(long) > 1 << 20
    status, answer, _ = s.request(long)
    assert status == 413 and "1048576 bytes" in answer["error"]
    for head in post_head(1 << 40), post_head(2 << 20, "Expect: 100-continue\r\n"):
        with s.connect() as c:
            c.sendall(head)
            assert receive(c).startswith(b"HTTP/1.1 413 ")
    with s.connect() as c:  # a body that fits is asked for
        c.sendall(post_head(2, "Expect: 100-continue\r\n"))
        assert c.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        c.sendall(b"{}")
        assert c.recv(1000).startswith(b"HTTP/1.1 400 ")
    c = http.client.HTTPConnection("127.0.0.1", s.port, timeout=60)
    c.request("POST", "/score", iter([b"{}"]), {"Transfer-Encoding": "chunked"}, encode_chunked=True)
    assert c.getresponse().status == 411
    for head in b"POST /score HTTP/1.1\r\nHost: x\r\n\r\n", post_head(2, "Transfer-Encoding: chunked\r\n") + b"0\r\n\r\n":
        with s.connect() as c:
            c.sendall(head)
            assert b" 411 " in c.recv(1000).split(b"\r\n")[0]
    for size in "-1", "x", "99999999999999999999999":
        with s.connect() as c:
            c.sendall(post_head(size))
            assert re.match(rb"HTTP/1.1 4(00|13) ", c.recv(1000))
    assert s.request(ask(good))[0] == 200


# ---- Connections that behave badly -----------------------------------------------------------------


def test_half_closed(serve):
    """A client that has said all it has to say still hears the answer; one that stops within its body hears nothing."""
    s = serve(JPEG)
    body = json.dumps(ask(good)).encode()
    with s.connect() as c:
        c.sendall(post_head(len(body)) + body)
        c.shutdown(socket.SHUT_WR)
        assert receive(c).startswith(b"HTTP/1.1 200 ")
    with s.connect() as c:
        c.sendall(post_head(len(body)) + body[:-1])
        c.shutdown(socket.SHUT_WR)
        assert receive(c) == b""
    assert s.request(ask(good))[0] == 200


def test_slow_and_silent(serve):
    """Who says nothing is cut after --idle; who drips a byte at a time, in the headers or in the body, after the deadline."""
    s = serve(JPEG, "--idle", "1", "--deadline", "1")
    start = time.monotonic()
    with s.connect() as silent, s.connect() as headers, s.connect() as body:
        headers.sendall(b"POST /score HTTP/1.1\r\nHost: ")
        body.sendall(post_head(1000))
        alive = {headers: b"x", body: b"0"}
        while alive and time.monotonic() - start < 30:
            time.sleep(0.2)
            for c, byte in list(alive.items()):
                try:
                    c.sendall(byte)
                except OSError:
                    del alive[c]
        assert not alive and receive(silent) == b""
    assert s.request(ask(good))[0] == 200
    s.settles()


def test_many_clients(serve):
    """32 at once, each with its own images: nobody gets another's scores."""
    s = serve(JPEG)
    bodies = [ask(*(item(make_image(10 * k + i, (8 + k, 9))) for i in range(1 + k % 3))) for k in range(32)]
    alone = [s.request(b)[1] for b in bodies]
    assert len({json.dumps(a) for a in alone}) == 32
    wrong = []

    def client(k):
        c = http.client.HTTPConnection("127.0.0.1", s.port, timeout=60)
        for n in range(12):
            j = (k + 5 * n) % 32
            c.request("POST", "/score", json.dumps(bodies[j]))
            if json.loads(c.getresponse().read()) != alone[j]:
                wrong.append((k, n))

    threads = [threading.Thread(target=client, args=(k,)) for k in range(32)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong
    s.stop()


def test_overload(serve, judge):
    """More requests, or more connections, than there may be: 503 and when to come again, at once; the others are served."""
    s = serve({"light": judge}, "--requests", "2", "--connections", "6")
    slow, got = json.dumps(ask(item(make_image(0), "wait 2"))), []
    clients = [threading.Thread(target=lambda: got.append(s.request(slow.encode()))) for _ in range(2)]
    for t in clients:
        t.start()
    time.sleep(1)
    status, answer, headers = s.request(ask(good))
    assert status == 503 and headers["Retry-After"] == "1" and "too many requests at a time (at most 2)" in answer["error"]
    assert s.request(method="GET", path="/health")[0] == 200
    for t in clients:
        t.join()
    assert [g[0] for g in got] == [200, 200] and s.request(ask(good))[0] == 200
    idle = [s.connect() for _ in range(6)]
    time.sleep(0.5)
    status, answer, headers = s.request(ask(good))
    assert status == 503 and "too many connections (at most 6)" in answer["error"] and headers["Connection"] == "close"
    for c in idle:
        c.close()
    time.sleep(0.5)
    assert s.request(ask(good))[0] == 200


def test_connections_from_an_address(serve, judge):
    """One address has its share of the connections; others have the rest, and what is over it is told so."""
    s = serve({"light": judge}, "--per-address", "3")
    idle = [s.connect() for _ in range(3)]
    time.sleep(0.5)
    status, answer, headers = s.request(ask(good))
    assert status == 503 and "too many connections from your address (at most 3)" in answer["error"] and headers["Connection"] == "close"
    other = http.client.HTTPConnection("127.0.0.1", s.port, timeout=60, source_address=("127.0.0.2", 0))
    other.request("POST", "/score", json.dumps(ask(good)))
    assert other.getresponse().status == 200
    other.close()
    for c in idle:
        c.close()
    time.sleep(0.5)
    assert s.request(ask(good))[0] == 200
    s.stop()


def test_a_body_without_memory(serve, judge):
    """A body that no memory is left for is refused, and the server goes on."""
    s = serve({"light": judge}, "--max-body", "4000", "--per-address", "8")
    assert s.request(ask(good))[0] == 200
    taken = int(re.search(r"VmSize:\s+(\d+)", pathlib.Path(f"/proc/{s.process.pid}/status").read_text())[1]) * 1024
    resource.prlimit(s.process.pid, resource.RLIMIT_AS, (taken + (300 << 20), resource.RLIM_INFINITY))
    c = s.connect()
    c.sendall(b"POST /score HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 3000000000\r\n\r\n")
    said = c.recv(65536)
    assert b" 503 " in said.splitlines()[0] and b"Retry-After" in said, said
    while b"no memory for a body of 3000000000 bytes" not in said:
        more = c.recv(65536)
        assert more, said
        said += more
    c.close()
    assert s.request(ask(good))[0] == 200
    s.stop()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_shutdown(serve, judge, number):
    """Requests under way are answered whole, new connections refused, and nothing is left."""
    s = serve({"light": judge})
    got = []
    clients = [threading.Thread(target=lambda: got.append(s.request(ask(item(make_image(0), "wait 1.5"))))) for _ in range(2)]
    late = s.connect()
    (child,) = s.children()
    for t in clients:
        t.start()
    time.sleep(0.7)
    s.process.send_signal(number)
    time.sleep(0.3)
    with pytest.raises(ConnectionRefusedError):
        s.connect()
    body = json.dumps(ask(good)).encode()
    late.sendall(post_head(len(body)) + body)
    said = receive(late)
    assert said.startswith(b"HTTP/1.1 503 ") and b"shutting down" in said
    for t in clients:
        t.join()
    assert [g[0] for g in got] == [200, 200] and all("score" in g[1]["scores"][0] for g in got)
    assert all(g[2]["Connection"] == "close" for g in got)
    assert s.process.wait(timeout=60) == 0
    assert is_gone(child)


@pytest.mark.parametrize("first, second", [(signal.SIGINT, signal.SIGTERM), (signal.SIGTERM, signal.SIGINT)])
def test_a_second_signal(serve, judge, first, second):
    """Of either kind: it does not wait for what is under way."""
    s = serve({"light": judge})
    with s.connect() as c:
        body = json.dumps(ask(item(make_image(0), "wait 300"))).encode()
        c.sendall(post_head(len(body)) + body)
        time.sleep(0.3)
        s.process.send_signal(first)
        time.sleep(0.3)
        assert s.process.poll() is None
        s.process.send_signal(second)
        assert s.process.wait(timeout=20) == -second


def test_nothing_is_left_behind(serve):
    """1,000 bad requests of every kind, hang-ups and resets among them: no descriptor, no thread, no memory to speak of."""
    s = serve(JPEG, "--max-body", "1")
    r, bodies = random.Random(0), [b if isinstance(b, bytes) else json.dumps(b).encode() for b, _ in BAD.values()]

    def rude(i):
        c, body = s.connect(), r.choice(bodies)
        kind = i % 8
        c.sendall({0: b"", 1: b"what?\r\n\r\n", 2: b"GET /", 3: post_head(10**9), 4: post_head(len(body)) + body[: len(body) // 2],
                   5: post_head(5) + b"{", 6: b"PUT /nothing HTTP/1.1\r\nHost: x\r\n\r\n"}.get(kind, post_head(len(body)) + body))  # fmt: skip
        if kind in (3, 6) or (kind == 7 and i % 3):
            assert c.recv(10) == b"HTTP/1.1 4"
        if i % 5 == 0:  # a reset in place of an end
            c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        c.close()

    def resident():
        return int(re.search(r"VmRSS:\s+(\d+)", pathlib.Path(f"/proc/{s.process.pid}/status").read_text())[1]) / 1024

    for i in range(100):
        rude(i)
    s.settles()
    memory = resident()
    for i in range(1000):
        rude(i)
    s.settles()
    assert resident() - memory < 60
    assert s.request(ask(good))[0] == 200
    s.stop()
