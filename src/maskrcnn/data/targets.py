"""Objects of one picture as targets: mapped once, exactly, from pixels of the file to the network's input."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped, UInt8
from torch import Tensor

from maskrcnn.data.categories import Entry
from maskrcnn.data.dataset import Mask, Polygons
from maskrcnn.data.prepare import Affine, map_boxes
from maskrcnn.data.transforms import Sample
from maskrcnn.masks.rle import rle_to_crop


class MaskCrop(NamedTuple):
    """The tight crop of an object's mask, at a resolution of its own."""

    pixels: UInt8[np.ndarray, "h w"]
    affine: Affine  # network's input → crop


class ImageTargets(NamedTuple):
    """Objects of one picture in the coordinates of the network's input."""

    boxes: Float[np.ndarray, "G 4"]
    labels: Int[np.ndarray, " G"]
    crowd: Bool[np.ndarray, " G"]
    crops: list[MaskCrop | None]
    keypoints: Float[np.ndarray, "G J 3"] | None


NetworkInput = tuple[UInt8[Tensor, "C _ _"], ImageTargets]  # as a picture goes into a batch


def to_network(sample: Sample) -> NetworkInput:
    """Map the objects to the coordinates of the transformed image.

    Polygons are rasterised here, at the network's resolution; run lengths keep the file's. An object that the
    edge cuts gets the box of its visible part; it is left out if that has an area below 1 px².
    """
    objects, size_hw = sample.objects, sample.image.shape[-2:]
    mapped = map_boxes(objects.boxes, sample.affine)
    boxes = _clip(mapped, size_hw)
    is_cut = np.abs(boxes - mapped).max(1, initial=0) > 1e-3  # more than rounding
    kept, crops = [], []
    for i in np.flatnonzero(_areas(boxes) > 0):
        crop = _crop_mask(objects.masks[i], sample.affine, size_hw)
        if is_cut[i]:
            if objects.masks[i] is not None:
                boxes[i] = np.zeros(4) if crop is None else crop_box(crop, size_hw)
            if _visible_area(crop, boxes[i]) < 1:
                continue
        kept.append(i)
        crops.append(crop)
    keypoints = None if objects.keypoints is None else _map_keypoints(objects.keypoints[kept], sample)
    boxes = boxes[kept].astype(np.float32)
    targets = ImageTargets(boxes, objects.labels[kept], objects.crowd[kept], crops, keypoints)
    return quarter_turned(sample.image, targets) if sample.is_turned else (sample.image, targets)


def quarter_turned(image: UInt8[Tensor, "C H W"], targets: ImageTargets) -> NetworkInput:
    """Turn a picture and its targets by 90°, anticlockwise: x_new = y, y_new = W - x."""
    width = image.shape[-1]
    x1, y1, x2, y2 = targets.boxes.T
    keypoints = targets.keypoints
    if keypoints is not None:
        x, y, visibility = np.moveaxis(keypoints, -1, 0)
        keypoints = np.stack([y, width - x, visibility], -1) * (visibility > 0)[..., None]
    crops = [crop and _quarter_turned_crop(crop, width) for crop in targets.crops]
    boxes = np.stack([y1, width - x2, y2, width - x1], 1)
    return image.rot90(1, (-2, -1)), targets._replace(boxes=boxes, crops=crops, keypoints=keypoints)


def _quarter_turned_crop(crop: MaskCrop, width: int) -> MaskCrop:
    sx, tx, sy, ty = crop.affine
    turned = (sy, ty, sx, crop.pixels.shape[1] - tx - sx * width)
    return MaskCrop(np.ascontiguousarray(np.rot90(crop.pixels)), turned)


def _clip(boxes: np.ndarray, size_hw: Sequence[int]) -> np.ndarray:
    return boxes.clip(0, np.array([size_hw[1], size_hw[0]] * 2))


