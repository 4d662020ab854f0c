"""Inference of ResNet-50-FPN on pictures of 800 × 1216: `recipes.resnet50_fpn` against torchvision's.

Both have the same weights: a fixed draw, scaled so that activations stay finite, proposals fill their 1000
slots and detections their 100. Ours reads torchvision's weights as a user's would be read, so both find the
same objects; that this is so is printed. Ours runs as `Predictor` runs it, norms folded and channels-last;
torchvision's as published, on CUDA channels-last too. Two rows: from pixels to boxes and 28 × 28 masks, and
from a picture to 100 masks of the picture's size (on CUDA ours to run lengths, which leave the device).

python benchmarks/inference.py [--json benchmarks/results/inference.json]
python benchmarks/inference.py --device cuda --precision bf16 --batch 8 --size 800x1344
"""

import argparse
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import contest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN as TorchvisionMaskRCNN
from torchvision.models.detection import maskrcnn_resnet50_fpn

from maskrcnn.network.model import MaskRCNN
from maskrcnn.predict import Predictor
from maskrcnn.result import Result
from maskrcnn.types import Batch
from maskrcnn.weights.trained import of_library

CLASSES = 90
# Factors on a variance-preserving draw: residual branches are damped, scores spread over the thresholds.
FACTORS = {
    r"bn3\.weight": 0.2,
    r"inner_blocks.*weight": 0.3,
    r"rpn\.head\.bbox_pred\.weight": 0.1,
    r"cls_score\.weight": 0.6,
    r"box_predictor\.bbox_pred\.weight": 0.7,
    r"mask_fcn_logits\.weight": 2.0,
}


def main() -> None:
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    device, on_cuda, size_hw = arguments.device, arguments.device.startswith("cuda"), arguments.size
    theirs = build_theirs()
    ours = build_ours(theirs)
    names = tuple(map(str, range(CLASSES)))
    predictor = Predictor(
        ours,
        class_names=names,
        category_ids=range(CLASSES),
        short_side=min(size_hw),
        long_side=max(size_hw),
        device=device,
    )
    theirs = theirs.to(device, memory_format=torch.channels_last if on_cuda else torch.preserve_format)
    theirs.transform.min_size, theirs.transform.max_size = (min(size_hw),), max(size_hw)
    pixels = torch.stack([picture(size_hw, seed) for seed in range(arguments.batch)])
    images = [image.to(device).float() / 255 for image in pixels]
    sizes_hw = torch.tensor([size_hw] * arguments.batch)
    batch = Batch(pixels.contiguous(memory_format=torch.channels_last), sizes_hw).to(device)
    arrays = [image.permute(1, 2, 0).contiguous().numpy() for image in pixels]

    def predicted() -> list:
        found = predictor.predict_many(arrays, score=0.0, batch_size=arguments.batch, workers=0)
        return [result.rle() if on_cuda else result.masks for _, result in found]

    def turns(ours: Callable[[], Any], theirs: Callable[[], Any]) -> dict[str, contest.Times]:
        contestants = {"ours": lambda: finished(ours()), "theirs": lambda: finished(theirs())}
        return contest.take_turns(contestants, repeats=arguments.repeats)

    with (
        torch.inference_mode(),
        torch.autocast(torch.device(device).type, torch.bfloat16, arguments.precision == "bf16"),
    ):
        agreement = compare(predictor.predict(arrays[0], score=0.0), network_of(theirs, images[:1])[0])
        network = turns(lambda: predictor.model.detect(batch), lambda: network_of(theirs, images))
        whole = turns(predicted, lambda: theirs(images))
    rows = {
        "network": contest.row("pixels to boxes and 28x28 masks", network["ours"], network["theirs"]),
        "whole": contest.row("picture to 100 masks of its size", whole["ours"], whole["theirs"]),
    }
    for name, times in (("network", network), ("whole", whole)):
        print(
            f"{name}: ours takes {times['ours'].median / times['theirs'].median:.2f} of torchvision's time",
            end="; ",
        )
        print(f"{1000 * arguments.batch / times['ours'].median:.1f} pictures/s", flush=True)
    work = {
        "size_hw": arguments.size,
        "batch": arguments.batch,
        "precision": arguments.precision,
        "device": device,
    }
    contest.write(arguments.json, {**work, "agreement": agreement, "rows": rows})


