"""Draws the pictures with the most serious findings, their objects and what is wrong with each."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from maskrcnn.data.categories import Entry
from maskrcnn.data.doctor.findings import Finding, Report, plain_text
from maskrcnn.data.doctor.raw import RawSplit, to_bbox, to_key
from maskrcnn.data.doctor.shapes import as_extent, mask_extent, rings_of
from maskrcnn.data.file_names import name_problem
from maskrcnn.data.pictures import read_picture
from maskrcnn.files import replacing
from maskrcnn.masks.rle import decode
from maskrcnn.results.draw import Colour, Rectangle, draw_labels

_DRAWN = 24  # pictures
_LABELS = 200  # in a picture
_TITLE = 40  # px
_SIDES = 640, 1600  # least and largest longer side of a drawing, px
_SOUND: Colour = (110, 200, 255)
_INKS: dict[str, Colour] = {"error": (255, 60, 60), "warning": (255, 190, 0)}
_OPACITY = 0.35
_WEIGHTS = {"error": 100, "warning": 1}

Findings = dict[int | str | None, list[Finding]]  # by the key of the annotation; None: of the picture


class _Shape(NamedTuple):
    """One annotation in pixels of the drawing."""

    annotation: Entry
    rings: list[np.ndarray]
    box: Rectangle | None
    ink: Colour
    label: str

    @property
    def area(self) -> Rectangle:
        """The rectangle around box and mask."""
        points = np.concatenate([*self.rings, np.reshape(self.box or (), (-1, 2))])
        if not len(points):
            return 0, 0, 0, 0
        (x1, y1), (x2, y2) = points.min(0).astype(int).tolist(), points.max(0).astype(int).tolist()
        return x1, y1, x2, y2


def draw_worst(splits: Sequence[RawSplit], report: Report, folder: Path) -> list[Path]:
    """Draw the pictures with the most serious findings as PNG files into `folder`; return their paths.

    Errors come before warnings, many before few; at most 24 pictures that can be read are drawn. Objects are
    drawn with their masks and boxes, those with a fault in red (errors) or yellow (warnings), with their id
    and the kinds of their findings. Raises OSError where a file cannot be written.
    """
    by_file = {str(split.file): split for split in splits}
    drawn: list[Path] = []
    for (file, key), findings in _worst_first(report):
        split = by_file.get(file)
        image = split.images_by_key().get(key) if split else None
        if split is None or image is None or (path := _path(split, image)) is None:
            continue
        try:
            picture = Image.fromarray(read_picture(path).permute(1, 2, 0).contiguous().numpy())
        except (ValueError, OSError):  # a finding of its own
            continue
        folder.mkdir(parents=True, exist_ok=True)
        stem = re.sub(r"[^A-Za-z0-9.-]+", "_", path.stem)[:60]
        drawn.append(folder / f"{len(drawn) + 1:02}_{split.name}_{stem}.png")
        annotations = split.by_image().get(key, [])
        with replacing(drawn[-1]) as unfinished:
            _drawing(picture, annotations, findings).save(unfinished, "PNG")
        if len(drawn) == _DRAWN:
            break
    return drawn


def _worst_first(report: Report) -> list[tuple[tuple[str, int | str], Findings]]:
    """Return the findings of each picture, by the file of the annotations and the key of the picture."""
    pictures: dict[tuple[str, int | str], Findings] = {}
    for group in report.kinds.values():
        for one in group.findings if group.severity != "note" else ():
            if one.where.image is not None:
                place = pictures.setdefault((one.where.file, to_key(one.where.image)), {})
                annotation = one.where.annotation
                place.setdefault(None if annotation is None else to_key(annotation), []).append(one)

    def weight(findings: Findings) -> int:
        return sum(_WEIGHTS[one.severity] for several in findings.values() for one in several)

    return sorted(pictures.items(), key=lambda item: -weight(item[1]))


def _path(split: RawSplit, image: Entry) -> Path | None:
    name = image.get("file_name")
    if not isinstance(name, str) or name_problem(name.replace("\\", "/")):
        return None
    return split.folder / name.replace("\\", "/")


def _drawing(picture: Image.Image, annotations: Iterable[Entry], findings: Findings) -> Image.Image:
    least, largest = _SIDES
    side = max(picture.size)
    factor = math.ceil(least / side) * 1.0 if side < least else min(1.0, largest / side)
    size = round(picture.width * factor), round(picture.height * factor)
    image = picture.resize(size, Image.Resampling.NEAREST if factor > 1 else Image.Resampling.BOX)
    shapes = [
        _shape(one, findings.get(to_key(one.get("id", "without id")), []), factor, size)
        for one in annotations
    ]
    for ink in (_SOUND, *reversed(_INKS.values())):  # faults on top
        image = _with_masks(image, [shape for shape in shapes if shape.ink == ink], factor, ink)
    shapes.sort(key=lambda shape: bool(shape.label))
    pen, line = ImageDraw.Draw(image), max(2, max(size) // 400)
    for shape in shapes:
        for ring in shape.rings:
            corners = [tuple(point) for point in [*ring.tolist(), ring[0].tolist()]]
            pen.line(corners, fill=shape.ink, width=line)
        if shape.box:
            pen.rectangle(shape.box, outline=shape.ink, width=line)
    labelled = [shape for shape in shapes if shape.label][-_LABELS:]
    boxes, labels = [shape.area for shape in labelled], [(shape.label, "") for shape in labelled]
    draw_labels(image, boxes, labels, [shape.ink for shape in labelled], range(len(labelled)))
    return _titled(image, findings[None]) if None in findings else image


def _titled(image: Image.Image, faults: Sequence[Finding]) -> Image.Image:
    """Write the findings of the whole picture above it."""
    titled = Image.new("RGB", (image.width, image.height + _TITLE))
    titled.paste(image, (0, _TITLE))
    box = (0, 0, image.width, _TITLE)
    draw_labels(titled, [box], [(_kinds(faults), "")], [_ink(faults)], [0])
    return titled


def _shape(annotation: Entry, faults: Sequence[Finding], factor: float, size: tuple[int, int]) -> _Shape:
    segmentation, bbox = annotation.get("segmentation"), to_bbox(annotation.get("bbox"))
    limit = 4.0 * max(size) / factor  # of coordinates, which Pillow converts to 32 bits
    rings = [np.clip(ring, -limit, limit) * factor for ring in rings_of(segmentation) if len(ring)]
    box = None
    if bbox is not None:
        corners = np.clip(as_extent(bbox), -limit, limit) * factor
        x1, y1, x2, y2 = corners.round().astype(int).tolist()
        box = min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)
    text = f"{plain_text(annotation.get('id'))}: {_kinds(faults)}" if faults else ""
    return _Shape(annotation, rings, box, _ink(faults), text)


def _run_lengths(annotation: Entry, factor: float, size: tuple[int, int]) -> Image.Image | None:
    """Return a mask of run lengths in the drawing, None for one that is no such mask or larger than it."""
    segmentation = annotation.get("segmentation")
    if not isinstance(segmentation, dict) or mask_extent(annotation) is None:
        return None
    height, width = (round(side * factor) for side in segmentation["size"])
    if height > 2 * size[1] or width > 2 * size[0] or not min(height, width):
        return None
    mask = Image.fromarray(decode(segmentation).astype(np.uint8) * 255)
    return mask.resize((width, height), Image.Resampling.NEAREST)


def _with_masks(image: Image.Image, shapes: Iterable[_Shape], factor: float, ink: Colour) -> Image.Image:
    area = Image.new("L", image.size)
    pen = ImageDraw.Draw(area)
    for shape in shapes:
        if mask := _run_lengths(shape.annotation, factor, image.size):
            area.paste(255, (0, 0), mask)
        for ring in shape.rings:
            if len(ring) >= 3:
                pen.polygon([tuple(point) for point in ring.tolist()], fill=255)
    alpha = area.point(lambda value: int(value * _OPACITY))
    return Image.composite(Image.new("RGB", image.size, ink), image, alpha)


def _ink(faults: Sequence[Finding]) -> Colour:
    severities = {one.severity for one in faults}
    return next((ink for severity, ink in _INKS.items() if severity in severities), _SOUND)


def _kinds(faults: Iterable[Finding]) -> str:
    return ", ".join(dict.fromkeys(one.kind for one in faults))
