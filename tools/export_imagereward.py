#!/usr/bin/env python3
"""Exports ImageReward as a TorchScript module for contraflow's reward `script`.

    tools/export_imagereward.py ImageReward.pt models/imagereward.pt

The source is the published checkpoint (a pickle, opened with torch's weights_only loader, which runs no code of the file's)
or the same tensors in safetensors: BLIP's ViT-L/16 at 224 pixels, its BERT whose layers look at the image, and a head.
NAME.tokenizer is written beside the module: BERT's, with the two tokens that BLIP adds. In the configuration:

    imagereward: {type: script, module: models/imagereward.pt, tokenizer: models/imagereward.tokenizer, text_length: 35}

The module takes images of any size and prepares them as the published code does: the shorter side to 224 (bicubic, as
Pillow: rows, then columns, bytes in between), the middle cut out. Ids of 0 are padding.
"""

import argparse
import pathlib
import sys
import warnings

import torch
import torch.nn.functional as F
from tracing import check_same, devices_stay_variable

MEAN, DEVIATION = 0.16717362830052426, 1.0333394966054072  # of the scores, as published
HEAD = ["0", "2", "4", "6", "7"]  # the linear layers among dropouts


class Network(torch.nn.Module):
    """Prepared images (N, 3, S, S) and ids (N, L) to scores (N)."""

    def __init__(self, vision, text, head):
        super().__init__()
        self.vision = vision
        self.text = text
        self.head = head

    def forward(self, x, ids):
        seen = self.vision(pixel_values=x).last_hidden_state
        there = torch.ones(seen.shape[:2], dtype=torch.long, device=seen.device)
        said = self.text(input_ids=ids, attention_mask=(ids != 0).long(), encoder_hidden_states=seen, encoder_attention_mask=there)
        return (self.head(said.last_hidden_state[:, 0])[:, 0] - MEAN) / DEVIATION


