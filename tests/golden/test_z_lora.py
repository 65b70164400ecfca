"""Adapters of Z-Image in every layout: what is exported here, PEFT, diffusers and a reader of the original names compute the same
with; what they write is read here; and going round through them all loses nothing."""

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, ZImagePipeline, ZImageTransformer2DModel
from diffusers.loaders.single_file_utils import convert_z_image_transformer_checkpoint_to_diffusers
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from sd3 import contraflow, error, ours
from test_lora_formats import same
from test_z_dit import given
from z_image import make_inputs, make_transformer, velocity

BLOCKS = ["to_q", "to_k", "to_v", "to_out.0", "w1", "w2", "w3", "layers.0.adaLN_modulation.0", "layers.1.adaLN_modulation.0",
          "noise_refiner.0.adaLN_modulation.0"]  # fmt: skip
EVERY = [*BLOCKS, "mlp.0", "mlp.2", "cap_embedder.1", "all_x_embedder.2-1", "all_final_layer.2-1.linear", "all_final_layer.2-1.adaLN_modulation.1"]
SIZES = dict(rank_pattern={"to_q": 6, r"layers\.1\.attention\.to_k": 2, "w2": 1}, alpha_pattern={"to_k": 3.5, "w1": 12})
DIFFUSERS = "pytorch_lora_weights.safetensors"


@pytest.fixture
def base(folder):
    model = make_transformer()
    model.save_pretrained(folder / "transformer")
    return model


def read_base(folder):
    return ZImageTransformer2DModel.from_pretrained(folder / "transformer").eval()


def peft_adapter(folder, targets=EVERY, **changes):
    """An adapter made by PEFT, random in A and B; the model with it and its folder."""
    model = get_peft_model(read_base(folder), LoraConfig(**{**dict(r=4, lora_alpha=6, target_modules=targets), **changes}))
    g = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for key, p in model.named_parameters():
            if "lora_" in key:
                p.copy_(torch.randn(p.shape, generator=g) / p.shape[1] ** 0.5)
    model.save_pretrained(folder / "peft")
    return model.eval(), folder / "peft"


def export(folder, source, form, out):
    contraflow("export", source, "--format", form, "-o", folder / out, "--model", folder)
    return folder / out


def agrees(folder, adapter, model):
    """Our velocities with the adapter against the model's."""
    inputs = make_inputs(model)
    with torch.no_grad():
        v = velocity(model, inputs)
        assert error(v, velocity(read_base(folder), inputs)) > 0.1
    out = ours(folder, given(inputs), adapter=adapter)
    assert max(error(out[key], v) for key in ("v", "v_merged", "v_beside")) <= 1e-5


def in_diffusers(folder, file):
    pipe = ZImagePipeline(transformer=read_base(folder), vae=None, text_encoder=None, tokenizer=None, scheduler=FlowMatchEulerDiscreteScheduler())
    pipe.load_lora_weights(str(file.parent), weight_name=file.name)
    return pipe.transformer.eval()


def original_zeros(model):
    """A checkpoint in the original release's names, all zero."""
    t = {}
    for key, v in model.state_dict().items():
        if ".to_k." in key or ".to_v." in key:
            continue
        for here, there in [("all_x_embedder.2-1.", "x_embedder."), ("all_final_layer.2-1.", "final_layer."), ("to_q", "qkv"), ("to_out.0", "out"),
                            ("norm_q", "q_norm"), ("norm_k", "k_norm")]:  # fmt: skip
            key = key.replace(here, there)
        t[key] = torch.zeros(3 * v.shape[0] if "qkv" in key else v.shape[0], *v.shape[1:])
    return t


def with_kohya(folder, tensors):
    """The base with a kohya adapter in its weights, read by sd-scripts' rules over diffusers' own converter of checkpoints."""
    model = read_base(folder)
    change, used = original_zeros(model), set()
    for key in change:
        name = "lora_unet_" + key.removesuffix(".weight").replace(".", "_")
        if key.endswith(".weight") and name + ".lora_down.weight" in tensors:
            down, up = tensors[name + ".lora_down.weight"].float(), tensors[name + ".lora_up.weight"].float()
            change[key] += tensors[name + ".alpha"].item() / down.shape[0] * up @ down
            used |= {name + x for x in (".lora_down.weight", ".lora_up.weight", ".alpha")}
    assert used == tensors.keys()
    change, state = convert_z_image_transformer_checkpoint_to_diffusers(change), model.state_dict()
    assert change.keys() == state.keys()
    model.load_state_dict({key: value + change[key] for key, value in state.items()})
    return model


@pytest.mark.parametrize("sizes", [{}, SIZES, dict(use_rslora=True)])
def test_peft(folder, base, sizes):
    model, adapter = peft_adapter(folder, **sizes)
    agrees(folder, adapter, model)
    again = export(folder, adapter, "peft", "again")
    inputs = make_inputs(model)
    with torch.no_grad():
        assert error(velocity(PeftModel.from_pretrained(read_base(folder), again).eval(), inputs), velocity(model, inputs)) <= 1e-6


@pytest.mark.parametrize("sizes", [{}, SIZES])
def test_diffusers_reads_ours(folder, base, sizes):
    model, adapter = peft_adapter(folder, **sizes)
    file = export(folder, adapter, "diffusers", DIFFUSERS)
    inputs = make_inputs(model)
    with torch.no_grad():
        assert error(velocity(in_diffusers(folder, file), inputs), velocity(model, inputs)) <= 1e-5
    agrees(folder, file, model)


