"""Folders in Cityscapes' own layout, drawn."""

from pathlib import Path

import numpy as np
from PIL import Image

from maskrcnn.masks.rle import crop_to_rle


def add_picture(data: Path, split: str, name: str, values: np.ndarray) -> tuple[Path, Path]:
    """Write a picture and its annotation, whose pixels are `values`; `name` is like ``ulm_000003_000019``."""
    city = name.split("_")[0]
    picture = data / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png"
    annotation = data / "gtFine" / split / city / f"{name}_gtFine_instanceIds.png"
    for path in (picture, annotation):
        path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((values % 251).astype(np.uint8)).convert("RGB").save(picture)
    Image.fromarray(values.astype(np.uint16)).save(annotation)
    return picture, annotation


def street(size_hw: tuple[int, int] = (40, 60), **blocks: tuple[int, int, int, int]) -> np.ndarray:
    """Return road, label 7, with blocks painted over it in turn: ``_26001=(row, column, rows, columns)``."""
    values = np.full(size_hw, 7)
    for value, (row, column, rows, columns) in blocks.items():
        values[row : row + rows, column : column + columns] = int(value[1:])
    return values


def detection(mask: np.ndarray, category: int, score: float, image: int = 1) -> dict:
    """Return a mask as a detection in COCO's result format."""
    rle = crop_to_rle(mask, (0, 0), mask.shape)
    return {"image_id": image, "category_id": category, "score": score, "segmentation": rle}
