"""The library, as a program of somebody else's sees it: the examples in C and Python, what it exports, what a call does when something fails within,
and the program itself as the oracle: the same images, scores and trained adapters."""

import concurrent.futures
import ctypes
import gc
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from command import BASE, ROOT, TINY, build, contraflow, read_zst

CONFIG, RED = "configs/shapes.yaml", "a photo of a red square"
SETTINGS = [w for w in TINY if w != "--set"] + ["train.max_steps=2", "checkpoint.every=1", "log.grid_every=0", "rollout.batch=8", "train.micro_batch=8"]
OPTIONS = [word for setting in SETTINGS for word in ("--set", setting)]


def environment(**more):
    env = {k: v for k, v in os.environ.items() if k != "LD_LIBRARY_PATH"}
    return {**env, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "CONTRAFLOW_LIB": str(build() / "library/libcontraflow.so.0"), **more}


def example(name, *args, check=True, **kwargs):
    env = kwargs.pop("env", environment())
    done = subprocess.run([build() / f"example_{name}", *map(str, args)], cwd=ROOT, env=env, capture_output=True, timeout=600, **kwargs)
    assert not check or done.returncode == 0, done.stderr
    return done


def read_ppm(path):
    data = path.read_bytes()
    header = re.match(rb"P6 (\d+) (\d+) 255\n", data)
    return np.frombuffer(data[header.end() :], np.uint8).reshape(int(header[2]), int(header[1]), 3)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of the program, of two steps with its own rewards."""
    folder = tmp_path_factory.mktemp("library")
    contraflow("train", CONFIG, "--run", folder / "run", *OPTIONS)
    return folder / "run"


@pytest.fixture(scope="module")
def python():
    """examples/library/train_python.py, and with it the library in this process."""
    os.environ.update(CONTRAFLOW_LIB=environment()["CONTRAFLOW_LIB"])
    spec = importlib.util.spec_from_file_location("library_train", ROOT / "examples/library/train_python.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.lib.contraflow_scorer_report.restype = ctypes.c_char_p
    module.lib.contraflow_trainer_steps.restype = ctypes.c_int64
    module.lib.contraflow_version.restype = ctypes.c_char_p
    module.call("set_threads", 1)
    return module


def opened(python, kind, *args):
    handle = ctypes.c_void_p()
    python.call(f"{kind}_open", ctypes.byref(handle), *args)
    return handle


def sample(python, pipeline, adapter, prompts, seed=0, first=0):
    w, h = ctypes.c_int(), ctypes.c_int()
    python.lib.contraflow_pipeline_size(pipeline, ctypes.byref(w), ctypes.byref(h))
    rgb = ctypes.create_string_buffer(len(prompts) * w.value * h.value * 3)
    python.call("sample", pipeline, adapter, python.texts(prompts), len(prompts), ctypes.c_int64(seed), ctypes.c_int64(first), rgb)
    return np.frombuffer(rgb.raw, np.uint8).reshape(len(prompts), h.value, w.value, 3)


# ---- Examples ----------------------------------------------------------------------------------------------------


def test_sample(run, tmp_path):
    """The images of `contraflow sample`, with an adapter and without."""
    from PIL import Image

    prompts = [RED, "a photo of a ring", RED]
    (tmp_path / "prompts.txt").write_text("\n".join(prompts))
    for adapter, option in ((run, ["--lora", run]), ("-", ["--model", BASE])):
        out, folder = tmp_path / "out.ppm", tmp_path / f"images{adapter == run}"
        example("sample_images", BASE, adapter, out, *prompts)
        contraflow("sample", *option, "--prompts", tmp_path / "prompts.txt", "--seed", 7, "--solver", "dpm2", "--steps", 10, "-d", folder)
        theirs = np.concatenate([np.asarray(Image.open(folder / f"{i:05}-0000.png").convert("RGB")) for i in range(3)])
        assert (read_ppm(out) == theirs).all() and theirs.std() > 1


def test_score(tmp_path):
    """Scores of the shapes world's rewards and of a JPEG's size, as `contraflow score` gives them."""
    from PIL import Image

    rgb = np.zeros((64, 64, 3), np.uint8)
    rgb[20:40, 20:40] = 255, 0, 0
    Image.fromarray(rgb).save(tmp_path / "image.png")
    meta = {"tag": "single_object", "include": [{"class": "square", "count": 1}], "prompt": "a photo of a square"}
    (tmp_path / "image.jsonl").write_text(json.dumps(meta) + "\n")
    ppm = b"P6 64 64 255\n" + rgb.tobytes()
    for config, option in ((CONFIG, ["--config", CONFIG]), ("-", ["--reward", "jpeg_compressibility", "--set", "rewards.jpeg_compressibility.weight=2"])):
        lines = example("score_image", config, meta["prompt"], json.dumps(meta), input=ppm).stdout.decode().splitlines()
        theirs = json.loads(contraflow("score", *option, tmp_path / "image.png").stdout)["images"][0]
        assert float(lines[0].split()[1]) == pytest.approx(theirs["reward"], rel=1e-5)
        name, value = lines[1].split()
        assert float(value) == pytest.approx(theirs[name]["score"], rel=1e-5)
        assert json.loads(lines[2])["scores"][0]["rewards"][name] == theirs[name]
    cut = example("score_image", "-", "x", "{}", check=False, input=ppm[:-1])
    assert cut.returncode == 1 and b"cut short" in cut.stderr


def test_train_in_c_and_python(tmp_path):
    """Two languages with one reward: the same bits. What was saved goes on, and the program samples with it and exports it."""
    settings = [s for s in SETTINGS if not s.startswith("train.max_steps")]
    example("train_steps", CONFIG, 2, tmp_path / "run", tmp_path / "c", *settings)
    done = subprocess.run([sys.executable, "examples/library/train_python.py", CONFIG, "2", tmp_path / "python", tmp_path / "p.ppm", RED, *settings], cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    weights = "adapter_model.safetensors"
    assert (tmp_path / "c" / weights).read_bytes() == (tmp_path / "python" / weights).read_bytes()
    assert re.findall(r"step (\d+)", done.stdout) == ["1", "2"]
    example("train_steps", CONFIG, 2, tmp_path / "run", tmp_path / "four", *settings)
    example("train_steps", CONFIG, 4, tmp_path / "run4", tmp_path / "straight", *settings)
    assert (tmp_path / "four" / weights).read_bytes() == (tmp_path / "straight" / weights).read_bytes() != (tmp_path / "c" / weights).read_bytes()
    contraflow("sample", "--lora", tmp_path / "run", "--prompt", RED, "--steps", 2, "-o", tmp_path / "x.png")
    contraflow("export", tmp_path / "run", "--format", "diffusers", "-o", tmp_path / "x.safetensors")
    refused = contraflow("train", "--resume", "--run", tmp_path / "run", check=False)
    assert refused.returncode and "library" in refused.stderr


def test_two_threads(run, tmp_path):
    """Two models with two adapters at the same time: what each gives alone. A handle knows nothing of the other."""
    example("train_steps", CONFIG, 1, tmp_path / "other", tmp_path / "adapter", *SETTINGS)
    differ = lambda a, b: int(example("two_models", BASE, a, b, RED, 6).stdout.split()[0])
    assert differ(run, run) == 0 and differ(run, tmp_path / "adapter") > 0


def learnt(python, seed, out):
    """An adapter of two steps with a reward in Python."""
    trainer = opened(python, "trainer", CONFIG.encode(), python.texts([*SETTINGS, f"run.seed={seed}"]))
    policy = ctypes.c_void_p()
    for _ in range(2):
        python.call("trainer_step", trainer, python.redness, None)
    python.call("trainer_adapter", trainer, 2, ctypes.byref(policy))
    python.call("adapter_export", policy, b"kohya", None, str(out).encode())
    python.lib.contraflow_adapter_free(policy)
    python.lib.contraflow_trainer_close(trainer)
    return out.read_bytes()


def test_two_trainers_at_once(python, tmp_path):
    """The same bits as one after the other."""
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda seed: learnt(python, seed, tmp_path / f"both{seed}.safetensors"), (1, 2)))
    assert both == [learnt(python, seed, tmp_path / f"alone{seed}.safetensors") for seed in (1, 2)] and both[0] != both[1]


# ---- The program as the oracle -------------------------------------------------------------------------------------


def train(python, steps, score, *more, array=False):
    trainer = opened(python, "trainer", CONFIG.encode(), python.texts([*SETTINGS, *more]))
    images, n = ctypes.POINTER(python.Image)(), ctypes.c_int()
    for _ in range(steps):
        if array:
            python.call("trainer_sample", trainer, ctypes.byref(images), ctypes.byref(n))
            reward = (ctypes.c_double * n.value)()
            score(None, images, n.value, reward)
            python.call("trainer_learn", trainer, reward, n)
        else:
            python.call("trainer_step", trainer, score, None)
    return trainer


@pytest.mark.parametrize("array", [False, True])
def test_training_has_the_programs_bits(python, run, tmp_path, array):
    """Theta, old, ema and Adam's moments, and the numbers that metrics.jsonl has, of a trainer whose rewards are another handle's."""
    scorer = opened(python, "scorer", CONFIG.encode(), python.texts(["device=cpu"]))
    score = lambda _, images, n, reward: python.lib.contraflow_score(scorer, images, n, reward, None, None)
    trainer = train(python, 2, score if array else python.Rewards(score), array=array)
    python.call("trainer_save", trainer, str(tmp_path / "run").encode())
    name = "checkpoints/step-00000002/"
    mine, theirs = (read_zst(p / name / "state.safetensors.zst") for p in (tmp_path / "run", run))
    assert mine.keys() == theirs.keys() and all((mine[k].view(np.uint8) == theirs[k].view(np.uint8)).all() for k in mine)
    assert np.abs(theirs["theta"]).max() > 0 and (theirs["theta"] != theirs["ema"]).any()
    weights = name + "lora/adapter_model.safetensors"
    assert (tmp_path / "run" / weights).read_bytes() == (run / weights).read_bytes()
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    mine, theirs = json.loads(python.lib.contraflow_trainer_metrics(trainer)), rows[-1]
    same = [k for k in theirs if not k.startswith(("time/", "memory/", "reward/geneval", "reward/strict", "scoring/", "ranks/"))]
    assert len(same) > 15 and all(mine[k] == theirs[k] for k in same)
    policy = ctypes.c_void_p()
    python.call("trainer_adapter", trainer, 0, ctypes.byref(policy))
    python.call("adapter_export", policy, b"peft", None, str(tmp_path / "out").encode())
    assert (tmp_path / "out/adapter_model.safetensors").read_bytes() == (run / weights).read_bytes()
    python.lib.contraflow_adapter_free(policy)
    python.lib.contraflow_trainer_close(trainer)
    python.lib.contraflow_scorer_close(scorer)


def test_the_programs_run_goes_on(python, run, tmp_path):
    """From its checkpoint of step 1, to its step 2."""
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run/checkpoints/latest").write_text("step-00000001")
    scorer = opened(python, "scorer", CONFIG.encode(), None)
    score = python.Rewards(lambda _, images, n, reward: python.lib.contraflow_score(scorer, images, n, reward, None, None))
    trainer = train(python, 0, score)
    python.call("trainer_resume", trainer, str(tmp_path / "run").encode())
    assert python.lib.contraflow_trainer_steps(trainer) == 1
    python.call("trainer_step", trainer, score, None)
    python.call("trainer_save", trainer, str(tmp_path / "mine").encode())
    mine, theirs = (read_zst(p / "checkpoints/step-00000002/state.safetensors.zst") for p in (tmp_path / "mine", run))
    assert all((mine[k] == theirs[k]).all() for k in theirs)
    python.lib.contraflow_trainer_close(trainer)
    python.lib.contraflow_scorer_close(scorer)


# ---- Mistakes ------------------------------------------------------------------------------------------------------


def test_mistakes(python, run, tmp_path):
    """A message and nothing else: nothing on stderr, and the handle goes on."""

    def fails(says, name, *args):
        with pytest.raises(RuntimeError, match=says):
            python.call(name, *args)

    handle, out = ctypes.c_void_p(), ctypes.byref(ctypes.c_void_p())
    fails("no such|cannot|model_index", "pipeline_open", out, b"/nonexistent", None)
    fails("stepz.*steps", "pipeline_open", out, BASE.encode(), python.texts(["stepz=3"]))
    fails("steps", "pipeline_open", out, BASE.encode(), python.texts(["steps=0"]))
    fails("NULL", "pipeline_open", None, BASE.encode(), None)
    fails("rewards", "scorer_open", out, None, None)
    fails("only", "scorer_open", out, None, python.texts(["train.max_steps=1"]))
    for setting, says in (("prompts.draw=9", "prompts.draw"), ("ranks.reward=1", "ranks.reward"), ("stages={a: {}}", "stages"), ("prompts.sets={a: {train: data/shapes/train.jsonl}}", "sets"), ("train.max_step=3", "max_steps")):
        fails(says, "trainer_open", out, CONFIG.encode(), python.texts([*SETTINGS, setting]))
    pipeline = opened(python, "pipeline", BASE.encode(), python.texts(["solver=dpm2", "steps=3", "device=cpu"]))
    before = sample(python, pipeline, None, [RED, RED])
    fails("dtype", "pipeline_set", pipeline, b"dtype=bfloat16")
    fails("steps", "pipeline_set", pipeline, b"steps=many")
    fails("adapter|no such|cannot", "adapter_load", out, pipeline, b"/nonexistent")
    assert (sample(python, pipeline, None, [RED, RED]) == before).all() and (before[0] != before[1]).any()
    assert (sample(python, pipeline, None, [RED], first=1) == before[1]).all()
    python.call("pipeline_set", pipeline, b"steps=4")
    assert (sample(python, pipeline, None, [RED, RED]) != before).any()
    python.call("pipeline_set", pipeline, b"steps=3")
    assert (sample(python, pipeline, None, [RED, RED]) == before).all()
    python.lib.contraflow_pipeline_close(pipeline)
    trainer = opened(python, "trainer", CONFIG.encode(), python.texts([*SETTINGS, "train.max_steps=1"]))
    fails("comes first", "trainer_learn", trainer, (ctypes.c_double * 15)(), 15)
    images, n = ctypes.POINTER(python.Image)(), ctypes.c_int()
    python.call("trainer_sample", trainer, ctypes.byref(images), ctypes.byref(n))
    first = images[0].pixels()
    assert n.value == 15 and images[14].group == 2
    fails("n is not", "trainer_learn", trainer, (ctypes.c_double * 15)(), 14)
    fails("infinite", "trainer_learn", trainer, (ctypes.c_double * 15)(float("inf")), 15)
    fails("has begun", "trainer_save", trainer, str(tmp_path / "run").encode())
    fails("made again", "trainer_step", trainer, python.Rewards(lambda *_: 1), None)
    python.call("trainer_sample", trainer, ctypes.byref(images), ctypes.byref(n))
    assert images[0].pixels() == first
    fails("no reward", "trainer_step", trainer, python.Rewards(lambda *_: 0), None)  # all stay NaN
    python.call("trainer_step", trainer, python.redness, None)
    fails("max_steps", "trainer_step", trainer, python.redness, None)
    fails("no checkpoint", "trainer_resume", trainer, str(tmp_path / "empty").encode())
    python.lib.contraflow_trainer_close(trainer)


def test_log(python):
    """Silent until somebody listens, and in lines then."""
    heard = []
    take = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p)(lambda _, level, line: heard.append((level, line)))
    python.lib.contraflow_set_log(take, None)
    trainer = opened(python, "trainer", CONFIG.encode(), python.texts([*SETTINGS, "eval.sampler.graphs=true"]))
    python.lib.contraflow_set_log(None, None)
    python.lib.contraflow_trainer_close(trainer)
    assert any(level == 1 and b"graphs" in line for level, line in heard) and all(b"\n" not in line for _, line in heard)


@pytest.mark.parametrize("at", [3, 40, 150, 400])
def test_no_memory(tmp_path, at):
    """An allocation that fails is an error like others."""
    done = example("sample_images", BASE, "-", tmp_path / "x.ppm", RED, check=False, env=environment(CONTRAFLOW_FAULT=f"alloc:{at}:ENOMEM"))
    lines = [line for line in done.stderr.splitlines() if not line.startswith(b"fault: ")]  # which the fault itself says
    assert done.returncode == 1 and len(lines) == 1 and lines[0].startswith(b"sample_images: out of memory"), done


PANIC = r"""
#include <contraflow.h>
#include <stdio.h>
#include <string.h>
/* libtorch refuses to allocate what does not fit into the address space. */
#include <stdlib.h>
#include <sys/resource.h>
int main(int argc, char **argv)
{
	const char *const settings[] = { "solver=dpm2", "steps=2", "batch=4096", "device=cpu", NULL };
	struct contraflow_pipeline *p, *q;
	struct contraflow_error e = { 0 };
	static const char *prompt[4096];
	static unsigned char one[1 << 16];
	unsigned char *rgb = malloc((size_t)4096 << 16);
	for (int i = 0; i < 4096; i++)
		prompt[i] = argv[2];
	if (argc != 3 || contraflow_pipeline_open(&p, argv[1], settings, &e) || contraflow_pipeline_open(&q, argv[1], settings, &e) ||
	    contraflow_sample(q, NULL, prompt, 1, 0, 0, one, &e))
		return printf("%s\n", e.message), 3;
	FILE *f = fopen("/proc/self/statm", "r");
	unsigned long pages = 0;
	if (!f || fscanf(f, "%lu", &pages) != 1)
		return 4;
	fclose(f);
	struct rlimit tight = { (pages << 12) + (32 << 20), RLIM_INFINITY };
	setrlimit(RLIMIT_AS, &tight);
	int failed = contraflow_sample(p, NULL, prompt, 4096, 0, 0, rgb, &e), code = e.code;
	printf("%d %d %s\n", failed, code, e.message);
	struct rlimit wide = { RLIM_INFINITY, RLIM_INFINITY };
	setrlimit(RLIMIT_AS, &wide);
	printf("%d", contraflow_sample(p, NULL, prompt, 1, 0, 0, rgb, &e));
	printf(" %s\n", e.message);
	printf("%d", contraflow_sample(q, NULL, prompt, 1, 0, 0, rgb, &e));
	printf(" %d\n", memcmp(rgb, one, 64));
	contraflow_pipeline_close(p);
	contraflow_pipeline_close(q);
	return 0;
}
"""


def test_a_failed_operation(tmp_path):
    """Its message comes back, its handle is broken, and the other one goes on."""
    source, program = tmp_path / "panic.c", tmp_path / "panic"
    source.write_text(PANIC)
    subprocess.run(["cc", "-Wall", "-Werror", "-I", ROOT / "library", source, "-o", program, "-L", build() / "library", "-lcontraflow", f"-Wl,-rpath,{build()}/library"], check=True)
    done = subprocess.run([program, BASE, RED], cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0 and not done.stderr, (done.returncode, done.stdout, done.stderr)
    lines = done.stdout.splitlines()
    assert lines[0].startswith("-1 2 ") and "memory" in lines[0], lines
    assert lines[1].startswith("-1 an earlier call failed") and lines[2] == "0 0"


class Heap(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()]


def test_nothing_stays_allocated(python, tmp_path):
    """Model, adapter, images, scores and a step of training, opened and closed again and again: the heap is as large as before."""
    heap = ctypes.CDLL(None).mallinfo2
    heap.restype = Heap

    def turn(i):
        pipeline, adapter = opened(python, "pipeline", BASE.encode(), python.texts(["steps=2"])), ctypes.c_void_p()
        trainer = opened(python, "trainer", CONFIG.encode(), python.texts(SETTINGS))
        scorer = opened(python, "scorer", CONFIG.encode(), None)
        python.call("trainer_step", trainer, python.redness, None)
        python.call("trainer_save", trainer, str(tmp_path / str(i)).encode())
        python.call("adapter_load", ctypes.byref(adapter), pipeline, str(tmp_path / str(i)).encode())
        image = python.Image(sample(python, pipeline, adapter, [RED]).ctypes.data, 16, 16, RED.encode(), b"{}", 0)
        python.call("score", scorer, ctypes.byref(image), 1, ctypes.byref(ctypes.c_double()), None)
        python.lib.contraflow_adapter_free(adapter)
        python.lib.contraflow_pipeline_close(pipeline)
        python.lib.contraflow_trainer_close(trainer)
        python.lib.contraflow_scorer_close(scorer)
        gc.collect()
        now = heap()
        return now.uordblks + now.hblkhd

    sizes = [turn(i) for i in range(6)]
    assert max(sizes[3:]) - sizes[2] < 20_000, sizes  # Python's own objects; an adapter alone has 500,000


# ---- What is seen from outside -------------------------------------------------------------------------------------


def test_symbols():
    """Functions of the header with the version's name, and nothing else."""
    library = build() / "library/libcontraflow.so.0"
    out = subprocess.run(["nm", "-D", "--defined-only", library], capture_output=True, text=True, check=True).stdout
    rows = [line.split()[1:] for line in out.splitlines()]
    declared = set(re.findall(r"\b(contraflow_\w+)\(", re.sub(r"/\*.*?\*/", "", (ROOT / "library/contraflow.h").read_text(), flags=re.S)))
    assert ["A", "CONTRAFLOW_0.1"] in rows
    rows.remove(["A", "CONTRAFLOW_0.1"])
    assert len(declared) == 30 and {tuple(r) for r in rows} == {("T", f"{name}@@CONTRAFLOW_0.1") for name in declared}
    dynamic = subprocess.run(["readelf", "-dW", library], capture_output=True, text=True, check=True).stdout
    assert "[libcontraflow.so.0]" in dynamic and "NODELETE" in dynamic


