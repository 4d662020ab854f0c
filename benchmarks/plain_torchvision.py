"""Train torchvision's Mask R-CNN for a number of minutes, and predict the validation pictures.

The baseline of `plans.py`, in an environment that has torchvision and need not have maskrcnn: what a user of
torchvision would write for small data. ResNet-18-FPN from scratch with trainable BatchNorm, or
MobileNetV2-FPN from weights of its body; flips (in windows also upside down), anchors of the objects' size,
channels-last convolutions, SGD with a linear warm-up and a cosine that ends with the time.

python plain_torchvision.py WORK --minutes 15 --detections 400 --crop 256 --smallest-anchor 8
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
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import mobilenet_backbone, resnet_fpn_backbone


def main() -> None:
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    truth = COCO(str(arguments.work / "data/val.json"))
    model = build(arguments, len(truth.cats)).to(memory_format=torch.channels_last)
    steps, seconds = train(model, arguments)
    print(f"{steps} steps of {arguments.batch_size} in {seconds / 60:.1f} minutes", flush=True)
    if arguments.weights:
        torch.save(model.state_dict(), arguments.weights)
    results = predict(model, truth, arguments)
    trained = {"steps": steps, "seconds": seconds, "results": results, "torch": torch.__version__}
    (arguments.work / "trained.json").write_text(json.dumps(trained))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("work", type=Path, help="folder with data/, of plain_data.py; results go there")
    parser.add_argument("--minutes", type=float, default=15, help="of training, prediction not counted")
    parser.add_argument("--batch-size", type=int, default=4, help="pictures a step")
    view = parser.add_mutually_exclusive_group(required=True)
    view.add_argument("--crop", type=int, help="side of training windows at the file's own scale, px")
    view.add_argument("--short-side", type=int, help="of whole pictures, px")
    parser.add_argument("--lr", type=float, default=0.02, help="highest learning rate")
    parser.add_argument("--smallest-anchor", type=int, default=32, help="side of P2's anchors, px")
    parser.add_argument("--rois", type=int, default=64, help="regions sampled a picture")
    parser.add_argument("--detections", type=int, default=100, help="at most, in a picture")
    parser.add_argument("--init", type=Path, help="MobileNetV2 in torchvision's layout, for pixels in -1 … 1")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2, help="threads of PyTorch")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--weights", type=Path, help="write the trained weights to this file")
    return parser.parse_args()


def build(arguments: argparse.Namespace, classes: int) -> MaskRCNN:
    sides = [(arguments.smallest_anchor * 2**level,) for level in range(5)]
    pixels = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3} if arguments.init else {}
    return MaskRCNN(
        pretrained_body(arguments.init) if arguments.init else body(),
        num_classes=1 + classes,
        min_size=arguments.short_side or arguments.crop,
        max_size=2 * arguments.short_side if arguments.short_side else 4096,
        rpn_anchor_generator=AnchorGenerator(tuple(sides), ((0.5, 1.0, 2.0),) * 5),
        box_batch_size_per_image=arguments.rois,
        box_detections_per_img=arguments.detections,
        **pixels,
    )


def body() -> nn.Module:
    return resnet_fpn_backbone(
        backbone_name="resnet18", weights=None, norm_layer=nn.BatchNorm2d, trainable_layers=5
    )


def pretrained_body(file: Path) -> nn.Module:
    backbone = mobilenet_backbone(
        backbone_name="mobilenet_v2",
        weights=None,
        fpn=True,
        norm_layer=torchvision.ops.FrozenBatchNorm2d,
        trainable_layers=6,
        returned_layers=[1, 2, 3, 5],  # strides 4, 8, 16, 32
    )
    weights = torch.load(file, weights_only=True)
    features = {name[9:]: value for name, value in weights.items() if name.startswith("features.")}
    backbone.body.load_state_dict(features)
    return backbone


class Pictures(IterableDataset):
    """Endless pictures or random windows of them, flipped at random: (image 0 … 1, torchvision's target)."""

    def __init__(self, data: Path, side: int | None, seed: int) -> None:
        self.coco = COCO(str(data / "train.json"))
        self.folder, self.side, self.seed = data / "images/train", side, seed

    def __iter__(self) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        worker = torch.utils.data.get_worker_info()
        draw = random.Random(self.seed * 1000 + (worker.id if worker else 0))
        ids = self.coco.getImgIds()
        while True:
            draw.shuffle(ids)
            for image_id in ids:
                image, masks, labels = self.window(image_id, draw)
                if len(masks):
                    axes = [axis for axis in ((-1, -2) if self.side else (-1,)) if draw.random() < 0.5]
                    yield flipped(image, masks, labels, axes)

    def window(self, image_id: int, draw: random.Random) -> tuple[Tensor, Tensor, Tensor]:
        picture = Image.open(self.folder / self.coco.imgs[image_id]["file_name"]).convert("RGB")
        side = self.side or max(picture.size)
        left = draw.randint(0, max(0, picture.width - side))
        top = draw.randint(0, max(0, picture.height - side))
        right, bottom = min(left + side, picture.width), min(top + side, picture.height)
        image = torch.from_numpy(np.array(picture.crop((left, top, right, bottom))))
        inside = [a for a in self.coco.imgToAnns[image_id] if overlaps(a["bbox"], (left, top, right, bottom))]
        # One by one: the masks of all objects of a large picture together would fill the memory
        masks = [self.coco.annToMask(annotation)[top:bottom, left:right] for annotation in inside]
        kept = [number for number, mask in enumerate(masks) if has_box(mask)]
        labels = torch.tensor([1 + inside[number]["category_id"] for number in kept], dtype=torch.int64)
        stacked = np.stack([masks[number] for number in kept]) if kept else np.zeros((0, 1, 1), np.uint8)
        return image.permute(2, 0, 1) / 255, torch.from_numpy(stacked), labels


def overlaps(box_xywh: list[float], window: tuple[int, int, int, int]) -> bool:
    x, y, w, h = box_xywh
    left, top, right, bottom = window
    return x < right and x + w > left and y < bottom and y + h > top


def has_box(mask: np.ndarray) -> bool:
    return mask.sum() >= 4


def flipped(
    image: Tensor, masks: Tensor, labels: Tensor, axes: list[int]
) -> tuple[Tensor, dict[str, Tensor]]:
    image, masks = image.flip(axes), masks.flip(axes)
    boxes = torchvision.ops.masks_to_boxes(masks)
    boxes[:, 2:] += 1  # the far edge of the last pixel
    return image, {"boxes": boxes, "labels": labels, "masks": masks}


def train(model: MaskRCNN, arguments: argparse.Namespace) -> tuple[int, float]:
    """Train until the time is over; return the number of steps and seconds."""
    pictures = Pictures(arguments.work / "data", arguments.crop, arguments.seed)
    batches = DataLoader(pictures, arguments.batch_size, num_workers=arguments.workers, collate_fn=list)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.SGD(trained, arguments.lr, momentum=0.9, weight_decay=1e-4)
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
        nn.utils.clip_grad_norm_(trained, 10.0)
        optimiser.step()
        if step % 20 == 0:
            parts = "  ".join(f"{name} {value.item():.3f}" for name, value in losses.items())
            print(f"step {step}  {elapsed:.0f} s  loss {loss.item():.3f}  {parts}", flush=True)
    raise AssertionError("the pictures are endless")


def learning_rate_factor(step: int, fraction: float) -> float:
    """Return the factor of the learning rate: linear warm-up for 50 steps, a cosine over the time."""
    return min(1.0, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * fraction))


@torch.inference_mode()
def predict(model: MaskRCNN, truth: COCO, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Return COCO results of every validation picture, at the scale of the training."""
    model.eval()
    results = []
    for image_id, entry in truth.imgs.items():
        picture = Image.open(arguments.work / "data/images/val" / entry["file_name"]).convert("RGB")
        model.transform.min_size = (arguments.short_side or min(picture.size),)
        (detections,) = model([torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255])
        boxes = detections["boxes"]
        boxes[:, 2:] -= boxes[:, :2]
        for box, score, label, mask in zip(
            boxes.tolist(),
            detections["scores"].tolist(),
            detections["labels"].tolist(),
            detections["masks"],
            strict=True,
        ):
            encoded = run_lengths.encode(np.asfortranarray((mask[0] > 0.5).byte().numpy()))
            encoded["counts"] = encoded["counts"].decode()
            one = {"image_id": image_id, "category_id": label - 1, "score": score}
            results.append({**one, "bbox": box, "segmentation": encoded})
    return results


if __name__ == "__main__":
    main()
