#!/usr/bin/env python3
"""Exports a Mask2Former from transformers as the TorchScript module of contraflow's detector `script`, for GenEval.

    tools/export_mask2former.py facebook/mask2former-swin-small-coco-instance models/mask2former.pt

The source is a folder or a hub id of a Mask2FormerForUniversalSegmentation trained on instances. Beside the module goes
NAME.classes.txt, one class per line as GenEval spells it. In the configuration:

    geneval: {detector: script, module: models/mask2former.pt, classes: models/mask2former.classes.txt, clip: ...}

The module takes images of any size, one after the other, and does what GenEval's published evaluation does through
mmdet: the shorter side to 800 (the longer to 1333 at most), bilinear without antialiasing, rounded to bytes, padded with
grey to multiples of 32; the 100 best of queries x classes by class probability; masks resized as logits to the image
and cut at 0; a candidate's score is its class probability times its mask's mean probability, its box the mask's.
transformers' own post_process_instance_segmentation differs: it scores masks of 384 x 384 pixels, gives overlapping
pixels to one object, and makes no boxes. Sizes, mean and deviation are those of the source's preprocessor_config.json.
"""

import argparse
import contextlib
import pathlib
import sys
import warnings
from typing import List, Tuple

import torch
import torch.nn.functional as F
from tracing import check_same, devices_stay_variable

# Names that GenEval spells otherwise than COCO, and those of older label files.
GENEVAL = {
    "mouse": "computer mouse", "remote": "tv remote", "keyboard": "computer keyboard", "cellphone": "cell phone", "tvmonitor": "tv",
    "motorbike": "motorcycle", "aeroplane": "airplane", "sofa": "couch", "pottedplant": "potted plant", "diningtable": "dining table",
}  # fmt: skip


class Network(torch.nn.Module):
    """The network alone: prepared images (1, 3, h, w) to logits of classes (1, Q, C + 1) and masks (1, Q, h / 4, w / 4)."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        out = self.model(pixel_values=x)
        return out.class_queries_logits, out.masks_queries_logits


class Detector(torch.nn.Module):
    """forward(images (N, 3, H, W) in [0, 1]) -> boxes (N, K, 4), classes (N, K), scores (N, K), masks (N, K, H, W)."""

    def __init__(self, network, short: int, long: int, mean: List[float], std: List[float], divisor: int = 32, most: int = 100):
        super().__init__()
        self.network = network
        self.short = short
        self.long = long
        self.divisor = divisor
        self.most = most
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))

    def inner_size(self, h: int, w: int) -> Tuple[int, int]:
        scale = min(float(self.long) / max(h, w), float(self.short) / min(h, w))
        return int(h * scale + 0.5), int(w * scale + 0.5)

    def prepare(self, image: torch.Tensor, h: int, w: int) -> torch.Tensor:
        x = F.interpolate((image * 255).round(), [h, w], mode="bilinear", align_corners=False).round()
        x = F.pad(x, [0, -w % self.divisor, 0, -h % self.divisor], value=128.0)
        return (x / 255 - self.mean) / self.std

    def boxes(self, on: torch.Tensor) -> torch.Tensor:
        ends: List[torch.Tensor] = []
        for axis in (1, 2):  # columns, then rows
            there = on.any(axis)
            at = torch.arange(there.shape[1], device=on.device)
            ends.append(torch.where(there, at, there.shape[1]).amin(1))
            ends.append(torch.where(there, at + 1, 0).amax(1))
        box = torch.stack([ends[0], ends[2], ends[1], ends[3]], 1)
        return (box * on.flatten(1).any(1)[:, None]).float()

    def one(self, image: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        H, W = image.shape[2], image.shape[3]
        h, w = self.inner_size(H, W)
        x = self.prepare(image, h, w)
        class_logits, mask_logits = self.network(x)
        masks = F.interpolate(mask_logits, [x.shape[2], x.shape[3]], mode="bilinear", align_corners=False)
        masks = F.interpolate(masks[:, :, :h, :w], [H, W], mode="bilinear", align_corners=False)[0]
        probability = class_logits[0].softmax(1)[:, :-1]
        classes = probability.shape[1]
        best, index = probability.flatten().topk(min(self.most, probability.numel()))
        masks = masks[torch.div(index, classes, rounding_mode="floor")]
        on = masks > 0
        quality = (masks.sigmoid() * on).flatten(1).sum(1) / (on.flatten(1).sum(1) + 1e-6)
        return self.boxes(on), index % classes, best * quality, on

    def forward(self, images: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        assert images.dim() == 4 and images.shape[1] == 3, "wanted images of (N, 3, H, W)"
        boxes: List[torch.Tensor] = []
        classes: List[torch.Tensor] = []
        scores: List[torch.Tensor] = []
        masks: List[torch.Tensor] = []
        for i in range(images.shape[0]):
            box, index, score, mask = self.one(images[i : i + 1])
            boxes.append(box)
            classes.append(index)
            scores.append(score)
            masks.append(mask)
        return torch.stack(boxes), torch.stack(classes), torch.stack(scores), torch.stack(masks)


# ---- Tracing ----------------------------------------------------------------------------------------


@contextlib.contextmanager
def sizes_stay_variable():
    """transformers makes a tensor of the feature maps' sizes with torch.tensor, which a trace takes for constants."""
    plain = torch.tensor

    def stacked(x):
        return torch.stack([stacked(v) for v in x]) if isinstance(x, (list, tuple)) else torch.as_tensor(x)

    def tensor(data, **kinds):
        rows = isinstance(data, list) and data and isinstance(data[0], list)
        return stacked(data).to(**kinds) if rows and isinstance(data[0][0], torch.Tensor) else plain(data, **kinds)

    torch.tensor = tensor
    try:
        yield
    finally:
        torch.tensor = plain


