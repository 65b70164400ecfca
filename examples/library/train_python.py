"""Training from Python, with nothing but ctypes: a reward that is a Python function, and an image of what was learnt.

    python3 train_python.py CONFIG STEPS ADAPTER OUT.ppm PROMPT KEY=VALUE ...

ADAPTER, a folder in PEFT's layout, must not exist. CONTRAFLOW_LIB says where the library is, if the loader does not know it."""

import ctypes as c
import json
import os
import sys


class Error(c.Structure):
    _fields_ = [("code", c.c_int), ("message", c.c_char * 1024)]


class Image(c.Structure):
    _fields_ = [("rgb", c.c_void_p), ("width", c.c_int), ("height", c.c_int), ("prompt", c.c_char_p), ("metadata", c.c_char_p), ("group", c.c_int64)]

    def pixels(self):
        return c.string_at(self.rgb, self.width * self.height * 3)


Rewards = c.CFUNCTYPE(c.c_int, c.c_void_p, c.POINTER(Image), c.c_int, c.POINTER(c.c_double))
lib = c.CDLL(os.environ.get("CONTRAFLOW_LIB", "libcontraflow.so.0"))
lib.contraflow_trainer_metrics.restype = c.c_char_p
lib.contraflow_trainer_pipeline.restype = c.c_void_p


def call(name, *args):
    """A function whose last argument is the error, which becomes an exception."""
    error = Error()
    if getattr(lib, f"contraflow_{name}")(*args, c.byref(error)):
        raise RuntimeError(error.message.decode())


def texts(words):
    """A list of strings as C has it, NULL at its end."""
    return (c.c_char_p * (len(words) + 1))(*[w.encode() for w in words], None)


@Rewards
def redness(_, images, n, reward):
    for i in range(n):
        rgb = images[i].pixels()
        reward[i] = (sum(rgb[0::3]) - sum(rgb[1::3]) / 2 - sum(rgb[2::3]) / 2) / len(rgb[0::3]) / 255
    return 0  # an exception in here would not get out


def main(config, steps, adapter, out, prompt, *settings):
    trainer, policy, width, height = c.c_void_p(), c.c_void_p(), c.c_int(), c.c_int()
    call("trainer_open", c.byref(trainer), config.encode(), texts(settings))
    for _ in range(int(steps)):
        call("trainer_step", trainer, redness, None)
        now = json.loads(lib.contraflow_trainer_metrics(trainer))
        print(f"step {now['step']}: mean reward {now['reward/mean']:.4f}")
    call("trainer_adapter", trainer, 0, c.byref(policy))
    call("adapter_export", policy, b"peft", None, adapter.encode())
    pipeline = c.c_void_p(lib.contraflow_trainer_pipeline(trainer))
    lib.contraflow_pipeline_size(pipeline, c.byref(width), c.byref(height))
    rgb = c.create_string_buffer(width.value * height.value * 3)
    call("sample", pipeline, policy, texts([prompt]), 1, c.c_int64(0), c.c_int64(0), rgb)
    with open(out, "wb") as f:
        f.write(b"P6 %d %d 255\n" % (width.value, height.value) + rgb.raw)
    lib.contraflow_adapter_free(policy)
    lib.contraflow_trainer_close(trainer)


if __name__ == "__main__":
    main(*sys.argv[1:])
