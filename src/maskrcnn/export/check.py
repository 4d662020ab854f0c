"""Checks that an exported network detects what the original detects, on the same inputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import UInt8
from rich.box import SIMPLE
from rich.table import Table
from torch import Tensor

from maskrcnn.data.prepare import pad
from maskrcnn.runtimes.description import Description
from maskrcnn.types import Batch, Detections


class Case(NamedTuple):
    """An input for both networks."""

    name: str
    batch: Batch


class Tolerance(NamedTuple):
    """The largest allowed differences of the detections that score at least `min_score`."""

    boxes: float  # px of the network's input
    scores: float
    masks: float  # of probabilities
    heatmaps: float  # of logits
    min_score: float = 0.0


SINGLE = Tolerance(boxes=0.05, scores=1e-3, masks=0.01, heatmaps=0.05)
# Numbers of 11 bits: one network may detect what the other just misses, so only confident detections count.
HALF = Tolerance(boxes=2.0, scores=0.05, masks=0.15, heatmaps=1.0, min_score=0.5)


class Difference(NamedTuple):
    """The largest differences of two networks' detections in one case, in the units of `Tolerance`."""

    case: str
    shape: str  # of the input, BxCxHxW
    detections: int  # that were compared
    boxes: float
    scores: float
    masks: float
    heatmaps: float


def check_cases(description: Description, picture: UInt8[Tensor, "C H W"]) -> list[Case]:
    """Return the inputs to check an exported network on.

    They are `picture` and a blank picture, for a dynamic size also an odd size, and for a dynamic batch also
    a batch of three pictures of different sizes.
    """
    size_hw = description.input.size_hw
    short = description.short_side or min(picture.shape[1:])
    height, width = size_hw or (short, short * 5 // 4)
    whole = _resized(picture, height, width)
    odd = _resized(picture, max(height * 5 // 8 - 3, 2), max(width * 3 // 4 - 7, 2))
    pictures = {"picture": [whole], "blank": [_blank(whole)]}
    if size_hw is None:
        pictures["odd size"] = [odd]
    if description.input.batch is None:
        smaller = _resized(odd, max(height // 2, 2), max(width // 2, 2))
        pictures["batch of 3"] = [odd, smaller, odd.flip(2)]
    return [Case(name, _padded(images, description)) for name, images in pictures.items()]


def _padded(images: Sequence[Tensor], description: Description) -> Batch:
    """Return a batch padded as the exported input is: both networks must see the same padding.

    Convolutions carry the padding's border into the picture's features.
    """
    expected = description.input
    batch = pad(images, expected.stride)
    sides = expected.size_hw or (expected.min_side, expected.min_side)
    rows, columns = (max(0, side - given) for side, given in zip(sides, batch.images.shape[2:], strict=True))
    return batch._replace(images=F.pad(batch.images, (0, columns, 0, rows)))


def _blank(picture: UInt8[Tensor, "C H W"]) -> UInt8[Tensor, "C H W"]:
    """Return black with noise of one or two levels.

    On uniform black all positions would score the same, and rounding would decide which are detected.
    """
    generator = torch.Generator().manual_seed(0)
    return torch.randint(3, picture.shape, generator=generator, dtype=torch.uint8)


def _resized(picture: UInt8[Tensor, "C H W"], height: int, width: int) -> UInt8[Tensor, "C h w"]:
    """Return the picture resized to fit into `height` × `width`, its aspect ratio kept."""
    scale = min(height / picture.shape[1], width / picture.shape[2])
    size_hw = [max(2, int(side * scale)) for side in picture.shape[1:]]
    return F.interpolate(picture[None], size_hw, mode="bilinear", antialias=True)[0]


def compare(
    original: Callable[[Batch], Detections],
    exported: Callable[[Batch], Detections],
    cases: Sequence[Case],
    description: Description,
    tolerance: Tolerance,
) -> list[Difference]:
    """Return the differences of two networks in each case. Raises ValueError if one exceeds `tolerance`."""
    differences = []
    for name, batch in cases:
        with torch.inference_mode():
            values = _difference(original(batch), exported(batch), description, tolerance)
        difference = Difference(name, "x".join(map(str, batch.images.shape)), *values)
        _require_within(difference, tolerance)
        differences.append(difference)
    return differences


def _require_within(difference: Difference, tolerance: Tolerance) -> None:
    for quantity in ("boxes", "scores", "masks", "heatmaps"):
        value, limit = getattr(difference, quantity), getattr(tolerance, quantity)
        if not value <= limit:  # true for NaN as well
            raise ValueError(
                "the exported network does not detect what the original detects: in the case "
                f"'{difference.case}' ({difference.shape}), {quantity} differ by {value:.3g}, "
                f"and at most {limit:g} is allowed; no file was written"
            )


def _difference(
    original: Detections, exported: Detections, description: Description, tolerance: Tolerance
) -> tuple[int, float, float, float, float]:
    """Return the number of the original's detections that were compared, and the largest differences."""
    pairs = list(zip(_by_picture(original), _by_picture(exported), strict=True))
    directions = [(one, other) for pair in pairs for one, other in (pair, pair[::-1])]
    compared = [_to_nearest(one, other, description, tolerance) for one, other in directions]
    boxes, scores, masks, heatmaps = np.max([values for _, values in compared], axis=0).tolist()
    return sum(count for count, _ in compared[::2]), boxes, scores, masks, heatmaps


def _by_picture(detections: Detections) -> list[Detections]:
    """Return the valid detections of each picture, without the batch dimension."""
    return [
        Detections(*(None if field is None else field[index][valid] for field in detections))  # type: ignore[arg-type]
        for index, valid in enumerate(detections.valid)
    ]


def _to_nearest(
    one: Detections, other: Detections, description: Description, tolerance: Tolerance
) -> tuple[int, tuple[float, float, float, float]]:
    """Compare detections of `one` with the nearest of the same class in `other`; return their number, too.

    Left out are those that `other` may lack because of rounding: within the tolerance of the score
    threshold or, where all slots are full, of the lowest score.
    """
    is_full = len(one.scores) == description.max_detections
    lowest = max(float(one.scores.min()) if is_full else 0.0, description.score_threshold)
    certain = one.scores >= max(lowest + 2 * tolerance.scores, tolerance.min_score)
    count = int(certain.sum())
    if not count:
        return 0, (0.0, 0.0, 0.0, 0.0)
    if not len(other.scores):
        return count, (math.inf,) * 4
    distance = (one.boxes[certain][:, None] - other.boxes).abs().amax(-1)
    distance = distance.masked_fill(one.labels[certain][:, None] != other.labels, math.inf)
    boxes, nearest = distance.min(1)
    scores, masks, heatmaps = (
        0.0 if a is None or b is None else float((a[certain] - b[nearest]).abs().max())
        for a, b in (
            (one.scores, other.scores),
            (one.mask_probs, other.mask_probs),
            (one.keypoint_heatmaps, other.keypoint_heatmaps),
        )
    )
    return count, (float(boxes.max()), scores, masks, heatmaps)


def differences_table(differences: Sequence[Difference]) -> Table:
    """Return the differences as a table for rich to print. It says so where nothing was compared."""
    table = Table("checked on", "input", "detections", "boxes, px", "scores", "masks", "heatmaps", box=SIMPLE)
    for case, shape, count, *values in differences:
        table.add_row(case, shape, str(count), *(f"{value:.2g}" for value in values))
    if not any(difference.detections for difference in differences):
        table.caption = (
            "The network detected nothing in these inputs, so no detections were compared: "
            "check the file on a picture with objects, with --picture"
        )
    return table
