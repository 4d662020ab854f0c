"""A small generated data set: shaded shapes that occlude one another, with exact masks.

It is written in COCO's format: polygons for objects that are fully visible, run lengths for rings and for
objects that are partly occluded; PNG and JPEG pictures.
"""

from __future__ import annotations

import colorsys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from PIL import Image, ImageFilter

from maskrcnn.files import write_json
from maskrcnn.masks.rle import crop_to_rle

LINES_PER_ROW = 4  # scan lines per row of pixels, for smooth edges
MIN_VISIBLE = 0.5  # share of an object's area that other objects may not occlude


def synthetic_dataset(
    folder: str | Path, *, train: int = 500, val: int = 60, size: int = 128, seed: int = 0
) -> Path:
    """Write a data set of `train` and `val` pictures of `size` × `size` pixels to `folder`; return `folder`.

    The same arguments give the same pictures. Objects are 1/10 to 1/2 of a picture's side across.
    """
    for number, (split, count) in enumerate({"train": train, "val": val}.items()):
        generators = (np.random.default_rng((seed, number, i)) for i in range(count))
        pictures = (synthetic_picture(size, generator) for generator in generators)
        write_split(Path(folder), split, list(SHAPES), pictures)
    return Path(folder)


def write_split(
    folder: Path,
    split: str,
    class_names: Sequence[str],
    pictures: Iterable[tuple[Image.Image, list[dict[str, Any]]]],
    suffixes: Sequence[str] = ("png", "jpg"),
) -> None:
    """Write pictures with their annotations, with category ids from 1; the suffixes are used in turn."""
    for created in (folder / "annotations", folder / split):
        created.mkdir(parents=True, exist_ok=True)
    content: dict[str, list[dict[str, Any]]] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": id_, "name": name} for id_, name in enumerate(class_names, 1)],
    }
    for i, (picture, objects) in enumerate(pictures):
        name = f"{i:04d}.{suffixes[i % len(suffixes)]}"
        picture.save(folder / split / name, quality=92)
        content["images"].append(
            {"id": i, "file_name": name, "width": picture.width, "height": picture.height}
        )
        first = len(content["annotations"]) + 1
        content["annotations"] += [
            {"id": id_, "image_id": i, **entry} for id_, entry in enumerate(objects, first)
        ]
    write_json(folder / "annotations" / f"instances_{split}.json", content)


def _corners(count: int, radii: tuple[float, ...] = (1.0,)) -> Float[np.ndarray, "points 2"]:
    """Return points around the origin, at the radii in turn."""
    angles = np.arange(count) * (2 * np.pi / count)
    return np.stack([np.cos(angles), np.sin(angles)], 1) * np.resize(radii, count)[:, None]


SHAPES = {  # outlines within the unit circle; holes have the opposite orientation
    "disk": [_corners(48)],
    "square": [_corners(4)],
    "triangle": [_corners(3)],
    "star": [_corners(10, (1.0, 0.55))],
    "ring": [_corners(48), 0.45 * _corners(48)[::-1]],
}


class _Object(NamedTuple):
    shape: int
    rings: list[np.ndarray]
    area: int  # px, without occlusion
    visible: np.ndarray


def synthetic_picture(size: int, generator: np.random.Generator) -> tuple[Image.Image, list[dict[str, Any]]]:
    """Return a picture of `size` × `size` pixels and its annotations in COCO's form."""
    height = width = size
    pixels = background(height, width, generator)
    placed: list[_Object] = []
    for _ in range(generator.integers(4, 12)):
        shape = int(generator.integers(len(SHAPES)))
        rings = _place(list(SHAPES.values())[shape], height, width, generator)
        shares = coverage(rings, height, width)
        mask = shares >= 0.5
        if all((other.visible & ~mask).sum() >= MIN_VISIBLE * other.area for other in placed):
            placed = [other._replace(visible=other.visible & ~mask) for other in placed]
            placed.append(_Object(shape, rings, mask.sum(), mask))
            paint(pixels, shares, shape / len(SHAPES), generator)
    pixels += generator.normal(0, 0.012, pixels.shape)
    picture = Image.fromarray(np.rint(pixels.clip(0, 1) * 255).astype(np.uint8))
    return picture, [
        annotation(
            one.shape + 1,
            one.visible,
            (0, 0),
            (height, width),
            one.rings[0] if one.visible.sum() == one.area and len(one.rings) == 1 else None,
        )
        for one in placed
    ]


def _place(
    rings: Sequence[np.ndarray], height: int, width: int, generator: np.random.Generator
) -> list[np.ndarray]:
    """Rotate and scale a shape at random, and place all of it within the picture."""
    short = min(height, width)
    radius = generator.uniform(short / 20, short / 4)
    angle = generator.uniform(0, 2 * np.pi)
    rotation = radius * np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    centre = generator.uniform(radius, np.array([width, height]) - radius)
    return [ring @ rotation + centre for ring in rings]


