"""FLUX.2-klein's adapters in every layout: what is exported here PEFT, diffusers and readers of kohya's names compute the same with, and
what they write is read here."""

import copy

import families
import flux2
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, Flux2KleinPipeline, Flux2Transformer2DModel
from families import add_adapter, agrees, error, export, same_pairs
from peft import PeftModel
from peft.utils import get_peft_model_state_dict

# what diffusers reads of such files without passing over some in silence: the last layer's, for one
BLOCKS = [t for t in flux2.LAYERS if t.startswith(("to_", "add_", "ff", "single_transformer"))]
SIZES = [{}, dict(rank_pattern={"to_q": 6, "to_qkv_mlp_proj": 2}, alpha_pattern={"to_k": 3.5, "ff.linear_out": 12})]


@pytest.fixture
def base(tmp_path):
    model = flux2.make_transformer(7)
    model.save_pretrained(tmp_path / "transformer")
    return model


def with_pairs(folder, base, targets=flux2.LAYERS, **changes):
    model = add_adapter(copy.deepcopy(base), targets, **changes)
    model.save_pretrained(folder / "peft")
    return model, folder / "peft"


def in_diffusers(folder, file):
    pipe = Flux2KleinPipeline(transformer=Flux2Transformer2DModel.from_pretrained(folder / "transformer"), vae=None, text_encoder=None, tokenizer=None,
                              scheduler=FlowMatchEulerDiscreteScheduler())  # fmt: skip
    pipe.load_lora_weights(str(file.parent), weight_name=file.name)
    return pipe.transformer.eval()


def same_velocity(a, b):
    class Pipe:
        transformer, vae_scale_factor = a, 2

    given = flux2.inputs(Pipe, (20, 12), 2)
    with torch.no_grad():
        assert error(flux2.velocity(a, given), flux2.velocity(b, given)) <= 1e-5


@pytest.mark.parametrize("sizes", SIZES)
def test_peft_in_and_out(tmp_path, base, sizes):
    model, adapter = with_pairs(tmp_path, base, **sizes)
    agrees(flux2, tmp_path, adapter, model, base)
    again = export(tmp_path, adapter, "peft", "again")
    same_velocity(PeftModel.from_pretrained(Flux2Transformer2DModel.from_pretrained(tmp_path / "transformer"), again).eval(), model)


@pytest.mark.parametrize("sizes", SIZES)
def test_diffusers_reads_ours(tmp_path, base, sizes):
    model, adapter = with_pairs(tmp_path, base, **sizes)
    file = export(tmp_path, adapter, "diffusers", "pytorch_lora_weights.safetensors")
    same_velocity(in_diffusers(tmp_path, file), model)
    agrees(flux2, tmp_path, file, model, base)


def test_diffusers_files(tmp_path, base):
    model, _ = with_pairs(tmp_path, base, rank=4, alpha=4)
    layers = {k.removeprefix("base_model.model."): v for k, v in get_peft_model_state_dict(model).items()}
    Flux2KleinPipeline.save_lora_weights(tmp_path / "saved", transformer_lora_layers=layers)
    agrees(flux2, tmp_path, tmp_path / "saved", model, base)


@pytest.mark.parametrize("sizes", SIZES)
def test_kohya(tmp_path, base, sizes):
    """Under the original release's names: read here with all modules, and by diffusers with those that it keeps."""
    model, adapter = with_pairs(tmp_path, base, **sizes)
    agrees(flux2, tmp_path, export(tmp_path, adapter, "kohya", "kohya.safetensors"), model, base)
    model, adapter = with_pairs(tmp_path, base, BLOCKS, **sizes)
    same_velocity(in_diffusers(tmp_path, export(tmp_path, adapter, "kohya", "blocks.safetensors")), model)


@pytest.mark.parametrize("targets", [flux2.LAYERS, ["attn.to_q", "attn.to_v", "add_k_proj"], ["to_qkv_mlp_proj", "norm_out.linear"]])
def test_round_trips_lose_nothing(tmp_path, base, targets):
    _, adapter = with_pairs(tmp_path, base, targets, rank_pattern={"to_v": 3}, alpha_pattern={"to_v": 4.5, "single_transformer_blocks.1.attn.to_out": 7})
    step = adapter
    for i in range(3):
        step = export(tmp_path, step, "kohya", f"{i}.safetensors")
    same_pairs(export(tmp_path, adapter, "peft", "a"), export(tmp_path, step, "peft", "b"))


def test_merged(tmp_path, base):
    model, adapter = with_pairs(tmp_path, base)
    out = export(tmp_path, adapter, "merged", "merged")
    theirs, info = Flux2Transformer2DModel.from_pretrained(out, output_loading_info=True)
    assert not any(info[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    same_velocity(theirs.eval(), model)
