"""Adapters of Z-Image in every layout: what is exported here, PEFT, diffusers and a reader of the original names compute the same
with; what they write is read here; and going round through them all loses nothing."""

import families
import pytest
import torch
import z_image
from diffusers import FlowMatchEulerDiscreteScheduler, ZImagePipeline, ZImageTransformer2DModel
from diffusers.loaders.single_file_utils import convert_z_image_transformer_checkpoint_to_diffusers
from families import add_adapter, error, export, same_pairs
from peft import PeftModel
from peft.utils import get_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from z_image import LAYERS, make_transformer, velocity

MODULATIONS = ["layers.0.adaLN_modulation.0", "layers.1.adaLN_modulation.0", "noise_refiner.0.adaLN_modulation.0"]
BLOCKS = ["to_q", "to_k", "to_v", "to_out.0", "w1", "w2", "w3", *MODULATIONS]
EVERY = [*LAYERS, *MODULATIONS, "all_final_layer.2-1.adaLN_modulation.1"]
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
    model = add_adapter(read_base(folder), targets, **changes)
    model.save_pretrained(folder / "peft")
    return model, folder / "peft"


def agrees(folder, adapter, model):
    families.agrees(z_image, folder, adapter, model, read_base(folder))


def compute_the_same(a, b, most=1e-5):
    class Pipe:
        transformer, vae_scale_factor = a, 2

    inputs = z_image.inputs(Pipe, (12, 20), 3)
    with torch.no_grad():
        assert error(velocity(a, inputs), velocity(b, inputs)) <= most


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


def with_kohya(folder, tensors, fused=True):
    """The base with a kohya adapter in its weights, read by sd-scripts' rules over diffusers' own converter of checkpoints,
    or under diffusers' names."""
    model = read_base(folder)
    change, used = original_zeros(model) if fused else {k: torch.zeros_like(v) for k, v in model.state_dict().items()}, set()
    for key in change:
        name = "lora_unet_" + key.removesuffix(".weight").replace(".", "_")
        if key.endswith(".weight") and name + ".lora_down.weight" in tensors:
            down, up = tensors[name + ".lora_down.weight"].float(), tensors[name + ".lora_up.weight"].float()
            change[key] += tensors[name + ".alpha"].item() / down.shape[0] * up @ down
            used |= {name + x for x in (".lora_down.weight", ".lora_up.weight", ".alpha")}
    assert used == tensors.keys()
    change, state = convert_z_image_transformer_checkpoint_to_diffusers(change) if fused else change, model.state_dict()
    assert change.keys() == state.keys()
    model.load_state_dict({key: value + change[key] for key, value in state.items()})
    return model


@pytest.mark.parametrize("sizes", [{}, SIZES, dict(use_rslora=True)])
def test_peft(folder, base, sizes):
    model, adapter = peft_adapter(folder, **sizes)
    agrees(folder, adapter, model)
    again = export(folder, adapter, "peft", "again")
    compute_the_same(PeftModel.from_pretrained(read_base(folder), again).eval(), model, 1e-6)


@pytest.mark.parametrize("sizes", [{}, SIZES])
def test_diffusers_reads_ours(folder, base, sizes):
    model, adapter = peft_adapter(folder, **sizes)
    file = export(folder, adapter, "diffusers", DIFFUSERS)
    compute_the_same(in_diffusers(folder, file), model)
    agrees(folder, file, model)


@pytest.mark.parametrize("metadata", [True, False])
def test_diffusers_files(folder, base, metadata):
    model, _ = peft_adapter(folder, **(SIZES if metadata else dict(alpha=4)))
    layers = {k.removeprefix("base_model.model."): v for k, v in get_peft_model_state_dict(model).items()}
    meta = {"transformer_lora_adapter_metadata": model.peft_config["default"].to_dict()} if metadata else {}
    ZImagePipeline.save_lora_weights(folder / "saved", transformer_lora_layers=layers, **meta)
    agrees(folder, folder / "saved", model)


@pytest.mark.parametrize("sizes", [{}, SIZES])
def test_kohya_readers_read_ours(folder, base, sizes):
    """Every module by the original's names; diffusers' own reader knows those of the blocks."""
    model, adapter = peft_adapter(folder, **sizes)
    file = export(folder, adapter, "kohya", "kohya.safetensors")
    compute_the_same(with_kohya(folder, load_file(file)), model)
    with safe_open(file, "pt") as f:
        assert f.metadata()["ss_network_module"] == "networks.lora_zimage"
    agrees(folder, file, model)


def test_diffusers_reads_our_kohya(folder, base):
    model, adapter = peft_adapter(folder, BLOCKS, **SIZES)
    file = export(folder, adapter, "kohya", "kohya.safetensors")
    compute_the_same(in_diffusers(folder, file), model)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("dotted", [True, False])
def test_other_programs_files(folder, base, fused, dotted):
    """sd-scripts' fused names and musubi's split ones, with underscores and, as ComfyUI has them, with dots."""
    kohya, file, g = {}, {}, torch.Generator().manual_seed(9)
    ends = {".lora_down.weight": ".lora_A.weight", ".lora_up.weight": ".lora_B.weight", ".alpha": ".alpha"}
    names = original_zeros(base) if fused else base.state_dict()
    for module, w in [(k.removesuffix(".weight"), w) for k, w in names.items() if w.dim() == 2 and "pad_token" not in k]:
        rank, under = 2 + len(kohya) % 5, "lora_unet_" + module.replace(".", "_")
        down, up = torch.randn(rank, w.shape[1], generator=g).half() / w.shape[1] ** 0.5, torch.randn(w.shape[0], rank, generator=g).half()
        for end, value in zip(ends, (down, up, torch.tensor(1.5, dtype=torch.float16))):
            kohya[under + end] = value
            file[f"diffusion_model.{module}{ends[end]}" if dotted else under + end] = value
    save_file(file, folder / "adapter.safetensors")
    agrees(folder, folder / "adapter.safetensors", with_kohya(folder, kohya, fused))


def test_round_trips_lose_nothing(folder, base):
    _, adapter = peft_adapter(folder, rank_pattern={"to_v": 3}, alpha_pattern={"to_v": 4.5, "w2": 7})
    step = export(folder, adapter, "peft", "first")
    step = export(folder, step, "kohya", "second.safetensors")
    step = export(folder, step, "kohya", "third.safetensors")
    same_pairs(export(folder, adapter, "peft", "a"), export(folder, step, "peft", "b"))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_merged(folder, base, dtype):
    if dtype == "bfloat16":
        base.to(torch.bfloat16).save_pretrained(folder / "transformer")
    model, adapter = peft_adapter(folder, **SIZES)
    out = export(folder, adapter, "merged", "merged")
    theirs, info = ZImageTransformer2DModel.from_pretrained(out, torch_dtype=getattr(torch, dtype), output_loading_info=True)
    assert not any(info[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    if dtype == "float32":
        compute_the_same(theirs, model)
    for exact, merged in zip(model.merge_and_unload().parameters(), theirs.parameters()):
        assert error(merged.float(), exact) <= (1e-6 if dtype == "float32" else 2**-9)
