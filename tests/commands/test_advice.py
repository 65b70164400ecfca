"""check, doctor and plan: what they say of configurations that would run, would not, and of a size that was measured."""

import json
import re

import pytest
from command import ROOT, contraflow, fails

MEDIUM = {"_class_name": "SD3Transformer2DModel", "sample_size": 128, "patch_size": 2, "in_channels": 16, "out_channels": 16, "num_layers": 24, "attention_head_dim": 64,
          "num_attention_heads": 24, "joint_attention_dim": 4096, "caption_projection_dim": 1536, "pooled_projection_dim": 2048, "pos_embed_max_size": 384,
          "qk_norm": "rms_norm", "dual_attention_layers": list(range(13))}  # fmt: skip
VAE = {"_class_name": "AutoencoderKL", "in_channels": 3, "out_channels": 3, "latent_channels": 16, "layers_per_block": 2, "norm_num_groups": 32,
       "block_out_channels": [128, 256, 512, 512], "scaling_factor": 1.5305, "shift_factor": 0.0609, "use_quant_conv": False, "use_post_quant_conv": False,
       "down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4, "act_fn": "silu", "sample_size": 1024,
       "mid_block_add_attention": True}  # fmt: skip


@pytest.fixture(scope="module")
def medium(tmp_path_factory):
    """Stable Diffusion 3.5 Medium's configuration files: no weights."""
    folder = tmp_path_factory.mktemp("model")
    parts = {"transformer": ["diffusers", "SD3Transformer2DModel"], "vae": ["diffusers", "AutoencoderKL"], "text_encoder": ["transformers", "CLIPTextModelWithProjection"],
             "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"]}  # fmt: skip
    for name, conf in (("transformer/config", MEDIUM), ("vae/config", VAE), ("model_index", {"_class_name": "StableDiffusion3Pipeline", **parts})):
        (folder / f"{name}.json").parent.mkdir(exist_ok=True)
        (folder / f"{name}.json").write_text(json.dumps(conf))
    return folder


def plan(tmp_path, model, *args, config="configs/sd35m-geneval.yaml", **sets):
    sets = {"model.path": model, "prompts.test": "", "train.micro_batch": 24, "train.gradient_checkpointing": 0, **sets}
    contraflow("plan", config, *args, *(x for k, v in sets.items() for x in ("--set", f"{k}={v}")), "-o", tmp_path / "plan.json")
    return json.loads((tmp_path / "plan.json").read_text())[0]


def measured():
    """The rows of docs/performance.md's table of an H200: seconds of a step and GiB, by their first words."""
    rows = re.findall(r"^\| ([^|]+)\| [\d.]+ \| [\d.]+ \| [\d.]+ \| \**(\d+)\** \| (\d+) \|$", (ROOT / "docs/performance.md").read_text(), re.M)
    return {name.strip(): (float(s), float(gib)) for name, s, gib in rows}


def test_a_measured_size(tmp_path, medium):
    """Of what one H200 took for four settings, of which the first alone was made to fit."""
    table = measured()
    rows = {"batch 24, micro-batch 24": {}, "24 / 24, gradient checkpointing of every block": {"train.gradient_checkpointing": 24},
            "24 / 24, without the base's forward (`nft.kl_beta: 0`)": {"nft.kl_beta": 0},
            "24 / 24, decoding in bfloat16, 12 at a time": {"model.vae_dtype": "bfloat16"}}  # fmt: skip
    for name, sets in rows.items():
        seconds, gib = table[name]
        got = plan(tmp_path, medium, "--gpu", "h200", **sets)
        assert got["gpu_seconds_a_step"] == pytest.approx(seconds, rel=0.03), name
        assert got["memory_bytes"] / 2**30 == pytest.approx(gib, rel=0.2), name
    for name, micro in (("batch 12, micro-batch 12", 12), ("batch 12, micro-batch 4", 4)):
        assert plan(tmp_path, medium, "--gpu", "h200", **{"train.micro_batch": micro})["memory_bytes"] / 2**30 == pytest.approx(table[name][1], rel=0.1)


def test_plan(tmp_path, medium):
    one = plan(tmp_path, medium, "--gpu", "h100")
    eight = plan(tmp_path, medium, "--gpu", "h100", "--gpus", 8, "--steps", 500)
    assert eight["hours"] == pytest.approx(one["hours"] / 16) and eight["gpu_seconds_a_step"] == one["gpu_seconds_a_step"]
    assert one["parts"]["rollout"]["count"] == 11520 and one["parts"]["theta"]["count"] == 10368 and one["fits"]
    twice = plan(tmp_path, medium, "--gpu", "h100", **{"rollout.guidance": 4.5, "rollout.steps": 20, "prompts.draw": 48})
    assert twice["parts"]["rollout"]["count"] == 11520 * 2 * 2 * 2 and twice["parts"]["decoding"]["count"] == 2304
    assert not plan(tmp_path, medium, "--gpu", "4090")["fits"]
    auto = plan(tmp_path, medium, "--gpu", "4090", **{"train.micro_batch": "auto", "train.gradient_checkpointing": "auto"})
    assert auto["fits"] and 0 < auto["checkpointed_blocks"] <= 24 and auto["gpu_seconds_a_step"] > one["gpu_seconds_a_step"]
    tested = plan(tmp_path, medium, "--gpu", "h100", **{"prompts.test": "data/shapes/validation.jsonl", "eval.images_per_prompt": 2})
    assert tested["parts"]["evaluation"]["count"] == 144 * 2 * 40 / 10
    assert "there are h200, h100" in fails("plan", "configs/shapes.yaml", "--gpu", "tpu")
    assert "but not its weights" in fails("plan", "configs/sd35m-geneval.yaml", "--set", f"model.path={tmp_path}/none")
    assert "--gpus must be" in fails("plan", "configs/shapes.yaml", "--gpus", 0)


