"""Train torchvision's Mask R-CNN from scratch for a number of minutes and evaluate it with pycocotools.

The baseline for `maskrcnn train DATA --recipe resnet18_fpn`: a network of the same size in a plain script,
with usual choices for small cells: random crops, flips, anchors of the cells' size, trainable BatchNorm,
channels-last convolutions, linear warm-up, and a cosine schedule that ends with the time limit.
It imports nothing of `maskrcnn`.

python benchmarks/nuclei_torchvision.py DATA --minutes 15 [--json benchmarks/results/nuclei_torchvision.json]
"""

import argparse
import itertools
import json
import math
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from PIL import Image
from pycocotools import mask as run_lengths
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

CAPS = (100, 400)  # COCO's limit of detections per image, and one that these images do not reach


def main() -> None:
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    model = build(arguments).to(memory_format=torch.channels_last)
    steps, seconds = train(model, arguments)
    print(f"trained {steps} steps of {arguments.batch_size} crops in {seconds / 60:.1f} minutes", flush=True)
    if arguments.weights:
        torch.save(model.state_dict(), arguments.weights)
    start = time.perf_counter()
    truth = COCO(str(arguments.data / "annotations/instances_val.json"))
    results = predict(model, truth, arguments.data / "val")
    figures = {
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "settings": {name: str(value) for name, value in vars(arguments).items()},
        "steps": steps,
        "train_seconds": round(seconds, 1),
        "predict_seconds": round(time.perf_counter() - start, 1),
        "metrics": {kind: evaluate(truth, results, kind) for kind in ("bbox", "segm")},
    }
    print(json.dumps(figures["metrics"], indent=1))
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("data", type=Path, help="folder in COCO layout: annotations/, train/, val/")
    parser.add_argument("--minutes", type=float, default=15, help="of training, evaluation not counted")
    parser.add_argument("--batch-size", type=int, default=4, help="crops a step")
    parser.add_argument("--crop", type=int, default=256, help="side of the training crops, px")
    parser.add_argument("--lr", type=float, default=0.02, help="highest learning rate")
    parser.add_argument(
        "--smallest-anchor", type=int, default=8, help="side of P2's anchors, px (default: 8)"
    )
    parser.add_argument("--rois", type=int, default=64, help="regions sampled a crop")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2, help="threads of PyTorch")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--weights", type=Path, help="write the trained weights to this file")
    return parser.parse_args()


def build(arguments: argparse.Namespace) -> MaskRCNN:
    backbone = resnet_fpn_backbone(
        backbone_name="resnet18", weights=None, norm_layer=torch.nn.BatchNorm2d, trainable_layers=5
    )
    sides = [(arguments.smallest_anchor * 2**level,) for level in range(5)]
    return MaskRCNN(
        backbone,
        num_classes=2,
        min_size=arguments.crop,
        max_size=4096,
        rpn_anchor_generator=AnchorGenerator(tuple(sides), ((0.5, 1.0, 2.0),) * 5),
        box_batch_size_per_image=arguments.rois,
        box_detections_per_img=max(CAPS),
    )


class Crops(IterableDataset):
    """Endless random crops with random flips: (image 0 … 1, target as torchvision wants it)."""

    def __init__(self, data: Path, side: int, seed: int) -> None:
        self.coco = COCO(str(data / "annotations/instances_train.json"))
        self.folder, self.side, self.seed = data / "train", side, seed
        self.pictures: dict[int, Image.Image] = {}

    def __iter__(self) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        worker = torch.utils.data.get_worker_info()
        draw = random.Random(self.seed * 1000 + (worker.id if worker else 0))
        ids = self.coco.getImgIds()
        while True:
            draw.shuffle(ids)
            for image_id in ids:
                image, masks = self.crop(image_id, draw)
                if len(masks):
                    yield flip(image, masks, draw)

    def crop(self, image_id: int, draw: random.Random) -> tuple[Tensor, Tensor]:
        picture = self.picture(image_id)
        left = draw.randint(0, max(0, picture.width - self.side))
        top = draw.randint(0, max(0, picture.height - self.side))
        right, bottom = min(left + self.side, picture.width), min(top + self.side, picture.height)
        image = torch.from_numpy(np.array(picture.crop((left, top, right, bottom))))
        inside = [a for a in self.coco.imgToAnns[image_id] if overlaps(a["bbox"], (left, top, right, bottom))]
        if not inside:
            return image, torch.zeros(0)
        masks = run_lengths.decode([self.coco.annToRLE(a) for a in inside])[top:bottom, left:right]
        kept = torch.from_numpy(np.ascontiguousarray(masks.transpose(2, 0, 1)))
        return image.permute(2, 0, 1) / 255, kept[kept.flatten(1).sum(1) >= 4]

    def picture(self, image_id: int) -> Image.Image:
        if image_id not in self.pictures:
            file = self.folder / self.coco.imgs[image_id]["file_name"]
            self.pictures[image_id] = Image.open(file).convert("RGB")
        return self.pictures[image_id]


