"""A result drawn over its picture, as in the paper's Figure 2: masks in colour, boxes, names and scores."""

from __future__ import annotations

import colorsys
import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Bool
from PIL import Image, ImageDraw, ImageFont

from maskrcnn.data.pictures import Source, read_picture
from maskrcnn.results.result import Result

Colour = tuple[int, int, int]
Rectangle = tuple[int, int, int, int]  # first and last pixel, as Pillow counts them
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def draw(
    picture: Source,
    result: Result,
    *,
    skeleton: Sequence[Sequence[int]] | None = None,
    colours: Sequence[Colour] | None = None,
    opacity: float = 0.45,
    least_side: int = 480,
    least_keypoint_score: float = 0.0,
) -> Image.Image:
    """Return the picture with the mask, outline, box, class name, score and keypoints of each object.

    Line widths and the font size are proportional to the picture. If its longer side is shorter than
    `least_side` px, it is first enlarged by an integer factor, so that labels are readable; 1 turns this off.
    A label is left out where it would cover the label of a larger object, and where it is larger than its
    object and would cover any other.

    `colours` are one per object (default: by its index). `skeleton` is pairs of keypoint indices to join
    (default: the result's own). Keypoints that score below `least_keypoint_score` are not drawn, and a score
    that is NaN, as ground truth has, is not written. Raises as `read_picture` does, and ValueError for a
    picture of another size than the result's.
    """
    image = Image.fromarray(read_picture(picture).permute(1, 2, 0).contiguous().numpy())
    if (image.height, image.width) != result.size_hw:
        raise ValueError(
            f"the picture has {image.height} rows and {image.width} columns, "
            f"but the result is of one with {result.size_hw[0]} and {result.size_hw[1]}"
        )
    factor = -(-least_side // max(image.size))
    image, result = _enlarge(image, result, max(factor, 1))
    line = max(1, round(max(image.size) / 500))
    inks = [colour(i) for i in range(len(result))] if colours is None else colours
    areas = np.prod(result.boxes[:, 2:] - result.boxes[:, :2], axis=1)
    # large objects first, small ones on top of them
    order: list[int] = np.argsort(-areas, kind="stable").tolist()
    if result.mask_probs is not None:
        image = _with_masks(image, result, order, inks, opacity, line)
    pen = ImageDraw.Draw(image)
    for i in order:
        pen.rectangle(_inside(result.boxes[i], image), outline=inks[i], width=line)
    if result.keypoints is not None:
        limbs = result.metadata.skeleton if skeleton is None else skeleton
        for i in order:
            _draw_keypoints(pen, result.keypoints[i], limbs, least_keypoint_score, inks[i], line)
    scores = ["" if math.isnan(score) else f" {score:.2f}" for score in result.scores]
    labels = list(zip(result.names, scores, strict=True))
    draw_labels(image, [_inside(box, image) for box in result.boxes], labels, inks, order)
    return image


def colour(index: int) -> Colour:
    """Return a bright colour. Hues advance by the golden angle, so that neighbouring indices differ."""
    hue, saturation = (0.58 + index * 0.381966) % 1, (0.85, 0.6, 1.0)[index % 3]
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


def _enlarge(image: Image.Image, result: Result, factor: int) -> tuple[Image.Image, Result]:
    if factor == 1:
        return image, result
    keypoints = result.keypoints
    larger = replace(
        result,
        boxes=result.boxes * np.float32(factor),
        keypoints=None if keypoints is None else keypoints * np.array([factor, factor, 1], np.float32),
        size_hw=(image.height * factor, image.width * factor),
    )
    return image.resize(larger.size_hw[::-1], Image.Resampling.BICUBIC), larger


def _with_masks(
    image: Image.Image,
    result: Result,
    order: list[int],
    inks: Sequence[Colour],
    opacity: float,
    line: int,
) -> Image.Image:
    pixels = np.array(image)
    for i in order:
        mask, (x0, y0) = result.crop(i)
        window = pixels[y0 : y0 + mask.shape[0], x0 : x0 + mask.shape[1]]
        for plane, ink in zip(window.transpose(2, 0, 1), inks[i], strict=True):
            blend = (np.arange(256) * (1 - opacity) + ink * opacity).astype(np.uint8)
            plane[mask] = blend[plane[mask]]
        window[_rim(mask, line)] = inks[i]
    return Image.fromarray(pixels)


def _rim(mask: Bool[np.ndarray, "h w"], width: int) -> Bool[np.ndarray, "h w"]:
    """Return the pixels of a mask within `width` px (city-block distance) of its outside."""
    inner = mask
    for _ in range(width):  # an erosion by one pixel
        padded = np.pad(inner, 1)
        inner = inner & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inner


def _inside(box: np.ndarray, image: Image.Image) -> Rectangle:
    """Return the first and last pixel of a box, clipped to the image."""
    limit = np.array([image.width, image.height] * 2) - 1
    x1, y1, x2, y2 = np.clip(np.round(box) - [0, 0, 1, 1], 0, limit).astype(int).tolist()
    return x1, y1, max(x1, x2), max(y1, y2)


def _draw_keypoints(
    pen: ImageDraw.ImageDraw,
    keypoints: np.ndarray,
    skeleton: Sequence[Sequence[int]],
    least_score: float,
    ink: Colour,
    line: int,
) -> None:
    visible = keypoints[:, 2] >= least_score
    points = [tuple(xy) for xy in keypoints[:, :2].tolist()]
    limbs = [(points[a], points[b]) for a, b in skeleton if visible[a] and visible[b]]
    # on a white rim, because the mask below has the same colour
    for fill, width in (("white", 2 * line + 2), (ink, 2 * line)):
        for limb in limbs:
            pen.line(limb, fill=fill, width=width)
    for x, y in itertools.compress(points, visible):
        pen.circle((x, y), 2 * line + 1, fill=ink, outline="white", width=max(1, line // 2))


def draw_labels(
    image: Image.Image,
    boxes: Sequence[Rectangle],
    labels: Sequence[tuple[str, str]],
    inks: Sequence[Colour],
    order: Sequence[int],
) -> None:
    """Write a label at each box, in this order, as far as there is a place that covers no other label.

    A label is a name, which is cut where it is too long, and what follows it.
    """
    pen = ImageDraw.Draw(image)
    size = max(12, round(max(image.size) / 50))
    font = ImageFont.load_default(size)
    margin = max(2, size // 6)
    taken: list[Rectangle] = []
    for i in order:
        text = _fit(*labels[i], font, image.width - 2 * margin)
        if not text:
            continue
        label = (math.ceil(font.getlength(text)) + 2 * margin, size + 2 * margin)
        is_small = math.prod(label) > _area(boxes[i])
        place = _free_place(boxes[i], label, image.size, [*taken, *boxes] if is_small else taken)
        if place is None:
            continue
        taken.append(place)
        dark = tuple(channel // 3 for channel in inks[i])
        pen.rectangle(place, fill=dark, outline=inks[i])
        pen.text((place[0] + margin, (place[1] + place[3]) / 2), text, fill="white", font=font, anchor="lm")


def _fit(name: str, score: str, font: Font, width: int) -> str:
    """Return name and score on one line, with the name cut to what fits into `width` px."""
    name = " ".join(name.split())[:80]
    text = name + score
    while font.getlength(text) > width and name:
        name = name[:-1]
        text = f"{name}…{score}"
    return text


def _free_place(
    box: Rectangle, label: tuple[int, int], size: tuple[int, int], taken: Sequence[Rectangle]
) -> Rectangle | None:
    """Return a place for a label that overlaps none of `taken`: above its box, in it, below it, or left."""
    (x1, y1, x2, y2), (width, height) = box, label
    right = x2 - width
    corners = [(x1, y1 - height), (x1, y1), (x1, y2)]
    corners += [(right, y1 - height), (x1, y2 - height), (right, y2 - height)]
    corners += [(x1, y1 + step * height) for step in range(1, 6)]
    for x, y in corners:
        left, top = max(min(x, size[0] - 1 - width), 0), max(min(y, size[1] - 1 - height), 0)
        place = (left, top, left + width, top + height)
        if not any(_overlap(place, other) for other in taken):
            return place
    return None


def _area(box: Rectangle) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])


def _overlap(a: Rectangle, b: Rectangle) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