def test_documented_costs(tmp_path, medium):
    """docs/sd35.md's table of eight GPUs."""
    rows = re.findall(r"^\| (\w+)([^|]*) \| (\d+) \| (\d+) \| (\d+) h, (\d+) GPU-hours \|", (ROOT / "docs/sd35.md").read_text(), re.M)
    assert len(rows) == 4
    (tmp_path / "test.jsonl").write_text(553 * '{"tag": "single_object", "include": [{"class": "bench", "count": 1}], "prompt": "a photo of a bench"}\n')
    for gpu, more, total, seconds, hours, gpu_hours in rows:
        fast = "-fast" if "fast" in more else ""
        got = plan(tmp_path, medium, "--gpu", gpu.lower(), "--gpus", 8, config=f"configs/sd35m-geneval{fast}.yaml", **{"prompts.test": tmp_path / "test.jsonl"})
        assert [got["gpu_seconds_a_step"], got["gpu_seconds_a_step"] / 8, got["hours"], 8 * got["hours"]] == pytest.approx(
            [float(total), float(seconds), float(hours), float(gpu_hours)], rel=0.03, abs=0.5
        )


PIPELINES = {  # preset: pipeline, transformer, autoencoder, what is not the class's default, a configuration
    "sd3.5-large": ("StableDiffusion3Pipeline", "SD3Transformer2DModel", "AutoencoderKL", dict(
        num_layers=38, num_attention_heads=38, caption_projection_dim=2432, joint_attention_dim=4096, pooled_projection_dim=2048, out_channels=16,
        pos_embed_max_size=192, qk_norm="rms_norm"), "sd35l-pickscore"),
    "flux1-dev": ("FluxPipeline", "FluxTransformer2DModel", "AutoencoderKL", dict(guidance_embeds=True), "flux1-dev-pickscore"),
    "z-image": ("ZImagePipeline", "ZImageTransformer2DModel", "AutoencoderKL", dict(axes_lens=[1536, 512, 512]), "z-image-pickscore"),
    "qwen-image": ("QwenImagePipeline", "QwenImageTransformer2DModel", "AutoencoderKLQwenImage", dict(), "qwen-image-pickscore"),
    "flux2-klein": ("Flux2KleinPipeline", "Flux2Transformer2DModel", "AutoencoderKLFlux2", dict(
        num_layers=5, num_single_layers=20, num_attention_heads=24, joint_attention_dim=7680, guidance_embeds=False), "flux2-klein-pickscore"),
    "sana-1.5": ("SanaPipeline", "SanaTransformer2DModel", "AutoencoderDC", dict(qk_norm="rms_norm_across_heads"), "sana-pickscore"),
}  # fmt: skip


def test_plan_of_a_preset(tmp_path, medium):
    """As of the folder that the model would be in, whose configurations diffusers writes; the folder need not be there."""
    import diffusers
    import torch

    def without(config, preset):
        return plan(tmp_path, tmp_path / "none", "--preset", preset, config=f"configs/{config}.yaml")

    assert without("sd35m-geneval", "medium") == plan(tmp_path, medium)
    vaes = dict(AutoencoderDC=dict(downsample_block_type="Conv", upsample_block_type="interpolate"), AutoencoderKL=dict(latent_channels=16, use_quant_conv=False, use_post_quant_conv=False, block_out_channels=(128, 256, 512, 512), layers_per_block=2, down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4))
    for preset, (pipeline, transformer, vae, sizes, config) in PIPELINES.items():
        folder = tmp_path / preset
        with torch.device("meta"):
            getattr(diffusers, transformer)(**sizes).save_config(folder / "transformer")
            getattr(diffusers, vae)(**vaes.get(vae, {})).save_config(folder / "vae")
        (folder / "model_index.json").write_text(json.dumps(dict(_class_name=pipeline, transformer=["diffusers", transformer], vae=["diffusers", vae])))
        assert without(config, preset) == plan(tmp_path, folder, config=f"configs/{config}.yaml"), preset
    assert "there are tiny, medium" in fails("plan", "configs/shapes.yaml", "--preset", "huge")
    assert "or --preset NAME: tiny" in fails("plan", "configs/sd35m-geneval.yaml", "--set", f"model.path={tmp_path}/none")
    assert "lora.targets" in fails("plan", "configs/sd35m-geneval.yaml", "--preset", "z-image")


