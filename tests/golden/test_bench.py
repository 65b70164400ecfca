"""contraflow bench: the arithmetic it counts, against PyTorch's own counter on diffusers' model; and what it writes."""

import json

import flux
import flux2
import pytest
import qwen_image
import sana
import torch
from diffusers import AutoencoderKL, SD3Transformer2DModel
from sd3 import contraflow
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

SHAPES = {
    "sd35": dict(num_layers=3, dual_attention_layers=(0, 1), qk_norm="rms_norm", attention_head_dim=16, num_attention_heads=4),
    "sd3": dict(num_layers=2, dual_attention_layers=(), qk_norm=None, attention_head_dim=32, num_attention_heads=3),
}


@pytest.mark.parametrize("name", SHAPES)
def test_flop(folder, name):
    c = SHAPES[name]
    conf = dict(sample_size=16, patch_size=2, in_channels=16, out_channels=16, joint_attention_dim=48, pooled_projection_dim=40,
                pos_embed_max_size=24, caption_projection_dim=c["attention_head_dim"] * c["num_attention_heads"], **c)  # fmt: skip
    model = SD3Transformer2DModel(**conf)
    model.save_pretrained(folder / "transformer")
    # attention as plain products: the counter does not see into the fused kernel of the CPU
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        model(hidden_states=torch.randn(1, 16, 16, 16), timestep=torch.ones(1), encoder_hidden_states=torch.randn(1, 21, 48),
              pooled_projections=torch.randn(1, 40))  # fmt: skip
    said = contraflow("bench", "--model", folder / "transformer", "--latent", 16, "--text-tokens", 21, "--steps", 4, "--levels", 2,
                      "--repeats", 1, "-o", folder / "b.json")  # fmt: skip
    b = json.loads((folder / "b.json").read_text())
    rollout, update = b["phases"][:2]
    per_forward = rollout["flop"] / (b["images"] * b["steps"])
    # To the last operation, but that the attention of the last block's text queries is computed by diffusers and read by nobody.
    width, tokens = conf["caption_projection_dim"], 64 + 21
    assert per_forward == counter.get_total_flops() - 4 * 21 * tokens * width
    assert update["flop"] == b["images"] * b["levels"] * 4 * per_forward  # forward, backward, old policy, base
    assert b["images"] == 8 and all(p["seconds"] >= 0 for p in b["phases"]) and b["gemm_flop_per_second"] > 1e8
    assert b["phases"][-1]["phase"] == "merging the old policy" and 1e5 < b["peak_bytes"] < 1e8 and "48 x 24 images" in said
    rate = rollout["flop"] / rollout["seconds"]
    assert abs(rollout["flop_per_second_of_a_rank"] / rate - 1) < 1e-6


@pytest.mark.parametrize("family, changes", [
    (flux, dict()), (flux, dict(guidance_embeds=False, num_layers=1, num_single_layers=3)),
    (flux2, dict()), (flux2, dict(num_layers=1, num_single_layers=3)), (qwen_image, dict()), (qwen_image, dict(num_layers=3)),
])  # fmt: skip
def test_flop_families(folder, family, changes):
    """To the last operation."""
    model = family.make_transformer(**changes)
    model.save_pretrained(folder / "transformer")

    class Pipe:
        transformer, vae_scale_factor = model, 1

    side = 24 if family is flux2 else 12
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        family.velocity(model, family.inputs(Pipe, (side, side), 1, tokens=21))
    contraflow("bench", "--model", folder / "transformer", "--latent", 12, "--text-tokens", 21, "--steps", 4, "--levels", 2, "--repeats", 1, "-o", folder / "b.json")
    b = json.loads((folder / "b.json").read_text())
    assert b["phases"][0]["flop"] / (b["images"] * b["steps"]) == counter.get_total_flops()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_model_cost(folder, dtype):
    """The decoder's arithmetic is PyTorch's; forwards are told as often as they run; a floor is below what was measured."""
    said = contraflow("bench", "--model-cost", "--batch", 3, "--repeats", 1, "--dtype", dtype, "-o", folder / "b.json")
    b = json.loads((folder / "b.json").read_text())
    phases = {p["phase"]: p for p in b["model_cost"]["phases"]}
    names = ["rollout's forwards", "theta's forwards and backwards", "the old policy's forwards", "the base's forwards", "decoding"]
    assert list(phases) == names and all(name in said for name in [*names, "all"])
    vae = AutoencoderKL(latent_channels=16, layers_per_block=1, norm_num_groups=4, block_out_channels=(8, 8, 16, 16), use_quant_conv=False,
                        use_post_quant_conv=False, down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4)  # fmt: skip
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        vae.decode(torch.randn(1, 16, 8, 8))
    assert phases["decoding"]["flop"] == 8 * counter.get_total_flops()
    each = b["phases"][0]["flop"] / 80
    assert phases["the base's forwards"]["flop"] == pytest.approx(72 * each)
    old, rollout = phases["the old policy's forwards"], phases["rollout's forwards"]
    assert old["flop"] / 72 == pytest.approx(rollout["flop"] / 80)
    # In 16 bits the pairs are products of their own: rank 32 beside width 32.
    assert 1.5 < old["flop"] / 72 / each < 2.5 if dtype == "bfloat16" else old["flop"] == pytest.approx(72 * each)
    assert phases["theta's forwards and backwards"]["flop"] > 2 * 72 * each
    # Batches of 3 read the weights more often than those of 8 do.
    assert rollout["bytes"] / 80 > old["bytes"] / 72
    total = b["model_cost"]["all"]
    for key in "flop", "bytes", "least_seconds", "measured_seconds":
        assert total[key] == pytest.approx(sum(p[key] for p in phases.values()))
    for p in [*phases.values(), total]:
        assert max(p["seconds_of_products"], p["seconds_of_bytes"]) <= p["least_seconds"] * 1.0001
        assert p["least_seconds"] <= (p["seconds_of_products"] + p["seconds_of_bytes"]) * 1.0001
        assert p["ratio"] == pytest.approx(p["measured_seconds"] / p["least_seconds"])
    assert b["model_cost"]["measured_seconds_of_1152_images"] == b["seconds_of_1152_images"]