def _areas(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def _map_keypoints(keypoints: np.ndarray, sample: Sample) -> np.ndarray:
    (height, width), (sx, tx, sy, ty) = sample.image.shape[-2:], sample.affine
    if sx * sy < 0:  # mirrored once, a left hand becomes a right one; mirrored twice is rotated
        keypoints = keypoints[:, list(sample.keypoint_flip)]
    x, y = keypoints[..., 0] * sx + tx, keypoints[..., 1] * sy + ty
    inside = (x >= 0) & (x <= width) & (y >= 0) & (y <= height)
    labelled = (keypoints[..., 2] > 0) & inside
    return np.stack([x, y, keypoints[..., 2]], -1).astype(np.float32) * labelled[..., None]


def _crop_mask(mask: Mask, affine: Affine, size_hw: Sequence[int]) -> MaskCrop | None:
    if mask is None:
        return None
    if isinstance(mask, dict):
        return _crop_runs(mask, affine, size_hw)
    return _crop_polygons(mask, affine, size_hw)


def _crop_polygons(polygons: Polygons, affine: Affine, size_hw: Sequence[int]) -> MaskCrop | None:
    from faster_coco_eval.core import mask as coco_mask

    sx, tx, sy, ty = affine
    rings = [ring.astype(np.float64) * [sx, sy] + [tx, ty] for ring in polygons]
    points = np.concatenate(rings)
    origin = np.maximum(np.floor(points.min(0)), 0).astype(int)
    width, height = np.minimum(np.ceil(points.max(0)), size_hw[::-1]).astype(int) - origin
    if min(width, height) <= 0:
        return None
    runs = coco_mask.frPyObjects(
        [(ring - origin).ravel().tolist() for ring in rings], int(height), int(width)
    )
    x0, y0 = origin.tolist()
    return tight_crop(coco_mask.decode(coco_mask.merge(runs)), (1.0, -float(x0), 1.0, -float(y0)))


def _crop_runs(rle: Entry, affine: Affine, size_hw: Sequence[int]) -> MaskCrop | None:
    pixels, (y0, x0) = rle_to_crop(rle)
    sx, tx, sy, ty = affine
    to_crop = (1 / sx, -tx / sx - x0, 1 / sy, -ty / sy - y0)
    visible = map_boxes(np.array([0, 0, size_hw[1], size_hw[0]]), to_crop)[0].round(
        6
    )  # so that rounding errors add no pixel
    low, high = np.floor(visible[:2]).clip(0).astype(int), np.ceil(visible[2:]).clip(0).astype(int)
    to_window = (to_crop[0], to_crop[1] - low[0], to_crop[2], to_crop[3] - low[1])
    return tight_crop(pixels[low[1] : high[1], low[0] : high[0]], to_window)


def tight_crop(pixels: Shaped[np.ndarray, "h w"], affine: Affine) -> MaskCrop | None:
    """Reduce a crop to the rows and columns with pixels of the mask; None if it has none."""
    rows, columns = np.flatnonzero(pixels.any(1)), np.flatnonzero(pixels.any(0))
    if not len(rows):
        return None
    pixels = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    sx, tx, sy, ty = affine
    return MaskCrop(np.ascontiguousarray(pixels, np.uint8), (sx, tx - columns[0], sy, ty - rows[0]))


def crop_box(crop: MaskCrop, size_hw: Sequence[int]) -> Float[np.ndarray, " 4"]:
    """Return the box of a mask in the network's input, clipped to it."""
    (height, width), (sx, tx, sy, ty) = crop.pixels.shape, crop.affine
    to_network = (1 / sx, -tx / sx, 1 / sy, -ty / sy)
    return _clip(map_boxes(np.array([0, 0, width, height]), to_network), size_hw)[0]


def crop_pixels(
    crop: MaskCrop, size_hw: Sequence[int]
) -> tuple[Bool[np.ndarray, "h w"], tuple[slice, slice]]:
    """Return which pixels of the network's input have their centres in a mask, and their rows and columns.

    These are the pixels that the mask's box touches.
    """
    x1, y1, x2, y2 = crop_box(crop, size_hw).tolist()
    place = slice(math.floor(y1), math.ceil(y2)), slice(math.floor(x1), math.ceil(x2))
    (height, width), (sx, tx, sy, ty) = crop.pixels.shape, crop.affine
    rows = np.floor(sy * (np.arange(place[0].start, place[0].stop) + 0.5) + ty).astype(int)
    columns = np.floor(sx * (np.arange(place[1].start, place[1].stop) + 0.5) + tx).astype(int)
    is_inside = ((rows >= 0) & (rows < height))[:, None] & ((columns >= 0) & (columns < width))
    looked_up = crop.pixels[rows.clip(0, height - 1)[:, None], columns.clip(0, width - 1)]
    return is_inside & (looked_up > 0), place


def _visible_area(crop: MaskCrop | None, box: np.ndarray) -> float:
    """Return the area in px² of the network's input."""
    if crop is None:
        return float(_areas(box[None])[0])
    sx, _, sy, _ = crop.affine
    return float(crop.pixels.sum()) / abs(sx * sy)
