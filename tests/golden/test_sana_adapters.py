"""SANA's adapters: what is exported here PEFT and diffusers compute the same with, and what they write is read here."""

import copy

import families
import pytest
import sana
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, SanaPipeline, SanaTransformer2DModel
from families import add_adapter, agrees, error, export
from peft import PeftModel
from peft.utils import get_peft_model_state_dict

SIZES = [{}, dict(rank_pattern={"to_q": 6, "proj_out": 2}, alpha_pattern={"to_k": 3.5, "linear_1": 12})]


@pytest.fixture
def base(tmp_path):
    model = sana.make_transformer(7)
    model.save_pretrained(tmp_path / "transformer")
    return model


def with_pairs(folder, base, targets=sana.LAYERS, **changes):
    model = add_adapter(copy.deepcopy(base), targets, **changes)
    model.save_pretrained(folder / "peft")
    return model, folder / "peft"


def in_diffusers(folder, file):
    pipe = SanaPipeline(transformer=SanaTransformer2DModel.from_pretrained(folder / "transformer"), vae=None, text_encoder=None, tokenizer=None,
                        scheduler=FlowMatchEulerDiscreteScheduler())  # fmt: skip
    pipe.load_lora_weights(str(file.parent), weight_name=file.name)
    return pipe.transformer.eval()


def same_velocity(a, b):
    class Pipe:
        transformer, vae_scale_factor = a, 2

    given = sana.inputs(Pipe, (20, 12), 2)
    with torch.no_grad():
        assert error(sana.velocity(a, given), sana.velocity(b, given)) <= 1e-5


@pytest.mark.parametrize("sizes", SIZES)
def test_peft_and_diffusers(tmp_path, base, sizes):
    model, adapter = with_pairs(tmp_path, base, **sizes)
    agrees(sana, tmp_path, adapter, model, base)
    again = export(tmp_path, adapter, "peft", "again")
    same_velocity(PeftModel.from_pretrained(SanaTransformer2DModel.from_pretrained(tmp_path / "transformer"), again).eval(), model)
    file = export(tmp_path, adapter, "diffusers", "pytorch_lora_weights.safetensors")
    same_velocity(in_diffusers(tmp_path, file), model)
    agrees(sana, tmp_path, file, model, base)


def test_diffusers_files(tmp_path, base):
    model, _ = with_pairs(tmp_path, base, rank=4, alpha=4)
    layers = {k.removeprefix("base_model.model."): v for k, v in get_peft_model_state_dict(model).items()}
    SanaPipeline.save_lora_weights(tmp_path / "saved", transformer_lora_layers=layers)
    agrees(sana, tmp_path, tmp_path / "saved", model, base)


def test_merged(tmp_path, base):
    model, adapter = with_pairs(tmp_path, base)
    out = export(tmp_path, adapter, "merged", "merged")
    theirs, info = SanaTransformer2DModel.from_pretrained(out, output_loading_info=True)
    assert not any(info[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    same_velocity(theirs.eval(), model)


def test_no_kohya(tmp_path, base):
    """Nobody trains SANA under other names."""
    _, adapter = with_pairs(tmp_path, base)
    with pytest.raises(RuntimeError) as e:
        export(tmp_path, adapter, "kohya", "kohya.safetensors")
    assert str(e.value).count("\n") == 1
