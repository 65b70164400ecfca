"""FLUX.1's adapters in every layout: what is exported here PEFT, diffusers and readers of kohya's names compute the same with, what
they write is read here, and going round through them all loses nothing."""

import copy
from unittest import mock

import families
import flux
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from diffusers.loaders import lora_pipeline
from diffusers.loaders.lora_conversion_utils import _convert_kohya_flux_lora_to_diffusers
from families import add_adapter, agrees, error, export, same_pairs
from peft import PeftModel
from peft.utils import get_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file, save_file

BLOCKS = [t for t in flux.LAYERS if t not in ("norm_out.linear", "x_embedder", "context_embedder", "linear_1", "linear_2", "proj_out")]
SIZES = [{}, dict(rank_pattern={"to_q": 6, "proj_mlp": 2}, alpha_pattern={"to_k": 3.5, "ff.net.2": 12})]
DIFFUSERS = "pytorch_lora_weights.safetensors"


@pytest.fixture
def base(folder):
    model = flux.make_transformer(7, num_layers=2, num_single_layers=2)
    model.save_pretrained(folder / "transformer")
    return model


def with_pairs(folder, base, targets=flux.LAYERS, **changes):
    """The base with an adapter of PEFT, and its folder."""
    model = add_adapter(copy.deepcopy(base), targets, **changes)
    model.save_pretrained(folder / "peft")
    return model, folder / "peft"


def in_diffusers(folder, file):
    pipe = FluxPipeline(
        transformer=FluxTransformer2DModel.from_pretrained(folder / "transformer"), vae=None, text_encoder=None, tokenizer=None,
        text_encoder_2=None, tokenizer_2=None, scheduler=FlowMatchEulerDiscreteScheduler(),
    )  # fmt: skip
    c = pipe.transformer.config
    converter = flux.with_width(_convert_kohya_flux_lora_to_diffusers, c.num_attention_heads * c.attention_head_dim)
    with mock.patch.object(lora_pipeline, "_convert_kohya_flux_lora_to_diffusers", converter):
        pipe.load_lora_weights(str(file.parent), weight_name=file.name)
    return pipe.transformer.eval()


def same_velocity(a, b):
    class Pipe:
        transformer, vae_scale_factor = a, 2

    given = flux.inputs(Pipe, (20, 12), 2)
    with torch.no_grad():
        assert error(flux.velocity(a, given), flux.velocity(b, given)) <= 1e-5


@pytest.mark.parametrize("sizes", SIZES)
def test_peft_in_and_out(folder, base, sizes):
    model, adapter = with_pairs(folder, base, **sizes)
    agrees(flux, folder, adapter, model, base)
    again = export(folder, adapter, "peft", "again")
    same_velocity(PeftModel.from_pretrained(FluxTransformer2DModel.from_pretrained(folder / "transformer"), again).eval(), model)


@pytest.mark.parametrize("sizes", SIZES)
def test_diffusers_reads_ours(folder, base, sizes):
    model, adapter = with_pairs(folder, base, **sizes)
    file = export(folder, adapter, "diffusers", DIFFUSERS)
    same_velocity(in_diffusers(folder, file), model)
    agrees(flux, folder, file, model, base)


def test_diffusers_files(folder, base):
    model, _ = with_pairs(folder, base, flux.LAYERS, rank=4, alpha=4)
    layers = {k.removeprefix("base_model.model."): v for k, v in get_peft_model_state_dict(model).items()}
    FluxPipeline.save_lora_weights(folder / "saved", transformer_lora_layers=layers)
    agrees(flux, folder, folder / "saved", model, base)


@pytest.mark.parametrize("sizes", SIZES)
def test_kohya_readers_read_ours(folder, base, sizes):
    """By the weights' converter, all modules; by load_lora_weights, those of blocks, as it has no others."""
    model, adapter = with_pairs(folder, base, **sizes)
    file = export(folder, adapter, "kohya", "kohya.safetensors")
    same_velocity(families.kohya_in_weights(flux, copy.deepcopy(base), load_file(file)), model)
    agrees(flux, folder, file, model, base)
    with safe_open(file, "pt") as f:
        assert f.metadata()["ss_network_dim"] == "4" and f.metadata()["ss_network_module"] == "networks.lora_flux"
        names = {k.split(".")[0] for k in f.keys()}
    assert {"lora_unet_single_blocks_1_linear1", "lora_unet_double_blocks_0_txt_attn_qkv", "lora_unet_final_layer_adaLN_modulation_1"} <= names
    model, adapter = with_pairs(folder, base, BLOCKS, **sizes)
    same_velocity(in_diffusers(folder, export(folder, adapter, "kohya", "blocks.safetensors")), model)


