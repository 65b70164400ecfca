"""models/lora_file.c: adapters that PEFT reads, and PEFT's adapters read here."""

import json
import warnings

import pytest
import torch
from diffusers import SD3Transformer2DModel
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from sd3 import add_adapter, error, make_inputs, make_transformer, ours, probe, velocity

ATTENTION = ["attn.to_q", "attn.to_v", "attn.to_out.0", "attn.add_k_proj"]


@pytest.fixture
def transformer(folder):
    model = make_transformer(num_layers=2, dual_attention_layers=(0,), qk_norm="rms_norm")
    model.save_pretrained(folder / "transformer")
    return model


def tensors(folder):
    return load_file(folder / "adapter_model.safetensors")


def edit_config(folder, **changes):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize("rank, alpha, targets", [(4, 8, ATTENTION), (3, 4.5, ["to_k", "ff.net.2", "proj_out"])])
def test_peft_reads_ours(folder, transformer, rank, alpha, targets):
    probe("adapter", folder / "transformer", folder / "adapter", rank, alpha, "random", *targets)
    inputs = make_inputs(transformer)
    base = velocity(transformer, inputs)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = PeftModel.from_pretrained(transformer, folder / "adapter")
    theirs = {k.replace(".default.", "."): p for k, p in model.named_parameters() if "lora_" in k}
    mine = tensors(folder / "adapter")
    assert theirs.keys() == mine.keys()
    assert all(torch.equal(theirs[k], mine[k]) for k in mine)
    assert sorted(p.name for p in folder.iterdir()) == ["adapter", "transformer"]  # no temporary is left
    v = velocity(model, inputs)
    assert error(v, base) > 0.1
    out = ours(folder, inputs, adapter=folder / "adapter")
    for key in "v", "v_merged", "v_merged_grad":
        assert error(out[key], v) <= 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_ours_reads_peft(folder, transformer, dtype):
    add_adapter(transformer, 4, 6, ATTENTION).to(dtype).save_pretrained(folder / "adapter")
    probe("adapters", folder / "transformer", folder / "adapter", folder / "again")
    a, b = tensors(folder / "adapter"), tensors(folder / "again")
    assert a.keys() == b.keys() and all(torch.equal(a[k].float(), b[k]) for k in a)
    config = json.loads((folder / "again/adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["peft_type"]) == (4, 6, "LORA")


def test_fresh_adapter(folder, transformer):
    for name, init in [("gaussian", "gaussian"), ("again", "gaussian"), ("kaiming", "kaiming")]:
        probe("adapter", folder / "transformer", folder / name, 64, 64, init, *ATTENTION)
    a, again, k = (tensors(folder / name) for name in ("gaussian", "again", "kaiming"))
    assert all(torch.equal(a[x], again[x]) for x in a)
    assert all(not a[x].any() and not k[x].any() for x in a if "lora_B" in x)
    down = [a[x] for x in a if "lora_A" in x]
    assert all(abs(x.std() * 64 - 1) < 0.1 for x in down)
    assert len({x[0, 0].item() for x in down}) == len(down)
    for x in (k[x] for x in k if "lora_A" in x):
        bound = x.shape[1] ** -0.5
        assert 0.95 * bound < x.abs().max() <= bound


REFUSED = {
    "use_dora": (dict(use_dora=True), "use_dora"),
    "rank_pattern": (dict(rank_pattern={"add_k_proj": 8}), "has rank 4 for"),
    "bias": (dict(bias="all"), "bias"),
    "kind": (dict(peft_type="LOHA"), "only LORA"),
    "PiSSA": (dict(init_lora_weights="pissa_niter_4"), "init_lora_weights is 'pissa_niter_4': PEFT takes"),
    "OLoRA": (dict(init_lora_weights="OLoRA"), "path_initial_model_for_weight_conversion"),
    "LoftQ": (dict(init_lora_weights="loftq"), "init_lora_weights is 'loftq'"),
    "a start of tomorrow": (dict(init_lora_weights="new"), 'init_lora_weights is "new", which is not supported'),
    "a key of tomorrow": (dict(use_tomorrow=True), "'use_tomorrow' is set (true)"),
    "kasa": (dict(kasa_config={"beta": 1e-4}), "'kasa_config' is set"),
    "target_parameters": (dict(target_parameters=["x.weight"]), "'target_parameters' is set"),
    "lora_bias": (dict(lora_bias=True), "'lora_bias' is set"),
    "modules_to_save": (dict(modules_to_save=["proj_out"]), "'modules_to_save' is set"),
    "rank": (dict(r=8), "has rank 4 for transformer_blocks.0.attn.add_k_proj of shape [16, 16]"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_config(folder, transformer, name):
    changes, message = REFUSED[name]
    add_adapter(transformer, 4, 6, ["add_k_proj"]).save_pretrained(folder / "adapter")
    edit_config(folder / "adapter", **changes)
    with pytest.raises(RuntimeError) as e:
        probe("adapters", folder / "transformer", folder / "adapter", folder / "again")
    assert message in str(e.value) and str(e.value).count("\n") == 1


def test_every_default_of_peft_is_known(folder, transformer):
    """Whatever PEFT writes for a plain LoRA, and starts that leave the base alone, change nothing."""
    for start in True, False, "gaussian", "eva", "orthogonal":
        config = LoraConfig(r=4, lora_alpha=6, target_modules=["add_k_proj"], revision="main", lora_dropout=0.1)
        model = get_peft_model(SD3Transformer2DModel.from_pretrained(folder / "transformer"), config)
        model.save_pretrained(folder / f"adapter {start}")
        edit_config(folder / f"adapter {start}", init_lora_weights=start, use_tomorrow=None, also=[], tomorrow=False)
        probe("adapters", folder / "transformer", folder / f"adapter {start}", folder / f"again {start}")


KEY = "base_model.model.transformer_blocks.0.attn.to_q.lora_A.weight"
BROKEN = {
    "lost half": (lambda t: t.pop(KEY), f"'{KEY}' is missing"),
    "other module": (lambda t: t.update({KEY.replace("to_q", "to_x"): t.pop(KEY)}), "attn.to_x.lora_A.weight' matches no linear"),
    "other width": (lambda t: t.update({KEY: torch.zeros(4, 24)}), "attn.to_q of shape [16, 16], but its"),
    "one axis": (lambda t: t.update({KEY: torch.zeros(64)}), "has 1 dimensions"),
    "integers": (lambda t: t.update({KEY: torch.zeros(4, 16, dtype=torch.int32)}), "is int32"),
    "empty": (lambda t: t.clear(), "holds no tensors"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_refused_tensors(folder, transformer, name):
    change, message = BROKEN[name]
    add_adapter(transformer, 4, 6, ["attn.to_q"]).save_pretrained(folder / "adapter")
    t = tensors(folder / "adapter")
    change(t)
    save_file(t, folder / "adapter/adapter_model.safetensors")
    with pytest.raises(RuntimeError) as e:
        probe("adapters", folder / "transformer", folder / "adapter", folder / "again")
    assert message in str(e.value) and not (folder / "again").exists()