class Judge(torch.nn.Module):
    """forward(images (N, 3, H, W) in [0, 1], ids (N, L)) -> scores (N)."""

    def __init__(self, network, size: int):
        super().__init__()
        self.network = network
        self.size = size
        self.register_buffer("mean", torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(1, 3, 1, 1))

    def resize(self, x: torch.Tensor, h: int, w: int) -> torch.Tensor:
        return F.interpolate(x, [h, w], mode="bicubic", align_corners=False, antialias=True).round().clamp(0, 255)

    def middle(self, room: int) -> int:  # halves go to the even number
        return room // 2 + (room % 2) * (room // 2 % 2)

    def forward(self, images: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        h, w = images.shape[2], images.shape[3]
        new_h = self.size if h <= w else int(self.size * h / w)
        new_w = self.size if w <= h else int(self.size * w / h)
        x = self.resize(self.resize((images * 255).round(), h, new_w), new_h, new_w)
        top, left = self.middle(new_h - self.size), self.middle(new_w - self.size)
        x = x[:, :, top : top + self.size, left : left + self.size]
        return self.network((x / 255 - self.mean) / self.std, ids)


# ---- The checkpoint ---------------------------------------------------------------------------------


def read(source):
    if source.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(source)
    return torch.load(source, map_location="cpu", weights_only=True)


def vision_names(state):
    """The published names of the image's encoder to transformers'."""
    plain = {"cls_token": "embeddings.class_embedding", "pos_embed": "embeddings.position_embedding"}
    parts = [("patch_embed.proj.", "embeddings.patch_embedding."), ("blocks.", "encoder.layers."), (".norm1.", ".layer_norm1."),
             (".norm2.", ".layer_norm2."), (".attn.qkv.", ".self_attn.qkv."), (".attn.proj.", ".self_attn.projection.")]  # fmt: skip
    out = {}
    for name, x in state.items():
        new = plain.get(name, name)
        for old, to in parts:
            new = new.replace(old, to)
        out["post_layernorm." + name[5:] if name.startswith("norm.") else new] = x
    return out


def below(state, prefix):
    return {k.removeprefix(prefix): v.float() for k, v in state.items() if k.startswith(prefix)}


def build(state, vision_heads, text_heads):
    """The network, its sizes read from the tensors.  Returns the image's side too."""
    from transformers import BlipTextConfig, BlipTextModel, BlipVisionConfig, BlipVisionModel

    seen = vision_names(below(state, "blip.visual_encoder."))
    said = {k: v for k, v in below(state, "blip.text_encoder.").items() if not k.endswith("position_ids")}
    head = {k: v.float() for k, v in state.items() if k.startswith("mlp.layers.")}
    try:
        patch = seen["embeddings.patch_embedding.weight"]
        side = int((seen["embeddings.position_embedding"].shape[1] - 1) ** 0.5) * patch.shape[2]
        words = said["embeddings.word_embeddings.weight"]
        inner = [x["%s.weight" % n].shape[0] for x, n in ((seen, "encoder.layers.0.mlp.fc1"), (said, "encoder.layer.0.intermediate.dense"))]
        layers = [len({k.split(".")[2] for k in x if k.startswith(n)}) for x, n in ((seen, "encoder.layers."), (said, "encoder.layer."))]
        positions = said["embeddings.position_embeddings.weight"].shape[0]
        widths = [head[f"mlp.layers.{n}.weight"].shape for n in HEAD]
    except KeyError as e:
        sys.exit(f"this is not an ImageReward checkpoint: there is no tensor {e}")
    vision = BlipVisionModel(BlipVisionConfig(hidden_size=patch.shape[0], patch_size=patch.shape[2], image_size=side, intermediate_size=inner[0],
                                              num_hidden_layers=layers[0], num_attention_heads=vision_heads, layer_norm_eps=1e-6))  # fmt: skip
    text = BlipTextModel(BlipTextConfig(vocab_size=words.shape[0], hidden_size=words.shape[1], encoder_hidden_size=patch.shape[0],
                                        intermediate_size=inner[1], num_hidden_layers=layers[1], num_attention_heads=text_heads,
                                        max_position_embeddings=positions, layer_norm_eps=1e-12), add_pooling_layer=False)  # fmt: skip
    mlp = torch.nn.ModuleDict({n: torch.nn.Linear(w[1], w[0]) for n, w in zip(HEAD, widths)})
    for module, tensors in ((vision, seen), (text, said), (mlp, below(head, "mlp.layers."))):
        odd = set(module.state_dict()) ^ set(tensors)
        if odd:
            sys.exit(f"this is not an ImageReward checkpoint: {sorted(odd)[0]} does not match (of {len(odd)} such tensors)")
        module.load_state_dict(tensors)
    return Network(vision, text, torch.nn.Sequential(*mlp.values())).eval(), side


def trace(network, side):
    def example(n, length):
        g = torch.Generator().manual_seed(n)
        ids = torch.randint(1, 5, (n, length), generator=g)
        ids[:, length // 2 :] *= torch.randint(0, 2, (n, 1), generator=g)
        return [torch.randn(n, 3, side, side, generator=g), ids]

    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(network, example(2, 35), check_trace=False)
    devices_stay_variable(traced)
    check_same(traced, network, example(3, 35), "three images")
    check_same(traced, network, example(1, 20), "20 ids")
    return traced


def save_tokenizer(source, folder, room):
    from transformers import BertTokenizer

    tokenizer = BertTokenizer.from_pretrained(source)
    tokenizer.add_special_tokens({"bos_token": "[DEC]", "additional_special_tokens": ["[ENC]"]})
    if len(tokenizer) > room:
        sys.exit(f"{source}: {len(tokenizer)} tokens, the checkpoint knows {room}")
    tokenizer.save_pretrained(folder)


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("source", type=pathlib.Path, help="the checkpoint, .pt or .safetensors")
    args.add_argument("target", type=pathlib.Path, help="the module's file, NAME.pt")
    args.add_argument("--tokenizer", default="bert-base-uncased", help="a folder or a hub id of BERT's tokenizer (%(default)s)")
    args.add_argument("--vision-heads", type=int, default=16, help="attention heads of the image encoder (%(default)s)")
    args.add_argument("--text-heads", type=int, default=12, help="attention heads of the text encoder (%(default)s)")
    args = args.parse_args()
    if args.target.suffix != ".pt":
        sys.exit(f"{args.target}: the module's file is named .pt")
    network, side = build(read(args.source), args.vision_heads, args.text_heads)
    args.target.parent.mkdir(parents=True, exist_ok=True)
    save_tokenizer(args.tokenizer, args.target.with_suffix(".tokenizer"), network.text.config.vocab_size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(Judge(trace(network, side), side).eval()).save(args.target)
    print(f"{args.target}: {args.target.stat().st_size / 1e6:.0f} MB, images of {side} x {side} inside; {args.target.with_suffix('.tokenizer')}")


if __name__ == "__main__":
    main()
