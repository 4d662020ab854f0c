"""Copy-paste: whole objects of one picture are pasted into another (Ghiasi et al. 2021).

Both are network inputs, each after its own random scale, window, flips and colours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from maskrcnn.data.targets import ImageTargets, MaskCrop, NetworkInput, crop_pixels, tight_crop

# From a network input, a function that returns another one of the data set, and random numbers
Mix = Callable[[NetworkInput, Callable[[], NetworkInput], np.random.Generator], NetworkInput]

_LEAST_VISIBLE = 0.1  # share of its pixels that a covered object must keep


def copy_paste(probability: float) -> Mix:
    """Paste a random number of another picture's objects with this probability."""
    return partial(_copy_paste, probability=probability)


def _copy_paste(
    target: NetworkInput,
    another: Callable[[], NetworkInput],
    generator: np.random.Generator,
    probability: float,
) -> NetworkInput:
    if generator.random() >= probability:
        return target
    image, objects = another()
    whole = whole_objects(objects, image.shape[-2:])
    if not len(whole):
        return target
    chosen = generator.choice(whole, generator.integers(len(whole)) + 1, replace=False)
    shift_yx = draw_shift(objects.boxes[chosen], target[0].shape[-2:], generator)
    return paste(target, (image, _selected(objects, chosen)), shift_yx)


def whole_objects(targets: ImageTargets, size_hw: Sequence[int]) -> Int[np.ndarray, " W"]:
    """Return the indices of objects with a mask, not crowds, that stay a pixel away from the border."""
    has_mask = np.array([crop is not None for crop in targets.crops], np.bool_)
    return np.flatnonzero(has_mask & ~targets.crowd & _are_inside(targets.boxes, size_hw, margin=1))


def _are_inside(
    boxes: Float[np.ndarray, "N 4"], size_hw: Sequence[int], margin: int
) -> Bool[np.ndarray, " N"]:
    distances = np.concatenate([boxes[:, :2], np.array([size_hw[1], size_hw[0]]) - boxes[:, 2:]], 1)
    return distances.min(1) >= margin


def draw_shift(
    boxes: Float[np.ndarray, "N 4"], size_hw: Sequence[int], generator: np.random.Generator
) -> tuple[int, int]:
    """Return rows and columns by which boxes move together: to any place within a picture of `size_hw`.

    Along an axis where they are longer together than the picture, they cover it from end to end.
    """
    low, high = boxes[:, :2].min(0), boxes[:, 2:].max(0)
    columns, rows = (
        sorted((-math.floor(start), math.floor(side - end)))
        for start, end, side in zip(low.tolist(), high.tolist(), size_hw[::-1], strict=True)
    )
    return int(generator.integers(rows[0], rows[1] + 1)), int(generator.integers(columns[0], columns[1] + 1))


def paste(target: NetworkInput, source: NetworkInput, shift_yx: tuple[int, int]) -> NetworkInput:
    """Paste the objects of `source`, all moved by so many rows and columns, over those of `target`.

    A pasted object keeps its mask, and brings the pixels whose centres the mask covers. One without such a
    pixel, and one that the border of `target` would cut, is not pasted. `uncovered` says what the objects
    of `target` lose.
    """
    (image, targets), (source_image, objects) = target, source
    size_hw, source_hw = tuple(image.shape[-2:]), tuple(source_image.shape[-2:])
    moved = _moved(objects, shift_yx, size_hw)
    fits = _are_inside(moved.boxes, size_hw, margin=0)
    mask, kept = np.zeros(source_hw, np.bool_), []
    for i, crop in enumerate(objects.crops):
        if crop and fits[i]:
            covered, place = crop_pixels(crop, source_hw)
            mask[place] |= covered
            kept += [i] * bool(covered.any())
    here, there = zip(*map(_overlap, size_hw, source_hw, shift_yx), strict=True)
    pasted = np.zeros(size_hw, np.bool_)
    pasted[here] = mask[there]
    image = image.clone()
    image[:, *here] = torch.where(torch.from_numpy(mask[there]), source_image[:, *there], image[:, *here])
    return image, _joined(uncovered(targets, pasted), _selected(moved, kept))


def _overlap(side: int, source_side: int, shift: int) -> tuple[slice, slice]:
    """Return what two lines of pixels have in common, in each of them; the second is moved by `shift`."""
    low = max(0, shift)
    high = max(low, min(side, source_side + shift))
    return slice(low, high), slice(low - shift, high - shift)


