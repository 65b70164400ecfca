"""Qwen3, the text of Qwen2.5-VL and Gemma 2 as text encoders: hidden states against transformers'."""

import json
import os
import pathlib
import subprocess

import pytest
import torch
from safetensors.torch import load_file, save_file
from sd3 import ROOT, error, randomise
from transformers import Gemma2Config, Gemma2ForCausalLM, Gemma2Model, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen3Config, Qwen3ForCausalLM, Qwen3Model

QWEN3 = dict(vocab_size=97, hidden_size=24, intermediate_size=40, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
             rms_norm_eps=1e-6)  # fmt: skip
ROPE = dict(rope_theta=1e6, rope_type="default")
VISION = dict(depth=1, hidden_size=16, intermediate_size=16, num_heads=2, out_hidden_size=24, fullatt_block_indexes=[0])
IDS = dict(bos_token_id=1, eos_token_id=2, image_token_id=3, video_token_id=4, vision_start_token_id=5, vision_end_token_id=6)


def qwen3(seed=0, kind=Qwen3ForCausalLM, **changes):
    config = Qwen3Config(**{**QWEN3, "rope_parameters": ROPE, "tie_word_embeddings": kind is Qwen3Model, **changes})
    return randomise(kind(config), seed).eval()


def qwen25(seed=0, **changes):
    text = dict(vocab_size=97, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=3, num_key_value_heads=1,
                rms_norm_eps=1e-6, bos_token_id=1, eos_token_id=2, rope_parameters=dict(ROPE, mrope_section=[1, 1, 2]))  # fmt: skip
    return randomise(Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config={**text, **changes}, vision_config=VISION, **IDS)), seed).eval()


GEMMA = dict(vocab_size=97, hidden_size=24, intermediate_size=40, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
             query_pre_attn_scalar=10)  # fmt: skip


def gemma(seed=0, kind=Gemma2Model, **changes):
    return randomise(kind(Gemma2Config(**{**GEMMA, **changes})), seed).eval()