def test_plan_of_a_bench(tmp_path, medium):
    """Rates and losses of a bench take the place of the H200's."""
    contraflow("bench", "--model", "tiny", "--repeats", 1, "--model-cost", "-o", tmp_path / "bench.json")
    bench = json.loads((tmp_path / "bench.json").read_text())
    ours = plan(tmp_path, medium, "--bench", tmp_path / "bench.json")
    slower = {**bench, "gemm_flop_per_second": bench["gemm_flop_per_second"] / 2, "copy_bytes_per_second": bench["copy_bytes_per_second"] / 2}
    (tmp_path / "slower.json").write_text(json.dumps(slower))
    theirs = plan(tmp_path, medium, "--bench", tmp_path / "slower.json")
    assert theirs["gpu_seconds_a_step"] == pytest.approx(2 * ours["gpu_seconds_a_step"])
    ratio = next(p["ratio"] for p in bench["model_cost"]["phases"] if p["phase"].startswith("rollout"))
    for phase in slower["model_cost"]["phases"]:
        phase["ratio"] = 3 * ratio + 1
    (tmp_path / "lossy.json").write_text(json.dumps(slower))
    lossy = plan(tmp_path, medium, "--bench", tmp_path / "lossy.json")
    assert ratio > 1
    assert lossy["parts"]["rollout"]["gpu_seconds"] == pytest.approx(theirs["parts"]["rollout"]["gpu_seconds"] * (3 + 1 / ratio))
    (tmp_path / "none.json").write_text("{}")
    assert "no rates in it" in fails("plan", "configs/shapes.yaml", "--bench", tmp_path / "none.json")


def lines(done):
    return [line.split(None, 2) for line in done.stdout.splitlines()]


def test_check(tmp_path):
    """Everything is opened, one image made and scored, and nothing is written but into the cache."""
    done = contraflow("check", "configs/shapes.yaml", "--set", f"run.name={tmp_path.name}")
    said = lines(done)
    assert [(x[0], x[1]) for x in said] == [("ok", w) for w in ("prompts", "prompts", "rewards", "model", "adapter", "text", "sampling", "rewards", "score")]
    assert "1879 prompts of 6 tags" in said[0][2] and "24 x 24 by 10 steps of dpm2" in said[6][2] and not (ROOT / "runs" / tmp_path.name).exists()


BROKEN = {
    "lora.targets=[attn.to_z]": ("adapter", "attn.to_z"),
    'rewards={judge: {type: exec, command: ["/nonexistent/judge"]}}': ("rewards", "/nonexistent/judge"),
    "prompts.train=no/such.jsonl": ("prompts", "no/such.jsonl"),
    "rewards={ocr: {}}": ("rewards", "quotes"),
    "model.path=no/model": ("model", "no/model"),
}


@pytest.mark.parametrize("wrong", BROKEN)
def test_check_fails(wrong):
    """One line says what and where, and the status says that there is one."""
    done = contraflow("check", "configs/shapes.yaml", "--set", wrong, check=False)
    failed = [x for x in lines(done) if x[0] == "FAIL"]
    assert done.returncode == 1 and len(failed) == 1 and failed[0][1] == BROKEN[wrong][0] and BROKEN[wrong][1] in failed[0][2]
    assert done.stderr.splitlines()[-1] == "contraflow: check: this configuration would not run: see FAIL above"


def test_doctor(tmp_path):
    machine = [x[1] for x in lines(contraflow("doctor"))]
    assert machine[:4] == ["program", "GPU", "MPI", "cores"] and "memory" in machine
    ranks = contraflow("doctor", ranks=2).stdout
    assert "2 ranks, 2 on this machine, started over PMIx" in ranks and ranks.count("program") == 1
    said = lines(contraflow("doctor", "configs/shapes.yaml"))
    assert {x[0] for x in said} <= {"ok", "warn"} and "transformer e7c8702a51fff4b8" in next(x[2] for x in said if x[1] == "model")
    train = tmp_path / "train.jsonl"
    train.write_text((ROOT / "data/shapes/validation.jsonl").read_text())
    overlap = contraflow("doctor", "configs/shapes.yaml", "--set", f"prompts.train={train}")
    assert any(x[0] == "warn" and "test prompts stand in the training file" in x[2] for x in lines(overlap))


@pytest.mark.parametrize("wrong", BROKEN)
def test_doctor_fails(wrong):
    done = contraflow("doctor", "configs/shapes.yaml", "--set", wrong, check=False)
    failed = [x for x in lines(done) if x[0] == "FAIL"]
    assert done.returncode == 1 and any(BROKEN[wrong][1] in x[2] for x in failed) and f"doctor: {len(failed)} of these lines say FAIL" in done.stderr


def test_doctor_of_a_file_that_cannot_be_read(tmp_path):
    (tmp_path / "c.yaml").write_text("extends: configs/shapes.yaml\ntrain: {max_stesp: 3}\n".replace("configs", f"{ROOT}/configs"))
    done = contraflow("doctor", tmp_path / "c.yaml", check=False)
    assert done.returncode == 1 and "did you mean" in next(x[2] for x in lines(done) if x[0] == "FAIL")
