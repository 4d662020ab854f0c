"""Compare our detections with torchvision's, for the same weights, on real images.

Both networks get the same input: the images as torchvision resizes them. Prints the largest differences of
boxes, scores and mask probabilities, and COCO's metrics of torchvision's detections and of ours; of ours also
with masks pasted as torchvision pastes them. Without --weights, both have the same random weights.

python benchmarks/agreement.py DATA [--weights FILE.pth] [--short-side 400] [--limit 50]
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import contest
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.models.detection import MaskRCNN as TorchvisionMaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.transform import resize_boxes

from maskrcnn.bench.networks import random_checkpoint as untrained
from maskrcnn.bench.torchvision import torchvision_network as twin
from maskrcnn.data.dataset import Dataset
from maskrcnn.data.folder import read_split
from maskrcnn.evaluation.coco import coco_metrics
from maskrcnn.fast.fold_norms import fold_norms
from maskrcnn.masks.paste import paste_like_torchvision
from maskrcnn.masks.rle import crop_to_rle
from maskrcnn.network.model import MaskRCNN
from maskrcnn.results.result import paste_dense
from maskrcnn.types import Batch, Detections
from maskrcnn.weights.model_checkpoint import model_from_library


def main() -> None:
    parser = contest.arguments("our detections against torchvision's on real images", repeats=1)
    parser.add_argument("data", type=Path, help="folder in COCO layout")
    parser.add_argument("--weights", type=Path, help="of torchvision's Mask R-CNN (default: random)")
    parser.add_argument(
        "--anchors", default="32,64,128,256,512", help="anchor sizes in px, one for each level"
    )
    parser.add_argument(
        "--short-side", type=int, default=400, help="of the input, in px; 0 keeps the size of the file"
    )
    parser.add_argument("--limit", type=int, default=10**9, help="maximum number of images")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    theirs = (
        load_theirs(arguments) if arguments.weights else twin(untrained("resnet50_fpn"), (800, 1333)).eval()
    )
    ours = as_ours(theirs, arguments)
    dataset = read_split(arguments.data, "val")
    ids = (
        dataset.category_ids
        if len(dataset.category_ids) == ours.num_classes
        else range(1, ours.num_classes + 1)
    )
    detections_of: dict[str, list[dict[str, Any]]] = {
        "torchvision": [],
        "ours": [],
        "ours, their pasting": [],
    }
    differences = []
    count = min(arguments.limit, len(dataset))
    for i in range(count):
        picture = Image.open(dataset.paths[i]).convert("RGB")
        image = torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255
        theirs.transform.min_size = (arguments.short_side or min(picture.size),)
        with torch.inference_mode():
            our_detections, their_detections = detect_both(ours, theirs, image)
        differences.append(compare(our_detections, their_detections))
        for name, (boxes, scores, labels, masks) in in_file_pixels(
            our_detections, their_detections, image
        ).items():
            detections_of[name] += results(
                int(dataset.image_ids[i]), boxes, scores, [ids[label] for label in labels], masks
            )
        if i % 20 == 0:
            print(f"{i + 1} of {count} images", flush=True)
    figures: dict[str, Any] = {"pictures": count, "largest": largest(differences)}
    # If a box is at a threshold, rounding decides whether it or another detection is kept
    figures["within 0.01 px"] = sum(d["count"] == 0 and d.get("box_px", 0) <= 0.01 for d in differences)
    figures["largest of these"] = largest([d for d in differences if d.get("box_px", 0) <= 0.01])
    truth = truth_of(dataset, count)
    for name, detections in detections_of.items():
        metrics = coco_metrics(truth, detections, max_detections=ours.box_branch.max_detections)
        figures[name] = {
            k: {m: v for m, v in part.items() if m != "per_class"} for k, part in metrics.items()
        }
        print(name, {k: f"AP {part['AP']:.3f}, AP50 {part['AP50']:.3f}" for k, part in figures[name].items()})
    print({name: figures[name] for name in ("largest", "within 0.01 px", "largest of these")})
    contest.write(arguments.json, figures)


def load_theirs(arguments: argparse.Namespace) -> TorchvisionMaskRCNN:
    """Build the torchvision network that a file belongs to: a ResNet with FPN and BatchNorm."""
    weights = torch.load(arguments.weights, weights_only=True)
    sides = tuple((int(side),) for side in arguments.anchors.split(","))
    is_small = "backbone.body.layer1.0.conv3.weight" not in weights
    per_cell = len(weights["rpn.head.cls_logits.bias"])
    model = TorchvisionMaskRCNN(
        resnet_fpn_backbone(
            backbone_name="resnet18" if is_small else "resnet50",
            weights=None,
            norm_layer=torch.nn.BatchNorm2d,
        ),
        num_classes=len(weights["roi_heads.box_predictor.cls_score.bias"]),
        rpn_anchor_generator=AnchorGenerator(sides, ((0.5, 1.0, 2.0)[:per_cell],) * 5),
        max_size=4096,
        box_detections_per_img=400 if is_small else 100,
    )
    model.load_state_dict(weights)
    return model.eval()


def as_ours(theirs: TorchvisionMaskRCNN, arguments: argparse.Namespace) -> MaskRCNN:
    """Return our network with their weights. Anchors and limits are in no file."""
    trained = model_from_library(theirs.state_dict())
    sides = tuple(float(side) for side in arguments.anchors.split(","))
    others = {
        "body.norm_eps": 1e-5,
        "proposals.anchor_sizes": sides,
        "boxes.max_detections": theirs.roi_heads.detections_per_img,
    }
    return fold_norms(replace(trained, arguments={**trained.arguments, **others}).build())


def detect_both(
    ours: MaskRCNN, theirs: TorchvisionMaskRCNN, image: Tensor
) -> tuple[Detections, dict[str, Tensor]]:
    """Return the detections of both networks in one image, boxes in pixels of the input, masks 28 × 28."""
    images, _ = theirs.transform([image])
    features = theirs.backbone(images.tensors)
    proposals, _ = theirs.rpn(images, features)
    (other,), _ = theirs.roi_heads(features, proposals, images.image_sizes)
    mean, std = (
        torch.tensor(value)[:, None, None]
        for value in (theirs.transform.image_mean, theirs.transform.image_std)
    )
    pixels = (images.tensors * std + mean) * 255
    padded = ours.detect(Batch(pixels, torch.tensor(images.image_sizes)))
    count = int(padded.valid.sum())
    mine = Detections(*(None if field is None else field[0, :count] for field in padded))
    other["size_hw"] = torch.tensor(images.image_sizes[0])
    return mine, other


def compare(mine: Detections, other: dict[str, Tensor]) -> dict[str, float]:
    """Return the largest differences; a detection is compared with the nearest one of its class."""
    difference = {"count": float(abs(len(mine.boxes) - len(other["boxes"])))}
    if not len(mine.boxes) or not len(other["boxes"]):
        return difference
    distance = (mine.boxes[:, None] - other["boxes"]).abs().amax(-1)
    box, twin = distance.masked_fill(mine.labels[:, None] != other["labels"] - 1, torch.inf).min(1)
    assert mine.mask_probs is not None
    return difference | {
        "box_px": box.max().item(),
        "score": (mine.scores - other["scores"][twin]).abs().max().item(),
        "mask_prob": (mine.mask_probs - other["masks"][twin, 0]).abs().max().item(),
    }


def largest(differences: list[dict[str, float]]) -> dict[str, float]:
    names = ("count", "box_px", "score", "mask_prob")
    return {name: max((d[name] for d in differences if name in d), default=0.0) for name in names}


def in_file_pixels(mine: Detections, other: dict[str, Tensor], image: Tensor) -> dict[str, tuple]:
    """Return boxes, scores, labels and masks of each network in pixels of the file."""
    size_hw = (image.shape[1], image.shape[2])
    network = other["size_hw"].tolist()
    my_boxes, their_boxes = (resize_boxes(boxes, network, size_hw) for boxes in (mine.boxes, other["boxes"]))
    pasted = paste_like_torchvision(other["masks"][:, 0], their_boxes, size_hw) > 0.5
    exact = paste_dense(mine.mask_probs, my_boxes, size_hw)
    as_theirs = paste_like_torchvision(mine.mask_probs, my_boxes, size_hw) > 0.5
    labels = mine.labels.tolist()
    return {
        "torchvision": (their_boxes, other["scores"], (other["labels"] - 1).tolist(), pasted),
        "ours": (my_boxes, mine.scores, labels, exact),
        "ours, their pasting": (my_boxes, mine.scores, labels, as_theirs),
    }


def results(
    image_id: int, boxes: Tensor, scores: Tensor, categories: list[int], masks: Tensor
) -> list[dict[str, Any]]:
    corners = boxes.clone()
    corners[:, 2:] -= corners[:, :2]
    return [
        {
            "image_id": image_id,
            "category_id": int(category),
            "score": score,
            "bbox": box,
            "segmentation": crop_to_rle(mask.numpy(), (0, 0), tuple(mask.shape)),
        }
        for box, score, category, mask in zip(
            corners.tolist(), scores.tolist(), categories, masks, strict=True
        )
    ]


def truth_of(dataset: Dataset, count: int) -> dict[str, Any]:
    """Return the ground truth of the first `count` images."""
    truth = dataset.truth()
    known = {int(image_id) for image_id in dataset.image_ids[:count]}
    images = [image for image in truth["images"] if image["id"] in known]
    annotations = [entry for entry in truth["annotations"] if entry["image_id"] in known]
    return {**truth, "images": images, "annotations": annotations}


if __name__ == "__main__":
    main()