def trace(network):
    with torch.no_grad(), warnings.catch_warnings(), sizes_stay_variable():
        warnings.simplefilter("ignore")
        # every stage of this size is padded to whole windows, so the trace has the padding
        traced = torch.jit.trace(network, torch.zeros(1, 3, 96, 160), check_trace=False)
    devices_stay_variable(traced)
    for h, w in ((160, 96), (224, 224), (64, 320)):
        check_same(traced, network, [torch.randn(1, 3, h, w, generator=torch.Generator().manual_seed(h))], f"{h} x {w} pixels")
    return traced


# ---- The source -------------------------------------------------------------------------------------


def load(source):
    import transformers.models.mask2former.modeling_mask2former as mask2former
    from transformers.image_processing_base import ImageProcessingMixin

    mask2former.requires_backends = lambda *_: None  # the loss asks for scipy, and is not used
    model = mask2former.Mask2FormerForUniversalSegmentation.from_pretrained(source, dtype=torch.float32).eval()
    conf, _ = ImageProcessingMixin.get_image_processor_dict(source)
    size = conf.get("size", {})
    if not isinstance(size, dict) or "shortest_edge" not in size:
        size = dict(shortest_edge=800, longest_edge=1333)
    return model, dict(short=size["shortest_edge"], long=size.get("longest_edge") or 1333, divisor=conf.get("size_divisor", 32) or 32,
                       mean=conf.get("image_mean", [0.485, 0.456, 0.406]), std=conf.get("image_std", [0.229, 0.224, 0.225]))  # fmt: skip


def names(config):
    listed = [config.id2label[i].strip() for i in range(config.num_labels)]
    return [GENEVAL.get(n, n) for n in listed]


def export(source, target):
    model, preparation = load(source)
    target.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(Detector(trace(Network(model).eval()), **preparation).eval()).save(target)
    classes = target.with_suffix(".classes.txt")
    classes.write_text("".join(n + "\n" for n in names(model.config)))
    return classes


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("source", help="a folder or a hub id")
    args.add_argument("target", type=pathlib.Path, help="the module's file, NAME.pt")
    args = args.parse_args()
    if args.target.suffix != ".pt":
        sys.exit(f"{args.target}: the module's file is named .pt")
    classes = export(args.source, args.target)
    print(f"{args.target}: {args.target.stat().st_size / 1e6:.0f} MB; {classes}: {len(classes.read_text().splitlines())} classes")


if __name__ == "__main__":
    main()
