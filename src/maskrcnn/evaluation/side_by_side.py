"""Truth and detections of a picture, drawn side by side, as JPEG inside the page."""

from __future__ import annotations

import base64
import colorsys
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int
from PIL import Image

from maskrcnn.data.pictures import read_picture
from maskrcnn.evaluation.errors import IGNORED, Entry, Errors, ImageMatches, categories_of, match, run_lengths
from maskrcnn.masks.rle import rle_to_crop
from maskrcnn.results.draw import Colour, draw
from maskrcnn.results.result import Result
from maskrcnn.types import Metadata

_LONG_SIDE = 480  # px, of pictures in the page
_CELLS = 64  # of a mask, along each side of its box

# Colours of what has no partner; pairs have none that is like these.
WRONG, UNFOUND, NEITHER = (255, 50, 40), (255, 205, 0), (185, 185, 185)


def side_by_side(
    path: Path,
    scene: ImageMatches,
    wrong: Errors,
    truth: Entry,
    detections: Sequence[Entry],
    *,
    by_masks: bool,
) -> tuple[str, str]:
    """Draw what is there, and what was found, on a picture of 480 px at its long side; as `data:` addresses.

    An object and the detection that found it have one colour, between green and violet; detections that are
    `WRONG`, objects that are `UNFOUND`, and crowds with what lies in them, which count for `NEITHER`, have
    these. What is wrong is named so. Keypoints are drawn where the classes have them. Raises as
    `read_picture` does.
    """
    picture = Image.fromarray(read_picture(path).permute(1, 2, 0).contiguous().numpy())
    small = picture.resize(_small(picture.size), Image.Resampling.BICUBIC, reducing_gap=2)
    names, joints, skeleton = _classes(truth)
    states = ["crowd" if c else "missed" if m else "" for c, m in zip(scene.crowd, wrong.missed, strict=True)]
    texts = _texts(names, scene.true_labels, states), _texts(names, scene.labels, wrong.kinds)
    entries = [truth["annotations"][i] for i in scene.there], [detections[i] for i in scene.found]
    scores = np.full(len(scene.there), np.nan), scene.scores
    addresses = []
    for side, inks in enumerate(_inks(match(scene), scene.crowd)):
        result = to_result(
            entries[side],
            texts[side],
            scores[side],
            picture.size,
            small.size,
            by_masks=by_masks,
            joints=joints,
        )
        addresses.append(_address(draw(small, result, colours=inks, skeleton=skeleton, least_side=1)))
    return addresses[0], addresses[1]


def _classes(truth: Entry) -> tuple[list[str], int, list[tuple[int, int]]]:
    """Return the classes' names, how many keypoints they have, and which of these, from 0, are joined."""
    categories = categories_of(truth)
    names = [str(category["name"]) for category in categories]
    for category in categories:
        if points := category.get("keypoints"):
            return names, len(points), [(a - 1, b - 1) for a, b in category.get("skeleton", ())]
    return names, 0, []


def _small(size: tuple[int, int]) -> tuple[int, int]:
    factor = _LONG_SIDE / max(size)
    return max(round(size[0] * factor), 1), max(round(size[1] * factor), 1)


def _inks(matched: Int[np.ndarray, " D"], crowd: Bool[np.ndarray, " G"]) -> tuple[list[Colour], list[Colour]]:
    """Return the colours of objects and of detections."""
    there = [NEITHER if is_crowd else UNFOUND for is_crowd in crowd]
    found = [NEITHER if object_ == IGNORED else WRONG for object_ in matched]
    for number, place in enumerate(np.flatnonzero(matched >= 0)):
        found[place] = there[matched[place]] = pair_colour(number)
    return there, found


def pair_colour(number: int) -> Colour:
    """Return a colour between green and violet; the golden ratio keeps any few in a row apart."""
    hue, saturation = 0.31 + 0.5 * (number * 0.618034 % 1), (0.9, 0.6)[number % 2]
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


def _texts(names: Sequence[str], labels: np.ndarray, states: Sequence[str | None]) -> list[str]:
    """What to write beside each object; a name that all have is left out."""
    shown = [names[label] if len(names) > 1 else "" for label in labels]
    return [", ".join(filter(None, pair)) for pair in zip(shown, states, strict=True)]


def to_result(
    entries: Sequence[Entry],
    names: Sequence[str],
    scores: Float[np.ndarray, " n"],
    size: tuple[int, int],
    drawn_size: tuple[int, int],
    *,
    by_masks: bool,
    joints: int = 0,
) -> Result:
    """Turn annotations, or detections, of a picture of `size` (width, height) into a result for another size.

    Each object has a name of its own, and `joints` keypoints; those that are not known have no number as
    their score. Masks become 64 × 64 shares of a box, which is finer than pixels are in
    most boxes of a picture of 480.
    """
    scale = np.array(drawn_size) / np.array(size)
    boxes = np.array([entry["bbox"] for entry in entries], float).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    size_hw = (size[1], size[0])
    probs = (
        [_shares(entry, box, size_hw) for entry, box in zip(entries, boxes, strict=True)] if by_masks else []
    )
    return Result(
        boxes=(boxes * np.tile(scale, 2)).astype(np.float32),
        scores=scores.astype(np.float32),
        labels=np.arange(len(entries)),
        size_hw=(drawn_size[1], drawn_size[0]),
        metadata=Metadata(tuple(names), tuple(range(len(entries)))),
        mask_probs=np.array(probs, np.float32).reshape(-1, _CELLS, _CELLS) if by_masks else None,
        keypoints=_keypoints(entries, joints, scale) if joints else None,
    )


def _keypoints(
    entries: Sequence[Entry], joints: int, scale: Float[np.ndarray, " 2"]
) -> Float[np.ndarray, "n J 3"]:
    flat = [entry.get("keypoints") or [0] * (3 * joints) for entry in entries]
    points = np.array(flat, np.float32).reshape(-1, joints, 3)
    points[..., :2] = (points[..., :2] + 0.5) * scale  # COCO counts from the centre of the first pixel
    points[..., 2][points[..., 2] == 0] = np.nan  # not labelled
    return points


def _shares(entry: Entry, box: np.ndarray, size_hw: tuple[int, int]) -> Float[np.ndarray, "M M"]:
    """The share of each cell of a box that its mask covers, of 2 × 2 samples."""
    crop, (y0, x0) = rle_to_crop(run_lengths(entry, size_hw))
    padded = np.pad(crop, 1)  # so that what is outside reads zero
    steps = (np.arange(2 * _CELLS) + 0.5) / (2 * _CELLS)
    columns = np.floor(box[0] + steps * (box[2] - box[0])).astype(int) - x0 + 1
    rows = np.floor(box[1] + steps * (box[3] - box[1])).astype(int) - y0 + 1
    limit_rows, limit_columns = np.array(padded.shape) - 1
    samples = padded[np.ix_(rows.clip(0, limit_rows), columns.clip(0, limit_columns))]
    return samples.reshape(_CELLS, 2, _CELLS, 2).mean((1, 3))


def _address(picture: Image.Image) -> str:
    written = io.BytesIO()
    picture.save(written, format="JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(written.getvalue()).decode()