def uncovered(targets: ImageTargets, pasted: Bool[np.ndarray, "H W"]) -> ImageTargets:
    """Take the pixels of `pasted` away from the objects.

    An object that keeps less than a tenth of its pixels is left out. One that loses any gets the mask of
    those that it keeps, in pixels of the network's input, and their box. One without a mask counts as its
    box. Keypoints in `pasted` become hidden (visibility 1).
    """
    boxes, crops, kept = targets.boxes.copy(), list(targets.crops), []
    for i, (box, crop) in enumerate(zip(targets.boxes, targets.crops, strict=True)):
        mask, (rows, columns) = crop_pixels(crop or _box_as_crop(box), pasted.shape)
        if not mask.any():  # too small: it counts as the pixels that it touches
            mask = np.ones_like(mask)
        visible = mask & ~pasted[rows, columns]
        if visible.sum() < _LEAST_VISIBLE * mask.sum():
            continue
        kept.append(i)
        if visible.sum() == mask.sum():
            continue
        tight = tight_crop(visible, (1.0, -float(columns.start), 1.0, -float(rows.start)))
        assert tight
        (height, width), (_, x, _, y) = tight.pixels.shape, tight.affine
        boxes[i], crops[i] = (-x, -y, width - x, height - y), crop and tight
    keypoints = None if targets.keypoints is None else _hidden(targets.keypoints, pasted)
    return _selected(targets._replace(boxes=boxes, crops=crops, keypoints=keypoints), kept)


def _box_as_crop(box: np.ndarray) -> MaskCrop:
    x1, y1, x2, y2 = box.tolist()
    affine = (1 / (x2 - x1), -x1 / (x2 - x1), 1 / (y2 - y1), -y1 / (y2 - y1))
    return MaskCrop(np.ones((1, 1), np.uint8), affine)


def _hidden(keypoints: np.ndarray, pasted: np.ndarray) -> np.ndarray:
    x, y = np.moveaxis(keypoints[..., :2].astype(int), -1, 0)
    is_covered = pasted[y.clip(0, pasted.shape[0] - 1), x.clip(0, pasted.shape[1] - 1)]
    keypoints = keypoints.copy()
    keypoints[..., 2] = np.where(is_covered, keypoints[..., 2].clip(max=1), keypoints[..., 2])
    return keypoints


def _moved(targets: ImageTargets, shift_yx: tuple[int, int], size_hw: Sequence[int]) -> ImageTargets:
    """Move objects into a picture of `size_hw`; keypoints that leave it are no longer labelled."""
    dy, dx = shift_yx
    boxes = targets.boxes + np.array([dx, dy, dx, dy], np.float32)
    crops = [crop and _moved_crop(crop, dx, dy) for crop in targets.crops]
    keypoints = targets.keypoints
    if keypoints is not None:
        xy = keypoints[..., :2] + np.array([dx, dy], np.float32)
        is_inside = ((xy >= 0) & (xy <= np.array([size_hw[1], size_hw[0]]))).all(-1, keepdims=True)
        is_labelled = (keypoints[..., 2:] > 0) & is_inside
        keypoints = np.concatenate([xy, keypoints[..., 2:]], -1) * is_labelled
    return targets._replace(boxes=boxes, crops=crops, keypoints=keypoints)


def _moved_crop(crop: MaskCrop, dx: int, dy: int) -> MaskCrop:
    sx, tx, sy, ty = crop.affine
    return crop._replace(affine=(sx, tx - sx * dx, sy, ty - sy * dy))


def _selected(targets: ImageTargets, indices: Sequence[int] | np.ndarray) -> ImageTargets:
    chosen = np.array(indices, np.int64)
    boxes, labels, crowd, crops, keypoints = targets
    crops = [crops[i] for i in chosen]
    return ImageTargets(
        boxes[chosen], labels[chosen], crowd[chosen], crops, None if keypoints is None else keypoints[chosen]
    )


def _joined(one: ImageTargets, other: ImageTargets) -> ImageTargets:
    boxes, labels, crowd = (np.concatenate(pair) for pair in zip(one[:3], other[:3], strict=True))
    keypoints = None
    if one.keypoints is not None and other.keypoints is not None:
        keypoints = np.concatenate([one.keypoints, other.keypoints])
    return ImageTargets(boxes, labels, crowd, [*one.crops, *other.crops], keypoints)