@pytest.mark.parametrize("targets", [flux.LAYERS, ["attn.to_q", "attn.to_v", "add_k_proj"], ["proj_mlp"], ["to_k", "proj_mlp", "norm_out.linear"]])
def test_round_trips_lose_nothing(folder, base, targets):
    _, adapter = with_pairs(folder, base, targets, rank_pattern={"to_v": 3, "proj_mlp": 5}, alpha_pattern={"to_v": 4.5, "proj_out": 7, "proj_mlp": 7.5})
    step = adapter
    for i in range(3):
        step = export(folder, step, "kohya", f"{i}.safetensors")
    same_pairs(export(folder, adapter, "peft", "a"), export(folder, step, "peft", "b"))


@pytest.mark.parametrize("still", [["to_q", "to_k", "to_v", "proj_mlp"], ["proj_mlp"], ["to_k"]])
def test_a_pair_that_is_still_zero(folder, base, still):
    """B starts at zero: such pairs go round too."""
    _, adapter = with_pairs(folder, base, ["single_transformer_blocks.1.attn.to_q", "single_transformer_blocks.1.attn.to_k",
                                           "single_transformer_blocks.1.attn.to_v", "single_transformer_blocks.1.proj_mlp"])  # fmt: skip
    t = load_file(adapter / "adapter_model.safetensors")
    for key in t:
        if ".lora_B." in key and any(s in key for s in still):
            t[key].zero_()
    save_file(t, adapter / "adapter_model.safetensors")
    step = export(folder, adapter, "kohya", "kohya.safetensors")
    same_pairs(export(folder, adapter, "peft", "a"), export(folder, step, "peft", "b"))


@pytest.mark.parametrize("form", ["fused", "dotted", "plain names"])
def test_files_of_other_trainers(folder, base, form):
    """Random pairs on every module of the original release, whose qkv share their A; the same with dots, as ComfyUI's
    trainers write them; and diffusers' names with underscores."""
    t, g = {}, torch.Generator().manual_seed(9)
    if form == "plain names":
        model, adapter = with_pairs(folder, base)
        for key, v in load_file(adapter / "adapter_model.safetensors").items():
            module, half = key.removeprefix("base_model.model.").removesuffix(".weight").rsplit(".", 1)
            name = "lora_transformer_" + module.replace(".", "_")
            t[f"{name}.lora_{dict(lora_A='down', lora_B='up')[half]}.weight"], t[name + ".alpha"] = v, torch.tensor(6.0)
    else:
        for key, w in flux.original_zeros(base).items():
            if w.dim() == 2:
                name, rank = "lora_unet_" + key.removesuffix(".weight").replace(".", "_"), 2 + len(t) % 5
                t[name + ".lora_down.weight"] = torch.randn(rank, w.shape[1], generator=g).half() / w.shape[1] ** 0.5
                t[name + ".lora_up.weight"] = torch.randn(w.shape[0], rank, generator=g).half()
                t[name + ".alpha"] = torch.tensor(1.5, dtype=torch.float16)
        model = families.kohya_in_weights(flux, copy.deepcopy(base), t)
    if form == "dotted":
        names = {"lora_unet_" + k.removesuffix(".weight").replace(".", "_"): k.removesuffix(".weight") for k in flux.original_zeros(base)}
        halves = {"lora_down.weight": "lora_A.weight", "lora_up.weight": "lora_B.weight", "alpha": "alpha"}
        t = {f"diffusion_model.{names[k.split('.', 1)[0]]}.{halves[k.split('.', 1)[1]]}": v for k, v in t.items()}
    save_file(t, folder / "adapter.safetensors")
    agrees(flux, folder, folder / "adapter.safetensors", model, base)


def test_merged(folder, base):
    model, adapter = with_pairs(folder, base)
    out = export(folder, adapter, "merged", "merged")
    theirs, info = FluxTransformer2DModel.from_pretrained(out, output_loading_info=True)
    assert not any(info[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    same_velocity(theirs.eval(), model)
    assert theirs.config.axes_dims_rope == [4, 6, 6] and theirs.config.guidance_embeds is True


def test_weights_of_the_original_release(folder, base):
    """Fused layouts are refused by a line that says what to do."""
    for prefix in "", "model.diffusion_model.":
        save_file({prefix + k: v for k, v in flux.original_zeros(base).items()}, folder / "transformer/diffusion_pytorch_model.safetensors")
        with pytest.raises(RuntimeError, match="is named as the original release has it: the weights must be in diffusers' layout") as e:
            families.probe(folder, "transformer", {"unused": torch.zeros(1)})
        assert str(e.value).count("\n") == 1