@pytest.mark.parametrize("metadata", [True, False])
def test_diffusers_files(folder, base, metadata):
    model, _ = peft_adapter(folder, **(SIZES if metadata else dict(lora_alpha=4)))
    layers = {k.removeprefix("base_model.model."): v for k, v in get_peft_model_state_dict(model).items()}
    meta = {"transformer_lora_adapter_metadata": model.peft_config["default"].to_dict()} if metadata else {}
    ZImagePipeline.save_lora_weights(folder / "saved", transformer_lora_layers=layers, **meta)
    agrees(folder, folder / "saved", model)


@pytest.mark.parametrize("sizes", [{}, SIZES])
def test_kohya_readers_read_ours(folder, base, sizes):
    """Every module by the original's names; diffusers' own reader knows those of the blocks."""
    model, adapter = peft_adapter(folder, **sizes)
    file = export(folder, adapter, "kohya", "kohya.safetensors")
    inputs = make_inputs(model)
    with torch.no_grad():
        assert error(velocity(with_kohya(folder, load_file(file)), inputs), velocity(model, inputs)) <= 1e-5
    agrees(folder, file, model)


def test_diffusers_reads_our_kohya(folder, base):
    model, adapter = peft_adapter(folder, BLOCKS, **SIZES)
    file = export(folder, adapter, "kohya", "kohya.safetensors")
    inputs = make_inputs(model)
    with torch.no_grad():
        assert error(velocity(in_diffusers(folder, file), inputs), velocity(model, inputs)) <= 1e-5


@pytest.mark.parametrize("form", ["fused", "fused, dotted", "split", "split, dotted"])
def test_other_programs_files(folder, base, form):
    """sd-scripts' fused names and musubi's split ones, both with underscores and, as ComfyUI has them, with dots."""
    t, g = {}, torch.Generator().manual_seed(9)
    names = original_zeros(base) if "fused" in form else base.state_dict()
    for key, w in names.items():
        if w.dim() != 2 or "pad_token" in key:
            continue
        module, rank = key.removesuffix(".weight"), 2 + len(t) % 5
        name, halves = (f"diffusion_model.{module}", ("lora_A", "lora_B")) if "dotted" in form else ("lora_unet_" + module.replace(".", "_"), ("lora_down", "lora_up"))
        t[f"{name}.{halves[0]}.weight"] = torch.randn(rank, w.shape[1], generator=g).half() / w.shape[1] ** 0.5
        t[f"{name}.{halves[1]}.weight"] = torch.randn(w.shape[0], rank, generator=g).half()
        t[name + ".alpha"] = torch.tensor(1.5, dtype=torch.float16)
    save_file(t, folder / "adapter.safetensors")
    if "fused" in form:
        plain = {k: v for k, v in t.items()}
        if "dotted" in form:
            plain = {}
            for k, v in t.items():
                module, end = k.removeprefix("diffusion_model.").rsplit(".lora_", 1) if ".lora_" in k else k.removeprefix("diffusion_model.").rsplit(".", 1)
                plain["lora_unet_" + module.replace(".", "_") + {"A.weight": ".lora_down.weight", "B.weight": ".lora_up.weight", "alpha": ".alpha"}[end]] = v
        model = with_kohya(folder, plain)
    else:
        model = read_base(folder)
        with torch.no_grad():
            for key, w in model.named_parameters():
                module = key.removesuffix(".weight")
                name, halves = (f"diffusion_model.{module}", ("lora_A", "lora_B")) if "dotted" in form else ("lora_unet_" + module.replace(".", "_"), ("lora_down", "lora_up"))
                if name + ".alpha" in t:
                    down, up = t[f"{name}.{halves[0]}.weight"].float(), t[f"{name}.{halves[1]}.weight"].float()
                    w += 1.5 / down.shape[0] * up @ down
    agrees(folder, folder / "adapter.safetensors", model)


def test_round_trips_lose_nothing(folder, base):
    _, adapter = peft_adapter(folder, rank_pattern={"to_v": 3}, alpha_pattern={"to_v": 4.5, "w2": 7})
    step = export(folder, adapter, "peft", "first")
    step = export(folder, step, "kohya", "second.safetensors")
    step = export(folder, step, "kohya", "third.safetensors")
    same(export(folder, adapter, "peft", "a"), export(folder, step, "peft", "b"))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_merged(folder, base, dtype):
    if dtype == "bfloat16":
        base.to(torch.bfloat16).save_pretrained(folder / "transformer")
    model, adapter = peft_adapter(folder, **SIZES)
    out = export(folder, adapter, "merged", "merged")
    theirs, info = ZImageTransformer2DModel.from_pretrained(out, torch_dtype=getattr(torch, dtype), output_loading_info=True)
    assert not any(info[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    inputs = make_inputs(model)
    if dtype == "float32":
        with torch.no_grad():
            assert error(velocity(theirs, inputs), velocity(model, inputs)) <= 1e-5
    for exact, merged in zip(model.merge_and_unload().parameters(), theirs.parameters()):
        assert error(merged.float(), exact) <= (1e-6 if dtype == "float32" else 2**-9)
