#!/usr/bin/env python3
"""Converts reward weights that are published as pickles into the safetensors files that contraflow reads.

    tools/convert_weights.py HPS_v2.1_compressed.pt rewards/hpsv2 --open-clip ViT-H-14
    tools/convert_weights.py sac+logos+ava1-l14-linearMSE.pth rewards/aesthetic.safetensors
    tools/convert_weights.py pytorch_model.bin rewards/pickscore/model.safetensors

A pickle is opened with torch's weights_only loader, which runs no code of the file's.  With --open-clip the folder also
gets open_clip_config.json; copy vocab.json and merges.txt of CLIP's tokenizer beside it.
"""

import argparse
import json
import pathlib
import sys

import torch
from safetensors.torch import save_file

ARCHITECTURES = {
    "ViT-H-14": dict(embed_dim=1024, vision_cfg=dict(image_size=224, layers=32, width=1280, head_width=80, patch_size=14),
                     text_cfg=dict(context_length=77, vocab_size=49408, width=1024, heads=16, layers=24)),
    "ViT-L-14": dict(embed_dim=768, vision_cfg=dict(image_size=224, layers=24, width=1024, patch_size=14),
                     text_cfg=dict(context_length=77, vocab_size=49408, width=768, heads=12, layers=12)),
}  # fmt: skip


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("source", type=pathlib.Path)
    args.add_argument("target", type=pathlib.Path)
    args.add_argument("--open-clip", choices=ARCHITECTURES, help="the weights are open_clip's of this architecture; target is a folder")
    args = args.parse_args()
    state = torch.load(args.source, map_location="cpu", weights_only=True)
    for key in ("state_dict", "model"):  # training checkpoints keep the weights one level down
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        sys.exit(f"{args.source}: not a dictionary of tensors")
    if args.open_clip:
        state = {k.removeprefix("module."): v for k, v in state.items() if not k.endswith("attn_mask")}
        args.target.mkdir(parents=True, exist_ok=True)
        (args.target / "open_clip_config.json").write_text(json.dumps(dict(model_cfg=ARCHITECTURES[args.open_clip]), indent=2) + "\n")
        file = args.target / "open_clip_model.safetensors"
    else:
        file = args.target
        file.parent.mkdir(parents=True, exist_ok=True)
    # clones: a pickle may share memory between tensors, safetensors may not
    save_file({k: v.clone().contiguous() for k, v in state.items()}, file, {"format": "pt"})
    print(f"{file}: {len(state)} tensors, {sum(v.numel() for v in state.values()) / 1e6:.1f} M numbers")


if __name__ == "__main__":
    main()