def coverage(rings: Sequence[np.ndarray], height: int, width: int) -> Float[np.ndarray, "height width"]:
    """Return the share of each pixel within the rings: exact along rows, on LINES_PER_ROW scan lines in each.

    Where a scan line crosses an edge, everything to the right is entered or left, by the edge's direction.
    """
    start = np.concatenate(rings)
    step = np.concatenate([np.roll(ring, -1, 0) for ring in rings]) - start
    y = (np.arange(height * LINES_PER_ROW) + 0.5) / LINES_PER_ROW
    line, edge = np.nonzero((start[:, 1] <= y[:, None]) != (start[:, 1] + step[:, 1] <= y[:, None]))
    x = start[edge, 0] + (y[line] - start[edge, 1]) / step[edge, 1] * step[edge, 0]
    to_the_right = (np.arange(1, width + 1) - x[:, None]).clip(0, 1)
    enclosed = np.zeros((height, width))
    np.add.at(enclosed, line // LINES_PER_ROW, np.sign(step[edge, 1])[:, None] * to_the_right / LINES_PER_ROW)
    return np.abs(enclosed)


def background(
    height: int, width: int, generator: np.random.Generator
) -> Float[np.ndarray, "height width 3"]:
    """Return noise in a muted colour: coarse in hue, fine in brightness."""
    tone = np.array(
        colorsys.hsv_to_rgb(generator.random(), generator.uniform(0.05, 0.35), generator.uniform(0.35, 0.8))
    )
    colours = _clouds(3, height, width, 4, generator)
    grain = _clouds(1, height, width, int(generator.integers(12, 40)), generator)
    return tone * (1 + 0.25 * colours) + 0.06 * grain


def _clouds(channels: int, height: int, width: int, cells: int, generator: np.random.Generator) -> np.ndarray:
    """Return smooth noise in about -1 … 1 with `cells` random values along each side."""
    seeds = generator.uniform(-1, 1, (channels, cells, cells)).astype(np.float32)
    layers = [Image.fromarray(seed).resize((width, height), Image.Resampling.BICUBIC) for seed in seeds]
    return np.stack([np.asarray(layer) for layer in layers], -1)


def paint(pixels: np.ndarray, shares: np.ndarray, hue: float, generator: np.random.Generator) -> None:
    """Blend a shaded or striped shape of a colour near `hue`, with a soft shadow, into `pixels` in place.

    `shares` are those of each pixel that the shape covers.
    """
    height, width = shares.shape
    hue = (hue + generator.normal(0, 0.03)) % 1  # colour hints at the class, but does not determine it
    colour = np.array(colorsys.hsv_to_rgb(hue, generator.uniform(0.55, 1), generator.uniform(0.5, 1)))
    angle, phase = generator.uniform(0, 2 * np.pi, 2)
    y, x = np.mgrid[:height, :width]
    along = (x * np.cos(angle) + y * np.sin(angle)) / min(height, width)
    shade = 0.15 * np.sin(4 * along + phase) + (generator.random() < 0.3) * 0.12 * np.sign(np.sin(60 * along))
    soft = Image.fromarray(np.uint8(shares * 255)).filter(ImageFilter.GaussianBlur(min(height, width) / 50))
    shadow = np.roll(np.asarray(soft) / 255, (min(height, width) // 60,) * 2, (0, 1))
    pixels *= 1 - 0.4 * shadow[..., None]
    pixels += shares[..., None] * (colour * (0.95 + shade[..., None]) - pixels)


def annotation(
    category_id: int,
    visible: Bool[np.ndarray, "h w"],
    origin_yx: tuple[int, int],
    size_hw: tuple[int, int],
    ring: Float[np.ndarray, "points 2"] | None,
) -> dict[str, Any]:
    """Return the annotation of an object whose visible pixels are a crop, at `origin_yx` of a picture.

    Its mask is the polygon `ring`, or without one the run lengths of the visible pixels.
    """
    rows, columns = np.flatnonzero(visible.any(1)), np.flatnonzero(visible.any(0))
    x, y, width, height = (int(n) for n in (columns[0], rows[0], np.ptp(columns) + 1, np.ptp(rows) + 1))
    origin = (y + origin_yx[0], x + origin_yx[1])
    return {
        "category_id": category_id,
        "iscrowd": 0,
        "area": int(visible.sum()),
        "bbox": [origin[1], origin[0], width, height],
        "segmentation": crop_to_rle(visible[y : y + height, x : x + width], origin, size_hw)
        if ring is None
        else [ring.round(2).ravel().tolist()],
    }
