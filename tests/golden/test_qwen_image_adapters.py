"""Qwen-Image's adapters in every layout: what is exported here PEFT and diffusers compute the same with, what they write is read here."""

import copy

import families
import pytest
import qwen_image
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, QwenImagePipeline, QwenImageTransformer2DModel
from families import add_adapter, agrees, error, export, same_pairs
from peft import PeftModel
from peft.utils import get_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file, save_file

SIZES = [{}, dict(rank_pattern={"to_q": 6, "img_mod.1": 2}, alpha_pattern={"to_k": 3.5, "txt_mlp.net.2": 12})]


@pytest.fixture
def base(folder):
    model = qwen_image.make_transformer(7)
    model.save_pretrained(folder / "transformer")
    return model


def with_pairs(folder, base, **changes):
    """The base with an adapter of PEFT on all its modules, and the adapter's folder.  Its pairs are smaller than those of other tests: all modules
    changed at once by as much as they are would leave float32 no 1e-5."""
    model = add_adapter(copy.deepcopy(base), qwen_image.LAYERS, **changes)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.mul_(0.3)
    model.save_pretrained(folder / "peft")
    return model, folder / "peft"


def in_diffusers(folder, file):
    transformer = QwenImageTransformer2DModel.from_pretrained(folder / "transformer")
    pipe = QwenImagePipeline(transformer=transformer, vae=None, text_encoder=None, tokenizer=None, scheduler=FlowMatchEulerDiscreteScheduler())
    pipe.load_lora_weights(str(file.parent), weight_name=file.name)
    return pipe.transformer.eval()


def same_velocity(a, b):
    class Pipe:
        transformer, vae_scale_factor = a, 2

    given = qwen_image.inputs(Pipe, (20, 12), 2)
    with torch.no_grad():
        assert error(qwen_image.velocity(a, given), qwen_image.velocity(b, given)) <= 1e-5


@pytest.mark.parametrize("sizes", SIZES)
def test_peft_in_and_out(folder, base, sizes):
    model, adapter = with_pairs(folder, base, **sizes)
    agrees(qwen_image, folder, adapter, model, base)
    again = export(folder, adapter, "peft", "again")
    same_velocity(PeftModel.from_pretrained(QwenImageTransformer2DModel.from_pretrained(folder / "transformer"), again).eval(), model)


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("form", ["diffusers", "kohya"])
def test_diffusers_reads_ours(folder, base, form, sizes):
    """load_lora_weights takes both, and so do we."""
    model, adapter = with_pairs(folder, base, **sizes)
    file = export(folder, adapter, form, form + ".safetensors")
    same_velocity(in_diffusers(folder, file), model)
    agrees(qwen_image, folder, file, model, base)
    if form == "kohya":
        with safe_open(file, "pt") as f:
            assert f.metadata()["ss_network_module"] == "networks.lora_qwen_image"
            names = {k.split(".")[0] for k in f.keys()}
        assert {"lora_unet_transformer_blocks_1_attn_to_q", "lora_unet_transformer_blocks_0_txt_mod_1", "lora_unet_norm_out_linear"} <= names
        same_pairs(export(folder, adapter, "peft", "a"), export(folder, file, "peft", "b"))


def test_diffusers_files(folder, base):
    model, _ = with_pairs(folder, base, rank=4, alpha=4)
    layers = {k.removeprefix("base_model.model."): v for k, v in get_peft_model_state_dict(model).items()}
    QwenImagePipeline.save_lora_weights(folder / "saved", transformer_lora_layers=layers)
    agrees(qwen_image, folder, folder / "saved", model, base)


@pytest.mark.parametrize("prefix, halves, alpha", [("diffusion_model.", "lora_A lora_B", True), ("diffusion_model.", "lora_down lora_up", True),
                                                   ("transformer.", "lora_A lora_B", False), ("", "lora_A lora_B", True)])  # fmt: skip
def test_files_of_other_trainers(folder, base, prefix, halves, alpha):
    """As ComfyUI's trainers name them, with alphas as tensors: what diffusers makes of such a file we make of it, too."""
    model, adapter = with_pairs(folder, base, rank=4, alpha=6 if alpha else 4)
    names, t = dict(zip(["lora_A", "lora_B"], halves.split())), {}
    for key, v in load_file(adapter / "adapter_model.safetensors").items():
        module, half = key.removeprefix("base_model.model.").removesuffix(".weight").rsplit(".", 1)
        t[f"{prefix}{module}.{names[half]}.weight"] = v
        if alpha:
            t[f"{prefix}{module}.alpha"] = torch.tensor(6.0)
    save_file(t, folder / "adapter.safetensors")
    same_velocity(in_diffusers(folder, folder / "adapter.safetensors"), model)
    agrees(qwen_image, folder, folder / "adapter.safetensors", model, base)


def test_merged(folder, base):
    model, adapter = with_pairs(folder, base)
    out = export(folder, adapter, "merged", "merged")
    theirs, info = QwenImageTransformer2DModel.from_pretrained(out, output_loading_info=True)
    assert not any(info[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    same_velocity(theirs.eval(), model)
    assert list(theirs.config.axes_dims_rope) == [4, 6, 6] and theirs.config.guidance_embeds is False
