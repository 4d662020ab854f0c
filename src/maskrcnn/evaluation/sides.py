"""Truth and detections of a picture, drawn side by side, as JPEG inside the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from PIL import Image

from maskrcnn.data.pictures import read_picture
from maskrcnn.draw import draw
from maskrcnn.evaluation.errors import Entry, Mistakes, Scene, match, run_lengths
from maskrcnn.ops.masks import rle_to_crop
from maskrcnn.result import Result

_LONG_SIDE = 480  # px, of pictures in the page
_CELLS = 64  # of a mask, along each side of its box


def sides(
    path: Path,
    scene: Scene,
    wrong: Mistakes,
    truth: Sequence[Entry],
    detections: Sequence[Entry],
    names: Sequence[str],
    *,
    by_masks: bool,
) -> tuple[str, str]:
    """Draw what is there, and what was found, on a picture of 480 px at its long side; as `data:` addresses.

    `truth` and `detections` are those lists that the scene's numbers are places in. An object and
    the detection that found it have one colour; what is wrong is named so. Raises as `read_picture` does.
    """
    picture = Image.fromarray(read_picture(path).permute(1, 2, 0).contiguous().numpy())
    small = picture.resize(_small(picture.size), Image.Resampling.BICUBIC, reducing_gap=2)
    truth_order, found_order = _paired(match(scene), len(scene.there))
    states = ["crowd" if c else "missed" if m else "" for c, m in zip(scene.crowd, wrong.missed, strict=True)]
    texts = _texts(names, scene.true_labels, states), _texts(names, scene.labels, wrong.kinds)
    there = [truth[scene.there[i]] for i in truth_order]
    found = [detections[scene.found[i]] for i in found_order]
    scores = np.full(len(there), np.nan), scene.scores[found_order]
    drawn = [
        to_result(entries, [text[i] for i in order], score, picture.size, small.size, by_masks=by_masks)
        for entries, text, order, score in zip(
            (there, found), texts, (truth_order, found_order), scores, strict=True
        )
    ]
    return _address(draw(small, drawn[0], least_side=1)), _address(draw(small, drawn[1], least_side=1))


def _small(size: tuple[int, int]) -> tuple[int, int]:
    factor = _LONG_SIDE / max(size)
    return max(round(size[0] * factor), 1), max(round(size[1] * factor), 1)


def _paired(matched: np.ndarray, objects: int) -> tuple[list[int], list[int]]:
    """Objects and detections in orders that begin with the matched pairs, so that these get like colours."""
    found = np.flatnonzero(matched >= 0).tolist()
    there = matched[found].tolist()
    rest = [i for i in range(objects) if i not in set(there)]
    return there + rest, found + np.flatnonzero(matched < 0).tolist()


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
) -> Result:
    """Turn annotations, or detections, of a picture of `size` (width, height) into a result for another size.

    Each object has a name of its own. Masks become 64 × 64 shares of a box, which is finer than pixels are in
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
        class_names=tuple(names),
        category_ids=tuple(range(len(entries))),
        mask_probs=np.array(probs, np.float32).reshape(-1, _CELLS, _CELLS) if by_masks else None,
    )


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