@pytest.mark.parametrize("dtype, batch", [("float32", 1), ("bfloat16", 3)])
def test_decoding(folder, dtype, batch):
    """A preset has a VAE, which counts: the seconds of a whole step are those of its phases, extrapolated."""
    contraflow("bench", "--repeats", 1, "--vae-dtype", dtype, "--vae-batch", batch, "-o", folder / "b.json")
    b = json.loads((folder / "b.json").read_text())
    seconds = {p["phase"].strip(): p["seconds"] for p in b["phases"]}
    assert seconds["decoding the images"] > 0
    whole = (seconds["rollout"] + seconds["decoding the images"]) * 1152 / 8 + seconds["update"] * 1152 * 9 / 72
    assert b["seconds_of_1152_images"] == pytest.approx(whole)


def test_matrix(folder):
    """One row a setting, each with what the single benchmark calls the same; sizes follow from the images of a rank."""
    said = contraflow("bench", "--matrix", "--groups", 1, "--group-size", 12, "--repeats", 1, "-o", folder / "m.json")
    rows = {r["name"]: r for r in json.loads((folder / "m.json").read_text())["settings"]}
    sizes = {name: (r["batch"], r["micro_batch"]) for name, r in rows.items()}
    assert sizes["all at a time"] == (12, 12) and sizes["half at a time"] == (6, 6) and sizes["a sixth a micro-batch"] == (6, 2)
    assert rows["every block computed twice"]["checkpoint_blocks"] == 2 and rows["without the base's forward"]["kl_beta"] == 0
    assert rows["rollout in 8 bits"]["fp8"] and rows["decoding in bfloat16"]["vae_dtype"] == "bfloat16"
    assert all(r["vae_dtype"] == "float32" for n, r in rows.items() if n != "decoding in bfloat16")
    for name, r in rows.items():
        assert name in said and min(r["seconds_per_forward"], r["seconds_per_pair"], r["seconds_per_decode"]) > 0
        whole = 1152 * (10 * r["seconds_per_forward"] + 9 * r["seconds_per_pair"] + r["seconds_per_decode"])
        assert r["seconds_of_1152_images"] == pytest.approx(whole)


def test_trace(folder):
    """One more round's work, a file a phase, as the profiler of PyTorch writes it: on the CPU the ops, which add up to no more than the phase."""
    contraflow("bench", "--repeats", 1, "--trace", folder / "trace")
    for phase, op in ("rollout", "linear"), ("update", "AddBackward0"), ("decode", "convolution"):
        events = [e for e in json.loads((folder / f"trace/{phase}.json").read_text())["traceEvents"] if e.get("cat") == "cpu_op"]
        assert len(events) > 100 and any(op in e["name"] for e in events), sorted({e["name"] for e in events})
        assert all(e["dur"] >= 0 for e in events)


@pytest.mark.parametrize("args, message", [
    (["--model", "huge"], "sana-1.5 or a transformer's folder"), (["--latent", 7], "a multiple of 2"), (["--levels", 11], "--levels"),
    (["--dtype", "int4"], "int4"), (["--model-cost", "--matrix"], "one setting"), (["--merge", "often"], "often"), (["--repeats", 0], "--repeats"), (["--device", "tpu"], "tpu"),
    (["--vae-batch", 0], "above 0"), (["--trace", "t", "--matrix"], "without --matrix"), (["--trace", "/proc/none"], "/proc/none"), (["--vae-dtype", "int8"], "int8"),
])  # fmt: skip
def test_mistakes(args, message):
    with pytest.raises(RuntimeError) as e:
        contraflow("bench", *args)
    assert message in str(e.value) and str(e.value).count("\n") == 1


@pytest.mark.parametrize("changes", [dict(), dict(patch_size=2, num_layers=3, num_cross_attention_heads=3)])
def test_flop_sana(folder, changes):
    """To the last operation, but that diffusers computes the sums of keys as a channel of values more."""
    model = sana.make_transformer(**changes)
    model.save_pretrained(folder / "transformer")

    class Pipe:
        transformer, vae_scale_factor = model, 1

    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        sana.velocity(model, sana.inputs(Pipe, (12, 12), 1, lengths=(21,)))
    contraflow("bench", "--model", folder / "transformer", "--latent", 12, "--text-tokens", 21, "--steps", 4, "--levels", 2, "--repeats", 1, "-o", folder / "b.json")
    b = json.loads((folder / "b.json").read_text())
    c, tokens = model.config, 12 * 12 // model.config.patch_size**2
    sums = c.num_layers * 2 * tokens * c.num_attention_heads * c.attention_head_dim
    assert b["phases"][0]["flop"] / (b["images"] * b["steps"]) == counter.get_total_flops() - sums
