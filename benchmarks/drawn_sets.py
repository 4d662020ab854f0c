"""Drawn data sets of kinds that the folders of photographs lack, in COCO's layout. A seed gives the same set.

python benchmarks/drawn_sets.py tiny|photos|tail|forty OUT [--seed 0]

tiny: pictures of 3000 x 4000 px with objects of 10 px. photos: 3 large objects in each, of 6 classes that
only their outlines tell apart. tail: 100 classes with a long tail; in validation all are equally frequent.
forty: 40 pictures of the demo's shapes in all.
"""

import argparse
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from PIL import Image

from maskrcnn.data.synthetic import (
    MIN_VISIBLE,
    SHAPES,
    annotation,
    background,
    coverage,
    paint,
    synthetic_dataset,
    write_split,
)

Generator = np.random.Generator
Window = tuple[slice, slice]  # rows, columns
Drawing = tuple[Image.Image, list[dict[str, Any]]]


class Stamp(NamedTuple):
    """An object to draw; without a label it is clutter, which is painted but not annotated."""

    label: int | None
    rings: Sequence[Float[np.ndarray, "_ 2"]]  # x, y in px of the picture
    hue: float


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("name", choices=SETS)
    parser.add_argument("output", type=Path, metavar="OUT")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    SETS[given.name](given.output, given.seed)
    print(f"data {given.output}")


def tiny(
    folder: Path, seed: int = 0, *, train: int = 8, val: int = 3, size_hw: tuple[int, int] = (3000, 4000)
) -> None:
    """Large pictures with 40 to 90 disks and squares of 8 to 12 px."""
    names = ["disk", "square"]

    def picture(generator: Generator, _: str) -> Drawing:
        count = int(generator.integers(40, 91))
        return drawn(size_hw, (stamp(generator) for _ in range(count)), generator)

    def stamp(generator: Generator) -> Stamp:
        label = int(generator.integers(2))
        return Stamp(label, placed(SHAPES[names[label]], size_hw, (4, 6), generator), label / 2)

    write(folder, names, picture, {"train": train, "val": val}, seed)


def photos(
    folder: Path, seed: int = 0, *, train: int = 240, val: int = 60, size_hw: tuple[int, int] = (480, 640)
) -> None:
    """Photographs of 3 objects, a quarter to two thirds of the short side across, on clutter."""
    names, short = list(OUTLINES), min(size_hw)

    def picture(generator: Generator, _: str) -> Drawing:
        stamps = [*(clutter(generator) for _ in range(8)), *(stamp(generator) for _ in range(3))]
        return drawn(size_hw, stamps, generator)

    def clutter(generator: Generator) -> Stamp:
        ring = _polar(lambda a: 0.6 + 0.2 * np.cos(2 * a) + 0.1 * np.cos(5 * a))
        return Stamp(None, placed([ring], size_hw, (short / 30, short / 4), generator), generator.random())

    def stamp(generator: Generator) -> Stamp:
        label = int(generator.integers(len(names)))
        stretch = np.diag(generator.uniform(0.75, 1.25, 2))
        ring = OUTLINES[names[label]] @ stretch
        return Stamp(label, placed([ring], size_hw, (short / 8, short / 3), generator), generator.random())

    write(folder, names, picture, {"train": train, "val": val}, seed)


