"""What the tests of every model family share.  A family is a module (flux.py is one) with

    make(words, **changes)                a pipeline of diffusers with random weights; `words`: tokenizers' folder and sizes
    save(pipe, words, folder)             as the hub has it
    text(pipe, prompts, length)           what `probe text` answers
    inputs(pipe, size, n)                 what `probe transformer` takes, for n images of size pixels
    velocity(transformer, inputs, dtype)  eps - x0 as latents
    image(pipe, prompts, start, size, guidance, length, negative, steps)   latents at the end
    latents(pipe, size, n)                at the start
    LAYERS                                its transformer's module names, for adapters on all of them
    decode(vae, x0)                       pixels of such latents, where the VAE is not AutoencoderKL

and the checks here compare the program with it."""

import json
import os
import pathlib
import subprocess

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from PIL import Image
from safetensors.torch import load_file, save_file
from sd3 import ROOT, contraflow, error
from sd3 import probe as golden_probe

PROMPTS = ["a photo of a red circle", "", "two dogs left of a café — 'don't' 日本 " * 12, "x"]
# As golden_probe names what `probe transformer` takes.
SHORT = dict(hidden_states="x", timestep="t", encoder_hidden_states="text", pooled_projections="pooled", guidance="guidance", lengths="lengths")


def probe(folder, component, inputs, *args, prompts=None):
    meta = {"prompts": json.dumps(prompts)} if prompts else None
    save_file({k: v.contiguous() for k, v in inputs.items()}, folder / "in.safetensors", meta)
    contraflow("probe", component, "--model", folder, "--in", folder / "in.safetensors", "--out", folder / "out.safetensors", *args)
    return load_file(folder / "out.safetensors")


def probe_text(folder, *args):
    return probe(folder, "text", {"unused": torch.zeros(1)}, *args, prompts=PROMPTS)


def check_text(family, pipe, folder, length):
    """Embeddings of all prompts, and the length that the family has where nobody asks for one."""
    out = probe_text(folder, "--text-length", length)
    for name, want in family.text(pipe, PROMPTS, length).items():
        assert error(out[name], want) < 1e-5, name


def check_vae(pipe, folder, z, size):
    c = pipe.vae.config
    with torch.no_grad():
        want = pipe.vae.decode(z / c.scaling_factor + c.shift_factor, return_dict=False)[0]
    assert error(probe(folder, "vae-decode", {"latents": z})["sample"], want) < 1e-5
    image = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(9)) * 2 - 1
    with torch.no_grad():
        want = (pipe.vae.encode(image).latent_dist.mean - c.shift_factor) * c.scaling_factor
    assert error(probe(folder, "vae-encode", {"image": image})["latents"], want) < 1e-5


def decode(family, vae, x0):
    if hasattr(family, "decode"):
        return family.decode(vae, x0)
    return vae.decode(x0 / vae.config.scaling_factor + vae.config.shift_factor, return_dict=False)[0]


def check_transformer(family, pipe, folder, size):
    inputs = family.inputs(pipe, size, 3)
    with torch.no_grad():
        assert error(probe(folder, "transformer", inputs)["sample"], family.velocity(pipe.transformer, inputs)) < 1e-5


def sample(folder, prompts, start, size, guidance, length, negative, steps, *more):
    """Ours: latents at the end and, of a row of images, the picture."""
    save_file({"latents": start}, folder / "start.safetensors")
    asked = [x for p in prompts for x in ("--prompt", p)]
    contraflow("sample", "--model", folder, *asked, "--steps", steps, "--guidance", guidance, "--negative", negative, "--latents",
               folder / "start.safetensors", "--save-latents", folder / "x0.safetensors", "--height", size[0], "--width", size[1],
               "--text-length", length, "--columns", len(prompts), "-o", folder / "grid.png", *more)  # fmt: skip
    return load_file(folder / "x0.safetensors")["latents"], np.array(Image.open(folder / "grid.png").convert("RGB")).astype(np.float32)


def check_image(family, pipe, folder, size, length, guidance, negative=""):
    """Ten steps from the same latents, then the decoder: latents to 1e-4, images within one level."""
    start, prompts, (h, w) = family.latents(pipe, size, 2), PROMPTS[:3:2], size
    args = [size, guidance, length, negative, 10]
    with torch.no_grad():
        want = family.image(pipe, prompts, start.clone(), *args)
        decoded = decode(family, pipe.vae, want)
    x0, grid = sample(folder, prompts, start, *args)
    assert error(x0, want) < 1e-4
    for i, image in enumerate(((decoded / 2 + 0.5).clamp(0, 1) * 255).round().permute(0, 2, 3, 1).numpy()):
        at = 2 + i * (w + 2)  # a frame of two pixels
        assert np.abs(grid[2 : 2 + h, at : at + w] - image).max() <= 1