def overlaps(box_xywh: list[float], window: tuple[int, int, int, int]) -> bool:
    x, y, w, h = box_xywh
    left, top, right, bottom = window
    return x < right and x + w > left and y < bottom and y + h > top


def flip(image: Tensor, masks: Tensor, draw: random.Random) -> tuple[Tensor, dict[str, Tensor]]:
    axes = [axis for axis in (-1, -2) if draw.random() < 0.5]
    image, masks = image.flip(axes), masks.flip(axes)
    boxes = torchvision.ops.masks_to_boxes(masks)
    boxes[:, 2:] += 1  # the far edge of the last pixel
    labels = torch.ones(len(masks), dtype=torch.int64)
    return image, {"boxes": boxes, "labels": labels, "masks": masks}


def train(model: MaskRCNN, arguments: argparse.Namespace) -> tuple[int, float]:
    """Train until the time limit; return the number of steps and seconds."""
    crops = Crops(arguments.data, arguments.crop, arguments.seed)
    batches = DataLoader(crops, arguments.batch_size, num_workers=arguments.workers, collate_fn=list)
    optimiser = torch.optim.SGD(model.parameters(), arguments.lr, momentum=0.9, weight_decay=1e-4)
    budget = 60 * arguments.minutes
    model.train()
    start = time.perf_counter()
    for step, batch in zip(itertools.count(), batches, strict=False):
        elapsed = time.perf_counter() - start
        if elapsed >= budget:
            return step, elapsed
        for group in optimiser.param_groups:
            group["lr"] = arguments.lr * learning_rate_factor(step, elapsed / budget)
        losses = model([image for image, _ in batch], [target for _, target in batch])
        loss = sum(losses.values())
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimiser.step()
        if step % 20 == 0:
            parts = "  ".join(f"{name} {value.item():.3f}" for name, value in losses.items())
            print(f"step {step}  {elapsed:.0f} s  loss {loss.item():.3f}  {parts}", flush=True)
    raise AssertionError("the crops are endless")


def learning_rate_factor(step: int, fraction: float) -> float:
    """Return the factor of the learning rate: linear warm-up for 50 steps, a cosine over the time limit."""
    return min(1.0, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * fraction))


@torch.inference_mode()
def predict(model: MaskRCNN, truth: COCO, folder: Path) -> list[dict[str, Any]]:
    """Return COCO results of every validation image at its own size, which is the scale of the crops."""
    model.eval()
    results = []
    for number, (image_id, entry) in enumerate(truth.imgs.items()):
        if number % 10 == 0:
            print(f"predicted {number} of {len(truth.imgs)} pictures, {len(results)} objects", flush=True)
        picture = Image.open(folder / entry["file_name"]).convert("RGB")
        model.transform.min_size = (min(picture.size),)
        image = torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255
        (detections,) = model([image])
        boxes = detections["boxes"]
        boxes[:, 2:] -= boxes[:, :2]
        masks = (detections["masks"][:, 0] > 0.5).byte().permute(1, 2, 0).numpy()
        encoded = run_lengths.encode(np.asfortranarray(masks)) if len(boxes) else []
        for box, score, mask in zip(boxes.tolist(), detections["scores"].tolist(), encoded, strict=True):
            one = {"image_id": image_id, "category_id": truth.getCatIds()[0], "score": score}
            results.append({**one, "bbox": box, "segmentation": mask})
    return results


def evaluate(truth: COCO, results: list[dict[str, Any]], kind: str) -> dict[str, dict[str, float]]:
    """Return AP, AP50, AP75 and AP by size, in percent, for each limit on the detections of an image."""
    names = ("AP", "AP50", "AP75", "APs", "APm", "APl")
    if not results:
        return {f"max {cap}": dict.fromkeys(names, 0.0) for cap in CAPS}
    # One kind at a time: if a box is there too, pycocotools computes the size of a mask from the box.
    other = "bbox" if kind == "segm" else "segmentation"
    detections = truth.loadRes([{k: v for k, v in one.items() if k != other} for one in results])
    evaluation = COCOeval(truth, detections, kind)
    evaluation.params.maxDets = list(CAPS)
    evaluation.evaluate()
    evaluation.accumulate()
    precision = evaluation.eval["precision"]  # IoU, recall, class, size (all, small, medium, large), cap

    def mean(values: np.ndarray) -> float:
        return round(100 * float(values[values > -1].mean()), 3) if (values > -1).any() else 0.0

    return {
        f"max {cap}": {
            "AP": mean(precision[:, :, :, 0, number]),
            "AP50": mean(precision[0, :, :, 0, number]),
            "AP75": mean(precision[5, :, :, 0, number]),
            **{f"AP{size}": mean(precision[:, :, :, at, number]) for at, size in enumerate("sml", 1)},
        }
        for number, cap in enumerate(CAPS)
    }


if __name__ == "__main__":
    main()