def run(folder, inputs, states, dtype="float32"):
    build = pathlib.Path(os.environ.get("BUILD", "build"))
    program = (build if build.is_absolute() else ROOT / build) / "tests/golden_decoder"
    save_file(inputs, folder / "in.safetensors")
    files = [folder / "in.safetensors", folder / "out.safetensors"]
    done = subprocess.run([program, folder, *files, dtype, *map(str, states)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    out = load_file(folder / "out.safetensors")
    return [out[str(i)] for i in range(len(states))]


def batch(length, seed=3, words=97):
    """Ids whose rows end earlier than the batch, and how many of each count."""
    ids = torch.randint(0, words, (3, length), generator=torch.Generator().manual_seed(seed))
    return dict(ids=ids, lengths=torch.tensor([length, length // 2 + 1, 1]))


def states_of(model, inputs, dtype=torch.float32):
    ids = inputs["ids"]
    mask = torch.ones_like(ids)
    if "lengths" in inputs:
        mask = (torch.arange(ids.shape[1]) < inputs["lengths"][:, None]).long()
    with torch.no_grad():
        return model.to(dtype)(ids, attention_mask=mask, output_hidden_states=True).hidden_states


def check(model, folder, inputs, states):
    want = states_of(model, inputs)
    for k, got in zip(states, run(folder, inputs, states)):
        assert error(got, want[k]) < 1e-5, k
        assert (got - want[k]).abs().max() < 1e-4 * want[k].abs().max(), k  # padded rows, too


@pytest.mark.parametrize("length", [1, 7, 40])
@pytest.mark.parametrize("kind", [Qwen3ForCausalLM, Qwen3Model], ids=["model.", "bare"])
def test_qwen3(tmp_path, kind, length):
    model = qwen3(length, kind)
    model.save_pretrained(tmp_path)
    check(model, tmp_path, batch(length), [0, 1, 2, -1])
    check(model, tmp_path, dict(ids=batch(length)["ids"]), [-2])
    check(model, tmp_path, batch(length), [3])


@pytest.mark.parametrize("changes", [dict(num_key_value_heads=4), dict(num_key_value_heads=1, head_dim=6), dict(num_hidden_layers=1, num_attention_heads=2),
                                     dict(rms_norm_eps=1e-2, rope_parameters=dict(rope_theta=50.0, rope_type="default"))], ids=str)  # fmt: skip
def test_qwen3_sizes(tmp_path, changes):
    model = qwen3(5, **changes)
    model.save_pretrained(tmp_path)
    check(model, tmp_path, batch(19), [0, 1, -1])


@pytest.mark.parametrize("length", [1, 9, 33])
def test_qwen25(tmp_path, length):
    model = qwen25(length)
    model.save_pretrained(tmp_path)
    assert any(k.startswith("visual.") for k in load_file(tmp_path / "model.safetensors"))
    check(model, tmp_path, batch(length), [0, 1, 2])
    check(model, tmp_path, dict(ids=batch(length)["ids"]), [-1])


@pytest.mark.parametrize("length", [1, 9, 40])
@pytest.mark.parametrize("changes", [dict(), dict(sliding_window=5, attn_logit_softcapping=0.7), dict(num_key_value_heads=4, attn_logit_softcapping=None),
                                     dict(kind=Gemma2ForCausalLM, head_dim=6, query_pre_attn_scalar=2, rms_norm_eps=1e-2)], ids=str)  # fmt: skip
def test_gemma(tmp_path, changes, length):
    model = gemma(length, **changes)
    model.save_pretrained(tmp_path)
    check(model, tmp_path, batch(length), [0, 1, 2, -1])
    check(model, tmp_path, dict(ids=batch(length)["ids"]), [-1])


def edit(path, change):
    o = json.loads(path.read_text())
    change(o)
    path.write_text(json.dumps(o))


@pytest.mark.parametrize("make", [qwen3, qwen25])
def test_config_of_the_hub(tmp_path, make):
    """What was written before transformers 5: rope_theta at the top, Qwen2.5-VL's text flat beside its eyes."""
    model = make(7)
    model.save_pretrained(tmp_path)

    def flat(o):
        text = o.pop("text_config", o)
        rope = text.pop("rope_parameters")
        scaling = dict(type="mrope", mrope_section=[1, 1, 2]) if make is qwen25 else None
        o.update({k: v for k, v in text.items() if k != "model_type"}, rope_theta=rope["rope_theta"], rope_scaling=scaling, sliding_window=32768,
                 use_sliding_window=False, max_window_layers=28)  # fmt: skip
        o.pop("layer_types")

    edit(tmp_path / "config.json", flat)
    check(model, tmp_path, batch(12), [1, -1])


def test_names_of_transformers_4(tmp_path):
    """Qwen2.5-VL as versions from 4.52 on saved it: model.language_model and model.visual."""
    model = qwen25(8)
    model.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    save_file({k.replace("model.", "model.language_model.").replace("visual.", "model.visual."): v for k, v in load_file(file).items()}, file)
    check(model, tmp_path, batch(12), [1, -1])


def test_layers_that_do_not_run_are_not_read(tmp_path):
    """Wrong shapes in a layer behind the last state, and in the norm, go unnoticed: nothing reads them."""
    model = qwen3(9)
    model.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    spoilt = {k: v[:1] if k.startswith("model.layers.2.") or k == "model.norm.weight" else v for k, v in load_file(file).items()}
    save_file({k: v.clone() for k, v in spoilt.items()}, file)
    check(model, tmp_path, batch(12), [0, 2])
    with pytest.raises(RuntimeError, match=r"model.layers.2"):
        run(tmp_path, batch(12), [3])


@pytest.mark.parametrize("make", [qwen3, qwen25, gemma])
def test_low_precision(tmp_path, make):
    """bfloat16: no further from float32 than transformers' own is."""
    model = make(10)
    model.save_pretrained(tmp_path)
    inputs = batch(40)
    exact, states = states_of(model, inputs), [1, 2, -1]
    ours, theirs = run(tmp_path, inputs, states, "bfloat16"), states_of(model, inputs, torch.bfloat16)
    for k, got in zip(states, ours):
        mine, other = error(got, exact[k]), error(theirs[k], exact[k])
        print(f"state {k}: {mine:.2e}, transformers {other:.2e}")
        assert mine <= 1.1 * other


@pytest.mark.parametrize("change, message", [
    (lambda o: o.update(model_type="gemma3"), "model_type 'gemma3': there are qwen3, qwen2_5_vl and gemma2"),
    (lambda o: o.update(num_key_value_heads=3), "num_key_value_heads must divide num_attention_heads"),
    (lambda o: o.update(head_dim=7), "head_dim must be even"),
    (lambda o: o.pop("hidden_size"), "hidden_size must be a number above 0"),
    (lambda o: o["rope_parameters"].update(rope_type="yarn", factor=4.0), "rope_parameters.rope_type 'yarn'"),
    (lambda o: o["layer_types"].__setitem__(1, "sliding_attention"), "layer_types[1] is not full_attention"),
    (lambda o: o.update(use_sliding_window=True), "use_sliding_window"),
    (lambda o: o.update(hidden_act="gelu"), "hidden_act"),
    (lambda o: o.update(attention_bias=True), "attention_bias"),
    (lambda o: o.update(num_hidden_layers=2), "hidden state 3 is wanted"),
    (lambda o: o.update(vocab_size=98), "model.embed_tokens.weight"),
])  # fmt: skip
def test_mistakes(tmp_path, change, message):
    qwen3().save_pretrained(tmp_path)
    edit(tmp_path / "config.json", change)
    with pytest.raises(RuntimeError) as e:
        run(tmp_path, batch(5), [3])
    assert message in str(e.value) and str(e.value).count("\n") == 1, str(e.value)


@pytest.mark.parametrize("change, message", [
    (lambda o: o["layer_types"].__setitem__(0, "full_attention"), "layer_types[0] is not sliding_attention"),
    (lambda o: o.update(attention_bias=True), "attention_bias"),
    (lambda o: o.update(hidden_activation="silu"), "hidden_activation"),
    (lambda o: o.update(query_pre_attn_scalar=0), "query_pre_attn_scalar must be above 0"),
    (lambda o: o.update(attn_logit_softcapping=-1), "attn_logit_softcapping must be above 0"),
])  # fmt: skip
def test_mistakes_of_gemma(tmp_path, change, message):
    gemma().save_pretrained(tmp_path)
    edit(tmp_path / "config.json", change)
    with pytest.raises(RuntimeError) as e:
        run(tmp_path, batch(5), [3])
    assert message in str(e.value) and str(e.value).count("\n") == 1, str(e.value)


def test_no_decoder(tmp_path):
    qwen3().save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    save_file({k.replace("embed_tokens", "wte"): v for k, v in load_file(file).items()}, file)
    with pytest.raises(RuntimeError, match="no tensor embed_tokens.weight"):
        run(tmp_path, batch(5), [0])
