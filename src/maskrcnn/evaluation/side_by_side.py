"""The ground truth and the detections of an image, drawn side by side."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int
from PIL import Image

from maskrcnn.data.pictures import read_picture
from maskrcnn.evaluation.coco_format import Entry, sorted_categories, to_rle
from maskrcnn.evaluation.errors import Errors
from maskrcnn.evaluation.image_matches import ImageMatches
from maskrcnn.evaluation.matching import IGNORED
from maskrcnn.masks.rle import rle_to_crop
from maskrcnn.results.draw import Colour, draw
from maskrcnn.results.result import Result
from maskrcnn.types import Metadata

_LONG_SIDE = 480  # px, of the drawn images
_MASK_SIZE = 64  # cells of a mask along each side of its box

# Colours of what has no partner; those of pairs (`pair_colour`) look different
WRONG_COLOUR, MISSED_COLOUR, CROWD_COLOUR = (255, 50, 40), (255, 205, 0), (185, 185, 185)


def side_by_side(
    path: Path,
    image: ImageMatches,
    errors: Errors,
    truth: Entry,
    detections: Sequence[Entry],
    *,
    by_masks: bool,
    long_side: int = _LONG_SIDE,
) -> tuple[Image.Image, Image.Image]:
    """Draw the ground truth, and the detections, on two copies of an image of `long_side` px.

    An object and the detection that found it have the same colour, between green and violet. Wrong
    detections, missed objects, and crowd regions with the detections inside them have a colour each. Errors
    are named beside the class. Keypoints are drawn where the categories have them. Raises as `read_picture`
    does.
    """
    canvas = _Canvas(path, truth, long_side, by_masks)
    object_states = [
        "crowd" if is_crowd else "missed" if is_missed else ""
        for is_crowd, is_missed in zip(image.crowd, errors.missed, strict=True)
    ]
    object_colours, detection_colours = _colours(image.match(), image.crowd)
    objects = [truth["annotations"][i] for i in image.object_indices]
    found = [detections[i] for i in image.detection_indices]
    return (
        canvas.draw(objects, canvas.texts(image.gt_labels, object_states), object_colours),
        canvas.draw(found, canvas.texts(image.labels, errors.types), detection_colours, image.scores),
    )


def draw_truth(
    path: Path, image: ImageMatches, truth: Entry, *, by_masks: bool, long_side: int
) -> Image.Image:
    """Draw the ground truth of an image, resized to `long_side` px, in the colours of `side_by_side`.

    No object counts as missed. Raises as `read_picture` does.
    """
    canvas = _Canvas(path, truth, long_side, by_masks)
    colours = [CROWD_COLOUR if crowd else pair_colour(i) for i, crowd in enumerate(image.crowd)]
    objects = [truth["annotations"][i] for i in image.object_indices]
    states = ["crowd" if crowd else "" for crowd in image.crowd]
    return canvas.draw(objects, canvas.texts(image.gt_labels, states), colours)


class _Canvas:
    """A picture, resized, on copies of which annotations and detections are drawn."""

    def __init__(self, path: Path, truth: Entry, long_side: int, by_masks: bool) -> None:
        picture = Image.fromarray(read_picture(path).permute(1, 2, 0).contiguous().numpy())
        self.size = picture.size
        small_size = _scaled_size(picture.size, long_side)
        self.small = picture.resize(small_size, Image.Resampling.BICUBIC, reducing_gap=2)
        self.class_names, self.keypoints, self.skeleton = _classes(truth)
        self.by_masks = by_masks

    def texts(self, labels: np.ndarray, states: Sequence[str | None]) -> list[str]:
        """Return the text beside each object; with a single class its name is left out."""
        names = [self.class_names[label] if len(self.class_names) > 1 else "" for label in labels]
        return [", ".join(filter(None, pair)) for pair in zip(names, states, strict=True)]

    def draw(
        self,
        entries: Sequence[Entry],
        texts: Sequence[str],
        colours: Sequence[Colour],
        scores: Float[np.ndarray, " n"] | None = None,
    ) -> Image.Image:
        """Draw entries on a copy of the picture; ground truth has no `scores`."""
        scores = np.full(len(entries), np.nan) if scores is None else scores
        result = to_result(
            entries,
            texts,
            scores,
            self.size,
            self.small.size,
            by_masks=self.by_masks,
            keypoints=self.keypoints,
        )
        return draw(self.small, result, colours=colours, skeleton=self.skeleton, least_side=1)


def _classes(truth: Entry) -> tuple[list[str], int, list[tuple[int, int]]]:
    """Return the class names, the number of keypoints, and the pairs of them, from 0, that a limb joins."""
    categories = sorted_categories(truth)
    names = [str(category["name"]) for category in categories]
    for category in categories:
        if keypoints := category.get("keypoints"):
            return names, len(keypoints), [(a - 1, b - 1) for a, b in category.get("skeleton", ())]
    return names, 0, []


def _scaled_size(size: tuple[int, int], long_side: int) -> tuple[int, int]:
    factor = long_side / max(size)
    return max(round(size[0] * factor), 1), max(round(size[1] * factor), 1)


def _colours(
    matches: Int[np.ndarray, " D"], crowd: Bool[np.ndarray, " G"]
) -> tuple[list[Colour], list[Colour]]:
    """Return the colours of the objects and of the detections."""
    of_objects = [CROWD_COLOUR if is_crowd else MISSED_COLOUR for is_crowd in crowd]
    of_detections = [CROWD_COLOUR if match == IGNORED else WRONG_COLOUR for match in matches]
    for detection in np.flatnonzero(matches >= 0):
        number = int(matches[detection])
        of_detections[detection] = of_objects[number] = pair_colour(number)
    return of_objects, of_detections


def pair_colour(number: int) -> Colour:
    """Return a colour between green and violet; the golden ratio makes consecutive ones differ."""
    hue, saturation = 0.31 + 0.5 * (number * 0.618034 % 1), (0.9, 0.6)[number % 2]
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


def to_result(
    entries: Sequence[Entry],
    names: Sequence[str],
    scores: Float[np.ndarray, " n"],
    size: tuple[int, int],
    drawn_size: tuple[int, int],
    *,
    by_masks: bool,
    keypoints: int = 0,
) -> Result:
    """Return annotations or detections as a `Result`, scaled from `size` to `drawn_size` (width, height).

    Each object has a name of its own and `keypoints` keypoints, with a score of NaN where they are not
    labelled. Masks become 64 × 64 values in their boxes, finer than the pixels of most boxes at 480 px.
    """
    scale = np.array(drawn_size) / np.array(size)
    boxes = np.array([entry["bbox"] for entry in entries], float).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    size_hw = (size[1], size[0])
    mask_probs = None
    if by_masks:
        values = [_mask_values(entry, box, size_hw) for entry, box in zip(entries, boxes, strict=True)]
        mask_probs = np.array(values, np.float32).reshape(-1, _MASK_SIZE, _MASK_SIZE)
    return Result(
        boxes=(boxes * np.tile(scale, 2)).astype(np.float32),
        scores=scores.astype(np.float32),
        labels=np.arange(len(entries)),
        size_hw=(drawn_size[1], drawn_size[0]),
        metadata=Metadata(tuple(names), tuple(range(len(entries)))),
        mask_probs=mask_probs,
        keypoints=_keypoints(entries, keypoints, scale) if keypoints else None,
    )


def _keypoints(
    entries: Sequence[Entry], count: int, scale: Float[np.ndarray, " 2"]
) -> Float[np.ndarray, "n J 3"]:
    flat = [entry.get("keypoints") or [0] * (3 * count) for entry in entries]
    points = np.array(flat, np.float32).reshape(-1, count, 3)
    points[..., :2] = (
        points[..., :2] + 0.5
    ) * scale  # COCO's coordinates count from the first pixel's centre
    points[..., 2][points[..., 2] == 0] = np.nan  # not labelled
    return points


def _mask_values(entry: Entry, box: np.ndarray, size_hw: tuple[int, int]) -> Float[np.ndarray, "M M"]:
    """Return the share of each cell of a box that its mask covers, from 2 × 2 samples."""
    crop, (y0, x0) = rle_to_crop(to_rle(entry, size_hw))
    padded = np.pad(crop, 1)  # samples outside of the crop read 0
    steps = (np.arange(2 * _MASK_SIZE) + 0.5) / (2 * _MASK_SIZE)
    columns = np.floor(box[0] + steps * (box[2] - box[0])).astype(int) - x0 + 1
    rows = np.floor(box[1] + steps * (box[3] - box[1])).astype(int) - y0 + 1
    last_row, last_column = np.array(padded.shape) - 1
    samples = padded[np.ix_(rows.clip(0, last_row), columns.clip(0, last_column))]
    return samples.reshape(_MASK_SIZE, 2, _MASK_SIZE, 2).mean((1, 3))