def tail(
    folder: Path, seed: int = 0, *, train: int = 400, val: int = 100, size_hw: tuple[int, int] = (256, 256)
) -> None:
    """About 8 objects of 100 classes: 10 outlines in 10 colours, class k in proportion to 1 / (k + 1)."""
    outlines = {**SHAPES, **{name: [ring] for name, ring in list(OUTLINES.items())[:5]}}
    order = np.random.default_rng(seed).permutation(100)
    names = [f"{list(outlines)[kind % 10]} of colour {kind // 10}" for kind in order]
    shares = {"train": 1 / np.arange(1, 101), "val": np.ones(100)}

    def picture(generator: Generator, split: str) -> Drawing:
        chances = shares[split] / shares[split].sum()
        labels = generator.choice(100, generator.integers(6, 11), p=chances)
        return drawn(size_hw, (stamp(int(label), generator) for label in labels), generator)

    def stamp(label: int, generator: Generator) -> Stamp:
        kind = int(order[label])
        rings = list(outlines.values())[kind % 10]
        return Stamp(label, placed(rings, size_hw, (14, 36), generator), kind // 10 / 10)

    write(folder, names, picture, {"train": train, "val": val}, seed)


def forty(folder: Path, seed: int = 0) -> None:
    """Forty pictures of 256 x 256 px with the demo's shapes, 10 of them for validation."""
    synthetic_dataset(folder, train=30, val=10, size=256, seed=seed)


SETS: dict[str, Callable[..., None]] = {"tiny": tiny, "photos": photos, "tail": tail, "forty": forty}


def write(
    folder: Path,
    names: Sequence[str],
    picture: Callable[[Generator, str], Drawing],
    counts: dict[str, int],
    seed: int,
) -> None:
    """Write so many pictures of each split; `picture` draws one by a generator of its own."""
    for number, (split, count) in enumerate(counts.items()):
        generators = (np.random.default_rng((seed, number, index)) for index in range(count))
        write_split(folder, split, names, (picture(generator, split) for generator in generators), ("jpg",))


# --- outlines within the unit circle ---


def _polar(radius: Callable[[np.ndarray], np.ndarray], points: int = 72) -> Float[np.ndarray, "points 2"]:
    """Return the outline whose distance from the origin is a function of the angle."""
    angle = np.arange(points) * (2 * np.pi / points)
    return radius(angle)[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)


def _points(*xy: float) -> Float[np.ndarray, "_ 2"]:
    return np.reshape(xy, (-1, 2)).astype(float)


_ARM, _TIP = 0.28, 0.95
OUTLINES = {
    "gear": _polar(lambda a: np.where(np.sin(8 * a) > 0, 0.95, 0.72), 144),
    "leaf": _polar(lambda a: 0.35 + 0.6 * np.abs(np.cos(a)) ** 3),
    "clover": _polar(lambda a: 0.65 + 0.3 * np.cos(3 * a)),
    "arrow": _points(-0.9, -0.2, 0.1, -0.2, 0.1, -0.55, 0.95, 0, 0.1, 0.55, 0.1, 0.2, -0.9, 0.2),
    "cross": _points(
        *(-_ARM, -_TIP, _ARM, -_TIP, _ARM, -_ARM, _TIP, -_ARM, _TIP, _ARM, _ARM, _ARM),
        *(_ARM, _TIP, -_ARM, _TIP, -_ARM, _ARM, -_TIP, _ARM, -_TIP, -_ARM, -_ARM, -_ARM),
    ),
    "hook": _points(-0.6, -0.8, 0, -0.8, 0, 0.2, 0.7, 0.2, 0.7, 0.7, -0.6, 0.7),
}


def placed(
    rings: Sequence[np.ndarray], size_hw: tuple[int, int], radii: tuple[float, float], generator: Generator
) -> list[Float[np.ndarray, "_ 2"]]:
    """Turn a shape, enlarge it to a radius within `radii` px, and place it within the picture, at random."""
    radius, angle = generator.uniform(*radii), generator.uniform(0, 2 * np.pi)
    turn = radius * np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    reach = max(np.abs(ring @ turn).max() for ring in rings)
    centre = generator.uniform(reach, np.array(size_hw[::-1]) - reach)
    return [ring @ turn + centre for ring in rings]


# --- painting ---


def drawn(size_hw: tuple[int, int], stamps: Iterable[Stamp], generator: Generator) -> Drawing:
    """Paint objects over one another, and return the picture with its annotations.

    One that would hide more than half of another is left out. Only a window around each is computed, as
    pictures may be large.
    """
    pixels = background(*size_hw, generator)
    owner = np.zeros(size_hw, np.int32)  # the number of the object that is visible, from 1
    kept: list[tuple[Stamp, Window]] = []
    areas, visible = np.zeros(1, np.int64), np.zeros(1, np.int64)  # px of each object; of number 0 none
    for one in stamps:
        window = around(one.rings, size_hw)
        y, x = window[0].start, window[1].start
        shares = coverage([ring - [x, y] for ring in one.rings], *owner[window].shape)
        mask = shares >= 0.5
        left = visible - np.bincount(owner[window][mask], minlength=len(visible))
        if (left[1:] < MIN_VISIBLE * areas[1:]).any():
            continue
        if one.label is not None:
            kept.append((one, window))
            areas, visible = np.append(areas, mask.sum()), np.append(left, mask.sum())
            owner[window][mask] = len(kept)
        paint(pixels[window], shares, one.hue, generator)
    pixels += generator.normal(0, 0.012, pixels.shape)
    picture = Image.fromarray(np.rint(pixels.clip(0, 1) * 255).astype(np.uint8))
    annotations = []
    for number, (one, window) in enumerate(kept, 1):
        is_whole = visible[number] == areas[number] and len(one.rings) == 1
        ring, origin = one.rings[0] if is_whole else None, (window[0].start, window[1].start)
        annotations.append(annotation(one.label + 1, owner[window] == number, origin, size_hw, ring))
    return picture, annotations


def around(rings: Sequence[np.ndarray], size_hw: tuple[int, int]) -> Window:
    """Return the rows and columns around a shape, with room for its shadow."""
    points = np.concatenate(rings)
    low, high = points.min(0), points.max(0)
    room = 0.3 * (high - low).max() + 2
    x0, y0 = np.maximum(low - room, 0).astype(int).tolist()
    x1, y1 = np.minimum(high + room, size_hw[::-1]).astype(int).tolist()
    return slice(y0, y1), slice(x0, x1)


if __name__ == "__main__":
    main()
