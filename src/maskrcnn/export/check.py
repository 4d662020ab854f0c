"""Is an exported network the network it was made of? The two look at the same pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import UInt8
from rich.box import SIMPLE
from rich.table import Table
from torch import Tensor

from maskrcnn.data.batch import pad
from maskrcnn.runtimes.description import Description
from maskrcnn.types import Batch, Detections


class Case(NamedTuple):
    """Pictures for both to look at."""

    name: str
    batch: Batch


class Tolerance(NamedTuple):
    """How far the two may be apart, in detections of at least `score`."""

    boxes: float  # px of the network's input
    scores: float
    masks: float  # of probabilities
    heatmaps: float  # of logits
    score: float = 0.0


SINGLE = Tolerance(boxes=0.05, scores=1e-3, masks=0.01, heatmaps=0.05)
# Numbers of 11 bits: what is doubtful may be found by one and not by the other.
HALF = Tolerance(boxes=2.0, scores=0.05, masks=0.15, heatmaps=1.0, score=0.5)


class Figures(NamedTuple):
    """How far the two are apart at most in a case."""

    case: str
    size: str
    detections: int
    boxes: float
    scores: float
    masks: float
    heatmaps: float


def cases(description: Description, picture: UInt8[Tensor, "C H W"]) -> list[Case]:
    """Return a picture and a blank one, and where the input allows it an odd size and a batch of three."""
    size_hw = description.size_hw
    short = description.short_side or min(picture.shape[1:])
    height, width = size_hw or (short, short * 5 // 4)
    whole = _fitted(picture, height, width)
    pictures = {"picture": [whole], "blank": [_blank(whole)]}
    odd = _fitted(picture, max(height * 5 // 8 - 3, 2), max(width * 3 // 4 - 7, 2))
    if size_hw is None:
        pictures["odd size"] = [odd]
    if description.batch is None:
        smaller = _fitted(odd, max(height // 2, 2), max(width // 2, 2))
        pictures["batch of 3"] = [odd, smaller, odd.flip(2)]
    return [Case(name, _padded(images, description)) for name, images in pictures.items()]


def _padded(images: Sequence[Tensor], description: Description) -> Batch:
    """Return them as the input has them: the padding, too, has its part in what a network answers."""
    batch = pad(images, description.stride)
    least = description.size_hw or (description.least_side,) * 2
    missing = [max(0, side - there) for side, there in zip(least, batch.images.shape[2:], strict=True)]
    return batch._replace(images=F.pad(batch.images, (0, missing[1], 0, missing[0])))


def _blank(picture: UInt8[Tensor, "C H W"]) -> UInt8[Tensor, "C H W"]:
    """Return black with noise of a level or two: where all places are alike, any of them may be chosen."""
    draw = torch.Generator().manual_seed(0)
    return torch.randint(3, picture.shape, generator=draw, dtype=torch.uint8)


def _fitted(picture: UInt8[Tensor, "C H W"], height: int, width: int) -> UInt8[Tensor, "C h w"]:
    """Return the picture as large as it fits into so many rows and columns."""
    scale = min(height / picture.shape[1], width / picture.shape[2])
    size_hw = [max(2, int(side * scale)) for side in picture.shape[1:]]
    return F.interpolate(picture[None], size_hw, mode="bilinear", antialias=True)[0]


def compared(
    expected: Callable[[Batch], Detections],
    found: Callable[[Batch], Detections],
    shown: Sequence[Case],
    description: Description,
    tolerance: Tolerance,
) -> list[Figures]:
    """Return how far `found` is from `expected` in each case. Raises ValueError where that is too far."""
    figures = []
    for name, batch in shown:
        with torch.inference_mode():
            apart = _apart(expected(batch), found(batch), description, tolerance)
        one = Figures(name, "x".join(map(str, batch.images.shape)), *apart)
        allowed = {"boxes": tolerance.boxes, "scores": tolerance.scores}
        allowed |= {"masks": tolerance.masks, "heatmaps": tolerance.heatmaps}
        for quantity, limit in allowed.items():
            if not getattr(one, quantity) <= limit:
                raise ValueError(
                    f"the exported network is not the one it was made of: in the case '{name}' ({one.size}), "
                    f"{quantity} differ by {getattr(one, quantity):.3g}, where {limit:g} is allowed; "
                    "no file was written"
                )
        figures.append(one)
    return figures


def _apart(
    expected: Detections, found: Detections, description: Description, tolerance: Tolerance
) -> tuple[int, float, float, float, float]:
    """Return the number of detections that were compared, and the largest differences."""
    pairs = list(zip(_taken(expected), _taken(found), strict=True))
    apart = [_one_way(*ends, description, tolerance) for a, b in pairs for ends in ((a, b), (b, a))]
    boxes, scores, masks, heatmaps = np.max([differences for _, differences in apart], axis=0).tolist()
    return sum(count for count, _ in apart[::2]), boxes, scores, masks, heatmaps


def _taken(found: Detections) -> list[Detections]:
    """Return the detections of each picture alone."""
    return [
        Detections(*(None if field is None else field[picture][taken] for field in found))  # type: ignore[arg-type]
        for picture, taken in enumerate(found.valid)
    ]


def _one_way(
    one: Detections, other: Detections, description: Description, tolerance: Tolerance
) -> tuple[int, tuple[float, float, float, float]]:
    """Compare what `one` found for certain with what is nearest in `other`.

    What scores within the tolerance of the threshold, or of the last of all slots, may be absent there.
    """
    last = float(one.scores.min()) if len(one.scores) == description.max_detections else 0.0
    certain = one.scores >= max(
        max(last, description.score_threshold) + 2 * tolerance.scores, tolerance.score
    )
    if not certain.any():
        return 0, (0.0, 0.0, 0.0, 0.0)
    if not len(other.scores):
        return int(certain.sum()), (float("inf"),) * 4
    distance = (one.boxes[certain][:, None] - other.boxes).abs().amax(-1)
    distance = distance.masked_fill(one.labels[certain][:, None] != other.labels, float("inf"))
    boxes, partner = distance.min(1)
    differences = [
        0.0 if a is None or b is None else float((a[certain] - b[partner]).abs().max())
        for a, b in (
            (one.scores, other.scores),
            (one.mask_probs, other.mask_probs),
            (one.keypoint_heatmaps, other.keypoint_heatmaps),
        )
    ]
    return int(certain.sum()), (float(boxes.max()), *differences)  # type: ignore[return-value]


def table(figures: Sequence[Figures]) -> Table:
    """Return the figures to print with rich."""
    made = Table("checked on", "input", "detections", "boxes, px", "scores", "masks", "heatmaps", box=SIMPLE)
    for case, size, count, *differences in figures:
        made.add_row(case, size, str(count), *(f"{difference:.2g}" for difference in differences))
    return made