def parse() -> argparse.Namespace:
    parser = contest.arguments("ResNet-50-FPN on pictures, ours against torchvision", repeats=5)
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument(
        "--precision", choices=("float32", "bf16"), default="float32", help="of both, by autocast"
    )
    parser.add_argument("--batch", type=int, default=1, help="pictures (default: 1)")
    parser.add_argument(
        "--size", type=contest.sides, default=(800, 1216), help="rows x columns (default: 800x1216)"
    )
    return parser.parse_args()


def finished(answer: Any) -> Any:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return answer


def build_theirs() -> TorchvisionMaskRCNN:
    model = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=CLASSES + 1).eval()
    draw = torch.Generator().manual_seed(0)
    for name, value in model.state_dict().items():
        if not name.endswith(("running_mean", "running_var", "num_batches_tracked")):
            value.copy_(drawn(name, value.shape, draw))
    return model


def drawn(name: str, shape: torch.Size, draw: torch.Generator) -> Tensor:
    value = torch.randn(shape, generator=draw)
    factor = next((factor for pattern, factor in FACTORS.items() if re.search(pattern, name)), 1.0)
    if len(shape) > 1:
        return value * factor * (2 / shape[1:].numel()) ** 0.5
    return (1 + 0.1 * value) * factor if name.endswith("weight") else 0.02 * value


def build_ours(theirs: TorchvisionMaskRCNN) -> MaskRCNN:
    """Return our network with their weights, recognised; without a checkpoint their norms keep an epsilon."""
    trained = of_library(theirs.state_dict())
    return replace(trained, arguments={**trained.arguments, "norm_eps": 1e-5}).build().eval()


def picture(size_hw: tuple[int, int], seed: int = 0) -> Tensor:
    """Return noise on several scales, as bytes (3, H, W)."""
    draw, (height, width) = torch.Generator().manual_seed(seed), size_hw
    layers = [torch.rand(1, 3, height // scale, width // scale, generator=draw) for scale in (1, 8, 32)]
    mixed = sum(F.interpolate(layer, size_hw, mode="bilinear") for layer in layers) / 3
    return (mixed[0] * 255).to(torch.uint8)


def network_of(model: nn.Module, pictures: list[Tensor]) -> list[dict[str, Tensor]]:
    """Run torchvision's network up to boxes and 28 × 28 masks, without pasting them."""
    images, _ = model.transform(pictures)
    features = model.backbone(images.tensors)
    proposals, _ = model.rpn(images, features)
    found, _ = model.roi_heads(features, proposals, images.image_sizes)
    return found


def compare(mine: Result, other: dict[str, Tensor]) -> dict[str, float]:
    """Say how far the two answers to one picture lie apart, in its pixels."""
    other = {name: value.float().cpu() for name, value in other.items()}
    figures: dict[str, float] = {"ours": len(mine), "torchvision": len(other["boxes"])}
    print(f"detections: ours {len(mine)}, torchvision {len(other['boxes'])}", end="; ")
    if len(mine) == len(other["boxes"]):
        distance = (torch.from_numpy(mine.boxes)[:, None] - other["boxes"]).abs().amax(-1)
        other_class = torch.from_numpy(mine.labels)[:, None] != other["labels"] - 1
        box, twin = distance.masked_fill(other_class, torch.inf).min(1)
        figures["box_px"] = box.max().item()
        figures["score"] = (torch.from_numpy(mine.scores) - other["scores"][twin]).abs().max().item()
        figures["mask_prob"] = (
            (torch.from_numpy(mine.mask_probs) - other["masks"][twin, 0]).abs().max().item()
        )
        line = (
            "largest difference of a box {box_px:.1e} px, a score {score:.1e}, a mask's pixel {mask_prob:.1e}"
        )
        print(line.format(**figures), flush=True)
    return figures


if __name__ == "__main__":
    main()
