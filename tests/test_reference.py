"""Every number compared with torchvision's and Detectron2's, for weights drawn from the parameters' names.

The answers lie in `tests/reference`, or in the folder that MASKRCNN_REFERENCE names.
"""

import importlib.util
import json
import os
import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from maskrcnn.masks.paste import paste_like_torchvision
from maskrcnn.network.model import MaskRCNN
from maskrcnn.ops.keypoints import heatmaps_to_keypoints
from maskrcnn.results.result import paste_dense
from maskrcnn.types import Batch, Detections, MaskTable, Targets
from maskrcnn.weights.layouts import layout_of
from maskrcnn.weights.model_checkpoint import model_from_library

REFERENCE = Path(os.environ.get("MASKRCNN_REFERENCE", Path(__file__).parent / "reference"))
ANSWERS = sorted(path.stem for path in REFERENCE.glob("*.npz") if path.stem != "training_targets")
TRAININGS = sorted(path.stem for path in REFERENCE.glob("training_*.json"))

pytestmark = pytest.mark.slow


def drawn_weights(layout: dict[str, list[int]], scales: list) -> dict[str, Tensor]:
    """Draw every weight from its own name, except for constants, which have the library's own values."""
    spec = importlib.util.spec_from_file_location("reference_weights", REFERENCE / "weights.py")
    drawing = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(drawing)
    constants = re.compile(r"pixel_(mean|std)$|anchor")
    values = {
        n: drawing.fill(n, s, scales) for n, s in layout.items() if not constants.search(n) or "deltas" in n
    }
    return {name: torch.from_numpy(np.asarray(value)) for name, value in values.items()}


def network_input(trained_by: str, picture: Image.Image, size_hw: list[int]) -> Tensor:
    """Resize as the library does: torchvision floats without antialiasing, Detectron2 bytes by Pillow."""
    if trained_by == "detectron2":
        picture = picture.resize((size_hw[1], size_hw[0]), Image.Resampling.BILINEAR)
    image = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float()
    return F.interpolate(image, size_hw, mode="bilinear", align_corners=False)[0]