def test_header_stands_alone(tmp_path):
    """In C99 and C++, without anything else of the project."""
    shutil.copy(ROOT / "library/contraflow.h", tmp_path)
    for compiler, end in ((["cc", "-std=c99"], "c"), (["c++", "-std=c++11"], "cpp")):
        (tmp_path / f"x.{end}").write_text("#include <contraflow.h>\nstruct contraflow_error e;\n")
        subprocess.run([*compiler, "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-I", tmp_path, "-c", f"x.{end}", "-o", "x.o"], cwd=tmp_path, check=True)


VALGRIND = "valgrind -q --leak-check=full --show-leak-kinds=definite --errors-for-leak-kinds=definite --error-exitcode=9 --num-callers=40".split()
SMALL = ["prompts.test=", "prompts.groups=1", "prompts.group_size=2", "rollout.steps=3", "train.timestep_fraction=0.99"]


@pytest.mark.skipif(not shutil.which("valgrind") or "CONTRAFLOW_VALGRIND" not in os.environ, reason="takes minutes: CONTRAFLOW_VALGRIND=1, with valgrind")
@pytest.mark.parametrize("name", ["sample_images", "train_steps"])
def test_valgrind(name, tmp_path):
    """Nothing is lost, and nothing is read that is not there; nothing is suppressed."""
    args = {"sample_images": [BASE, "-", tmp_path / "x.ppm", RED], "train_steps": [CONFIG, 1, tmp_path / "run", tmp_path / "adapter", *SMALL]}
    program = build() / f"example_{name}"
    done = subprocess.run([*VALGRIND, program, *map(str, args[name])], cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=3000)
    assert done.returncode == 0 and not re.search(r"^==\d+== (?!Warning: set address range)", done.stderr, re.M), done.stderr
