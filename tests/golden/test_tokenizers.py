"""The tokenizers against transformers': identical ids on 10,000 strings each."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from sd3 import contraflow
from vocabularies import clip_folder, corpus, t5_folder
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer, T5Config, T5EncoderModel, T5Tokenizer

N, T5_LENGTH = 10000, 512


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    """The three encoders' folders; the models are as small as they can be."""
    folder = tmp_path_factory.mktemp("text")
    size = clip_folder(folder / "tokenizer")
    clip_folder(folder / "tokenizer_2", pad="!")
    t5_size = t5_folder(folder / "tokenizer_3")
    for name in ["text_encoder", "text_encoder_2"]:
        config = CLIPTextConfig(vocab_size=size, hidden_size=4, intermediate_size=4, num_hidden_layers=1, num_attention_heads=1,
                                projection_dim=4, eos_token_id=size - 1)  # fmt: skip
        CLIPTextModelWithProjection(config).save_pretrained(folder / name)
    config = T5Config(vocab_size=t5_size, d_model=8, d_kv=4, d_ff=4, num_layers=1, num_heads=1, feed_forward_proj="gated-gelu")
    T5EncoderModel(config).save_pretrained(folder / "text_encoder_3")
    return folder


@pytest.fixture(scope="module")
def ids(pipeline):
    prompts = corpus(N)
    save_file({"unused": torch.zeros(1)}, pipeline / "in.safetensors", {"prompts": json.dumps(prompts)})
    contraflow("probe", "tokenize", "--model", pipeline, "--in", pipeline / "in.safetensors", "--out",
               pipeline / "out.safetensors", "--t5-length", T5_LENGTH)  # fmt: skip
    return prompts, load_file(pipeline / "out.safetensors")


def differences(prompts, ours, theirs):
    rows = (ours != theirs).any(1).nonzero().flatten().tolist()
    return [(prompts[i][:60], ours[i][:20].tolist(), theirs[i][:20].tolist()) for i in rows[:3]] if rows else []


@pytest.mark.parametrize("folder, name", [("tokenizer", "input_ids"), ("tokenizer_2", "input_ids_2")])
def test_clip(pipeline, ids, folder, name):
    prompts, ours = ids
    theirs = CLIPTokenizer.from_pretrained(pipeline / folder)(
        prompts, padding="max_length", max_length=77, truncation=True, return_tensors="pt"
    ).input_ids
    assert ours[name].shape == (N, 77)
    assert not differences(prompts, ours[name], theirs)


def test_t5(pipeline, ids):
    prompts, ours = ids
    theirs = T5Tokenizer.from_pretrained(pipeline / "tokenizer_3")(
        prompts, padding="max_length", max_length=T5_LENGTH, truncation=True, add_special_tokens=True, return_tensors="pt"
    ).input_ids
    assert ours["input_ids_3"].shape == (N, T5_LENGTH)
    assert not differences(prompts, ours["input_ids_3"], theirs)