def as_batch(images: list[Tensor], stride: int) -> Batch:
    """Pad pictures to one shape, a multiple of `stride`, with what the network must not look at."""
    sizes = torch.tensor([image.shape[1:] for image in images])
    height, width = (-(-int(side) // stride) * stride for side in sizes.amax(0))
    padded = [F.pad(i, (0, width - i.shape[2], 0, height - i.shape[1]), value=77.0) for i in images]
    return Batch(torch.stack(padded), sizes)


@cache
def answered(name: str) -> SimpleNamespace:
    """Return the reference answer and ours, from the weights' names alone."""
    about = json.loads((REFERENCE / f"{name}.json").read_text())
    trained_by = name.partition("_")[0]
    dataset = "cityscapes" if "cityscapes" in name else "coco"
    trained = model_from_library(drawn_weights(about["layout"], about["scales"]), dataset)
    model = trained.build().eval()
    picture = Image.open(REFERENCE / about["image"]).convert("RGB")
    batch = as_batch([network_input(trained_by, picture, about["network_input_size"])], model.stride)
    with torch.inference_mode():
        features = model.backbone(model.normalise(batch))
        proposals = model.rpn.propose(model.rpn(features), batch.sizes_hw, model.rpn.test_topn)
        found = model.detect(batch)
    height, width = about["network_input_size"]
    scale = torch.tensor([picture.width / width, picture.height / height])
    expected = np.load(REFERENCE / f"{name}.npz")
    order = in_their_order(found, scale, expected, first_label=1 if trained_by == "torchvision" else 0)
    return SimpleNamespace(
        library=trained_by,
        expected=expected,
        features=[level[0] for level in features],
        proposals=proposals,
        found=Detections(*(None if field is None else field[0, order] for field in found)),
        scale=scale,
        size_hw=(picture.height, picture.width),
    )


def in_their_order(found: Detections, scale: Tensor, expected: Any, first_label: int) -> list[int]:
    """Return the places of our detections, best first; ties in the reference, which noise can turn, as there.

    The originals themselves, run in another memory layout, differ by up to 3e-6 in score: that is a tie.
    """
    places = list(range(int(found.valid.sum())))
    boxes, labels = (found.boxes[0] * scale.repeat(2)).numpy(), found.labels[0].numpy()
    scores = expected["scores"]

    def is_same(at: int, slot: int) -> bool:
        near = np.abs(boxes[at] - expected["boxes"][slot]).max() <= 0.01
        return bool(near and labels[at] == expected["labels"][slot] - first_label)

    for slot in range(min(len(places), len(scores)) - 1):
        is_tie = scores[slot] - scores[slot + 1] <= 3e-6
        if is_tie and is_same(places[slot], slot + 1) and is_same(places[slot + 1], slot):
            places[slot], places[slot + 1] = places[slot + 1], places[slot]
    return places


@pytest.fixture(params=ANSWERS)
def answer(request) -> SimpleNamespace:
    return answered(request.param)


def boxes_in_picture(answer: SimpleNamespace) -> Tensor:
    height, width = answer.size_hw
    return (answer.found.boxes * answer.scale.repeat(2)).clamp(max=torch.tensor([width, height] * 2))


def test_feature_maps(answer):
    names = sorted({re.sub(r"_(mean|std|shape)$", "", name) for name in answer.expected if "feature" in name})
    for features, name in zip(answer.features, names, strict=True):
        assert tuple(features.shape) == tuple(answer.expected[f"{name}_shape"])[-3:]
        for statistic in ("mean", "std"):
            theirs = torch.from_numpy(answer.expected[f"{name}_{statistic}"])
            ours = getattr(features.double(), statistic)((1, 2))
            assert (ours - theirs).abs().max() <= 1e-4 * theirs.abs().max()


def test_proposals(answer):
    expected = torch.from_numpy(answer.expected["proposals"])[:500]
    boxes, logits = answer.proposals.boxes[0], answer.proposals.logits[0]
    distance, nearest = (boxes[None] - expected[:, None]).abs().amax(2).min(1)
    assert distance.max() <= 0.01
    moved = nearest != torch.arange(len(nearest))
    assert (logits[nearest] - logits[: len(nearest)])[moved].abs().le(1e-5).all()  # only ties change places


def test_detections(answer):
    expected, found = answer.expected, answer.found
    first = 1 if answer.library == "torchvision" else 0  # the number of the first class
    assert found.labels.tolist() == (expected["labels"] - first).tolist()
    assert np.abs(found.scores.numpy() - expected["scores"]).max() <= 2e-5
    assert np.abs(boxes_in_picture(answer).numpy() - expected["boxes"]).max() <= 0.01


def test_masks(answer):
    if "masks_packed" not in answer.expected:
        assert answer.found.mask_probs is None
        return
    probs, boxes = answer.found.mask_probs, boxes_in_picture(answer)
    if answer.library == "detectron2":
        theirs = torch.from_numpy(answer.expected["mask_probs"]).reshape(probs.shape)
        assert (probs - theirs).abs().max() <= 1e-3
        masks = paste_dense(probs, boxes, answer.size_hw)
    else:
        soft = paste_like_torchvision(probs, boxes, answer.size_hw)
        first = torch.from_numpy(answer.expected["soft_masks_first5"].astype(np.float32))
        assert (soft[: len(first)] - first).abs().max() <= 1e-3
        masks = soft >= 0.5
    packed = answer.expected["masks_packed"]
    theirs = np.unpackbits(packed, axis=1)[:, : masks[0].numel()].reshape(masks.shape).astype(bool)
    differing = (masks.numpy() != theirs).sum((1, 2))
    assert (differing <= 1e-3 * np.maximum(theirs.sum((1, 2)), 1000)).all()


def test_keypoints(answer):
    if "keypoints" not in answer.expected:
        assert answer.found.keypoint_heatmaps is None
        return
    found = heatmaps_to_keypoints(answer.found.keypoint_heatmaps, answer.found.boxes)
    ours = found[..., :2] * answer.scale
    assert np.abs(ours.numpy() - answer.expected["keypoints"][..., :2]).max() <= 0.1


def training(name: str) -> tuple[dict[str, Any], MaskRCNN]:
    """Build the network of a reference training: nothing drawn at random, norms as in evaluation."""
    about = json.loads((REFERENCE / f"{name}.json").read_text())
    model = json.loads((REFERENCE / f"{name.removeprefix('training_')}.json").read_text())
    trained = model_from_library(drawn_weights(model["layout"], about["scales"]))
    everything = {
        "boxes.samples_per_image": 10_000_000,
        "proposals.samples_per_image": 10_000_000,
        "body.frozen": (),
    }
    if "torchvision" in name:  # its norms learn, and so have their usual epsilon
        everything |= {"body.norm": "batch"}
    return about, replace(trained, arguments=trained.arguments | everything).build().eval()


def resized(library: str, mask: np.ndarray, size_hw: list[int]) -> np.ndarray:
    """Resize a mask as the library does: torchvision by the nearest corner, Detectron2 by the centre."""
    if library == "detectron2":
        return np.array(Image.fromarray(mask).resize((size_hw[1], size_hw[0]), Image.Resampling.NEAREST))
    return F.interpolate(torch.from_numpy(mask)[None, None].float(), size_hw)[0, 0].byte().numpy()


def targets_of(library: str, sizes_hw: list[list[int]]) -> Targets:
    """Return the truth of both scenes, resized with the pictures; a mask's crop is the whole picture."""
    truth = np.load(REFERENCE / "training_targets.npz")
    slots = max(len(truth[f"labels_{i}"]) for i in range(len(sizes_hw)))
    shape = (len(sizes_hw), slots)
    boxes, labels, valid = (
        torch.zeros(*shape, 4),
        torch.zeros(shape, dtype=torch.int64),
        torch.zeros(shape).bool(),
    )
    starts, extents = torch.zeros(shape, dtype=torch.int64), torch.zeros(*shape, 2, dtype=torch.int64)
    pixels: list[Tensor] = []
    for i, size_hw in enumerate(sizes_hw):
        count, height, width = truth[f"mask_shape_{i}"]
        scale = torch.tensor([size_hw[1] / width, size_hw[0] / height] * 2, dtype=torch.float32)
        boxes[i, :count] = torch.from_numpy(truth[f"boxes_{i}"]) * scale
        labels[i, :count] = torch.from_numpy(truth[f"labels_{i}"]) - 1
        valid[i, :count] = True
        bits = np.unpackbits(truth[f"masks_packed_{i}"], axis=1)[:, : height * width]
        masks = [resized(library, mask, size_hw) for mask in bits.reshape(count, height, width)]
        starts[i, :count] = sum(part.numel() for part in pixels) + torch.arange(count) * masks[0].size
        extents[i, :count] = torch.tensor(size_hw)
        pixels.append(torch.from_numpy(np.stack(masks)).flatten())
    affine = torch.tensor([1.0, 0.0, 1.0, 0.0]).expand(*shape, 4)
    table = MaskTable(torch.cat(pixels), starts, extents, affine)
    return Targets(boxes, labels, valid, torch.zeros(shape).bool(), table)


@pytest.mark.parametrize("name", TRAININGS)
def test_losses_and_gradients(name):
    about, model = training(name)
    library = "torchvision" if "torchvision" in name else "detectron2"
    pictures = [Image.open(REFERENCE / image).convert("RGB") for image in about["images"]]
    images = [network_input(library, p, size) for p, size in zip(pictures, about["sizes"], strict=True)]
    losses = model(as_batch(images, 32), targets_of(library, about["sizes"]))
    ours = [losses[f"loss_{part}"].item() for part in ("class", "box", "mask", "rpn_objectness", "rpn_box")]
    theirs = list(about["losses"].values())  # in this order in both libraries
    assert ours == pytest.approx(theirs, rel=1e-4)

    sum(losses.values()).backward()
    parameters = dict(model.named_parameters())
    modules = dict(layout_of(dict.fromkeys(about["gradient_norms"], torch.zeros(0))).modules)
    expected = {}
    for theirs, norm in about["gradient_norms"].items():
        module, _, vector = theirs.rpartition(".")
        expected[f"{modules[module]}.{vector}"] = norm
    assert expected.keys() == {name for name, parameter in parameters.items() if parameter.requires_grad}
    for ours, norm in expected.items():
        assert float(parameters[ours].grad.norm()) == pytest.approx(norm, rel=1e-3), ours