def check_low_precision(family, pipe, folder, size, length, guidance, dtype, slack):
    """16-bit weights and activations: no further from float32 than `slack` times what diffusers' own 16 bits are."""
    low, start, inputs = getattr(torch, dtype), family.latents(pipe, size, 2), family.inputs(pipe, size, 2)

    def run(pipe, dtype):
        with torch.no_grad():
            x0 = family.image(pipe, PROMPTS[:3:2], start.to(dtype), size, guidance, length, "", 10)
            return dict(family.text(pipe, PROMPTS, length), v=family.velocity(pipe.transformer, inputs, dtype), x0=x0)

    exact = run(pipe, torch.float32)
    theirs = run(pipe.to(low), low)
    more = ["--dtype", dtype]
    ours = dict(probe_text(folder, "--text-length", length, *more), v=probe(folder, "transformer", inputs, *more)["sample"],
                x0=sample(folder, PROMPTS[:3:2], start, size, guidance, length, "", 10, *more)[0])  # fmt: skip
    assert torch.equal(ours["lengths"], exact.pop("lengths"))
    for key in exact:
        mine, other = error(ours[key], exact[key]), error(theirs[key], exact[key])
        print(f"{dtype}: {key}: {mine:.2e}, diffusers {other:.2e}, ratio {mine / other:.2f}")
        assert mine <= slack.get(key, 1.1) * other, key


# ---- Adapters ------------------------------------------------------------------------------------------------------------------


def add_adapter(model, targets, rank=4, alpha=6, seed=2, **more):
    """PEFT's adapter on the model (in place), all values random."""
    with_pairs = get_peft_model(model, LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets, **more))
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in with_pairs.named_parameters():
            if "lora_" in name:
                p.copy_(torch.randn(p.shape, generator=g) / p.shape[1] ** 0.5)
    return with_pairs.eval()


def ours(folder, inputs, g=None, dtype="float32", adapter=None):
    """What golden_probe computes for FOLDER/transformer: a dict of tensors."""
    given = {SHORT[k]: v.contiguous() for k, v in inputs.items()}
    save_file({**given, **({} if g is None else {"g": g})}, folder / "in.safetensors")
    args = [folder / "transformer", folder / "in.safetensors", folder / "out.safetensors", dtype]
    golden_probe("forward", *args, *([adapter] if adapter else []))
    return load_file(folder / "out.safetensors")


def check_gradients(family, pipe, folder, size, targets, rank, alpha, again=0):
    """Velocities with an adapter on the fly, merged and beside the weights, and gradients of its pairs, against PEFT's.
    `again`: how far gradients with checkpointing may be, where all blocks add to a pair's in another order."""
    inputs = family.inputs(pipe, size, 3)
    with_pairs = add_adapter(pipe.transformer, targets, rank, alpha)
    with_pairs.save_pretrained(folder / "adapter")
    v = family.velocity(with_pairs, inputs)
    g = torch.randn(v.shape, generator=torch.Generator().manual_seed(8))
    (v * g).sum().backward()
    grads = {k.replace(".default.", "."): p.grad for k, p in with_pairs.named_parameters() if "lora_" in k}
    out = ours(folder, inputs, g, adapter=folder / "adapter")
    for key in "v", "v_merged", "v_beside", "v_merged_grad":
        assert error(out[key], v) <= 1e-5, key
    assert torch.equal(out["v_lean"], out["v_beside"])
    for kind in "grad.", "grad_merged.":
        assert {k[len(kind) :] for k in out if k.startswith(kind)} == set(grads)
        for k, want in grads.items():
            want = torch.zeros_like(out[kind + k]) if want is None else want
            assert error(out[kind + k], want) <= 1e-4, kind + k
            assert error(out[kind[:-1] + "_again." + k], out[kind + k]) <= again, kind + k


def agrees(family, folder, adapter, transformer, base):
    """Our velocities with an adapter's file against a transformer that has it, which is not the base."""

    class Pipe:
        pass

    Pipe.transformer, Pipe.vae_scale_factor = base, 2
    inputs = family.inputs(Pipe, (24, 20), 2)
    with torch.no_grad():
        v = family.velocity(transformer, inputs)
        assert error(v, family.velocity(base, inputs)) > 0.1
    out = ours(folder, inputs, adapter=adapter)
    assert max(error(out[key], v) for key in ("v", "v_merged", "v_beside")) <= 1e-5, {key: error(out[key], v) for key in ("v", "v_merged", "v_beside")}


def export(folder, source, form, out, *more):
    contraflow("export", source, "--format", form, "-o", folder / out, "--model", folder, *more)
    return folder / out


def same_pairs(a, b):
    """Two PEFT folders with the same pairs, ranks and alphas."""
    x, y = load_file(a / "adapter_model.safetensors"), load_file(b / "adapter_model.safetensors")
    assert x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x)
    sizes = []
    for path in a, b:
        c = LoraConfig.from_pretrained(path)
        sizes.append((c.r, c.lora_alpha, c.rank_pattern, c.alpha_pattern))
    assert sizes[0] == sizes[1]


def kohya_in_weights(family, model, tensors):
    """The base (changed in place) with a kohya adapter in its weights, read by sd-scripts' rules over diffusers' own converter."""
    change, used = family.original_zeros(model), set()
    for key in list(change):
        name = "lora_unet_" + key.removesuffix(".weight").replace(".", "_")
        if key.endswith(".weight") and name + ".lora_down.weight" in tensors:
            down, up = tensors[name + ".lora_down.weight"].float(), tensors[name + ".lora_up.weight"].float()
            change[key] += tensors[name + ".alpha"].item() / down.shape[0] * up @ down
            used |= {name + x for x in (".lora_down.weight", ".lora_up.weight", ".alpha")}
    assert used == tensors.keys()
    state = model.state_dict()
    for key, delta in family.from_original(change, model).items():
        state[key] += delta
    model.load_state_dict(state)
    return model.eval()


# ---- Training ------------------------------------------------------------------------------------------------------------------

CONFIG = """
run: {{seed: 3, threads: 1}}
model: {{path: {model}, text_length: 16, text_cache: {folder}/cache}}
lora: {{rank: 8, alpha: 16, targets: {targets}}}
prompts: {{train: {folder}/prompts.txt, groups: 4, group_size: 12, height: {h}, width: {w}}}
rollout: {{solver: euler, steps: 6, batch: 12, guidance: {guidance}}}
rewards: {{jpeg_compressibility: {{}}}}
train: {{max_steps: 28, timestep_fraction: 0.5, micro_batch: 16}}
optimizer: {{lr: 1e-2, decay: constant}}
nft: {{beta: 0.1}}
policy: {{old_schedule: linear, old_slope: 0.1, old_max: 0.3}}
eval: {{every: 0}}
log: {{tensorboard: false, grid_every: 0}}
"""


def launch(ranks, *args):
    build = pathlib.Path(os.environ.get("BUILD", "build"))
    program = (build if build.is_absolute() else ROOT / build) / "contraflow"
    env = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1", OMPI_MCA_mpi_yield_when_idle="1")
    done = subprocess.run(["mpirun", "--oversubscribe", "--bind-to", "none", "-n", str(ranks), program, *map(str, args)], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def flatten(decoder, modulation=0.03):
    """A random decoder normalises its latents' size away.  This one paints images that are the flatter the smaller the
    latents are: a constant that the latents only modulate, and blocks that add little."""
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, p in decoder.named_parameters():
            if "conv2" in name or "to_out" in name or ".proj." in name:
                p.mul_(0.05)
            if "upsamplers" in name:
                p.zero_()
                if p.dim() == 4:
                    p[range(len(p)), range(len(p)), 1, 1] = 1
        decoder.conv_in.weight.mul_(modulation)
        decoder.conv_in.bias.copy_(2 * torch.randn(decoder.conv_in.bias.shape, generator=g))
        for name, p in decoder.named_parameters():
            if "norm_out" in name:
                p.fill_(0 if name.endswith("bias") else 1)


def trainable(family, words, folder, size=(32, 32), guidance=1.0, targets=None, **changes):
    """A model that a reward can move, prompts of different lengths and a configuration; its path."""
    pipe = family.make(words, seed=11, **changes)
    flatten(pipe.vae.decoder, getattr(family, "MODULATION", 0.03))
    family.save(pipe, words, folder / "model")
    (folder / "prompts.txt").write_text("a red circle\ntwo dogs\nx\na café left of a house\n")
    text = CONFIG.format(model=folder / "model", folder=folder, targets=json.dumps(targets or family.LAYERS), h=size[0], w=size[1], guidance=guidance)
    (folder / "tiny.yaml").write_text(text)
    return folder / "tiny.yaml"


def train(config, run, ranks, *sets, resume=False):
    """Its lines of steps, and the folder of its newest checkpoint."""
    more = ["--run", run, "--resume"] if resume else [config, "--run", run]
    launch(ranks, "train", *more, *(x for s in sets for x in ("--set", s)), "--quiet")
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    newest = max((run / "checkpoints").glob("step-*"))
    return [r for r in rows if r.get("reward/mean") is not None], newest


def adapter_of(checkpoint):
    return load_file(checkpoint / "lora/adapter_model.safetensors")


def check_rises(rows):
    """The mean reward of the last quarter above the first quarter's by more than chance."""
    n = len(rows) // 4
    first, last = (sum(r["reward/mean"] for r in part) / n for part in (rows[:n], rows[-n:]))
    deviation = sum(r["reward/std"] for r in rows) / len(rows)
    print(f"reward {first:.5f} to {last:.5f}, deviation of an image {deviation:.5f}")
    assert last - first > 0.4 * deviation > 0
