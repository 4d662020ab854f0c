"""Detections of one picture, in the pixels of its file, and their masks pasted into it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from maskrcnn.masks.polygons import polygons
from maskrcnn.masks.rle import crop_to_rle
from maskrcnn.types import Metadata


@dataclass(frozen=True, eq=False)
class Result:
    """Objects of one picture, best first. Masks are pasted on access: `mask_probs` covers only the box.

    Boxes are x1, y1, x2, y2 in the pixels of the file, turned upright; `labels` index the classes of
    `metadata`. Keypoints are x, y and the score, the logit at the peak of the heatmap.
    """

    boxes: Float[np.ndarray, "n 4"]
    scores: Float[np.ndarray, " n"]
    labels: Int[np.ndarray, " n"]
    size_hw: tuple[int, int]
    metadata: Metadata
    mask_probs: Float[np.ndarray, "n M M"] | None = None
    keypoints: Float[np.ndarray, "n J 3"] | None = None

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of all classes of the network, in the order of its labels."""
        return self.metadata.class_names

    @property
    def category_ids(self) -> tuple[int, ...]:
        """The data set's ids of the same classes."""
        return self.metadata.category_ids

    @property
    def names(self) -> list[str]:
        """Class name of each object."""
        return [self.class_names[label] for label in self.labels]

    def select(self, keep: Shaped[np.ndarray, " _"] | slice) -> Result:
        """Return some of the objects: by a boolean mask, by indices, which may reorder, or by a slice."""
        return replace(
            self,
            boxes=self.boxes[keep],
            scores=self.scores[keep],
            labels=self.labels[keep],
            mask_probs=None if self.mask_probs is None else self.mask_probs[keep],
            keypoints=None if self.keypoints is None else self.keypoints[keep],
        )

    def above(self, score: float) -> Result:
        """Return the objects with at least this score."""
        return self.select(self.scores >= score)

    @property
    def masks(self) -> Bool[np.ndarray, "n H W"]:
        """Masks of the picture's size, pasted at each access. Raises ValueError without a mask branch."""
        return paste_dense(*self._pasted(), self.size_hw).numpy()

    def crop(self, index: int) -> tuple[Bool[np.ndarray, "h w"], tuple[int, int]]:
        """Return the mask of one object within its box, and x0, y0, the picture's pixel where it begins.

        Raises ValueError without a mask branch.
        """
        return next(self.select(np.array([index]))._crops())

    def rle(self) -> list[dict[str, Any]]:
        """Return the masks as COCO's compressed run lengths. Raises ValueError without a mask branch."""
        return [crop_to_rle(crop, (y0, x0), self.size_hw) for crop, (x0, y0) in self._crops()]

    def polygons(self) -> list[list[Float[np.ndarray, "_ 2"]]]:
        """Return the outlines of each mask: rings of x, y along pixel edges, to fill by the even-odd rule.

        Raises ValueError without a mask branch.
        """
        return [polygons(crop, origin_xy) for crop, origin_xy in self._crops()]

    def table(self) -> str:
        """Return the objects as text, a line each."""
        if not len(self):
            return "no objects"
        width = max(map(len, self.names))
        lines = [f"{'':{width}}  score" + "".join(f"{side:>9}" for side in ("x1", "y1", "x2", "y2"))]
        for name, score, box in zip(self.names, self.scores, self.boxes, strict=True):
            lines.append(f"{name:{width}}  {score:5.3f}" + "".join(f"{side:9.1f}" for side in box))
        return "\n".join(lines)

    def _crops(self) -> Iterator[tuple[np.ndarray, tuple[int, int]]]:
        for crop, (y0, x0) in paste(*self._pasted(), self.size_hw):
            yield (crop >= 0.5).numpy(), (x0, y0)

    def _pasted(self) -> tuple[Tensor, Tensor]:
        if self.mask_probs is None:
            raise ValueError("the result has no masks: the network has no mask branch")
        return torch.tensor(self.mask_probs), torch.tensor(self.boxes)


def paste(
    mask_probs: Float[Tensor, "N M M"], boxes: Float[Tensor, "N 4"], size_hw: tuple[int, int]
) -> Iterator[tuple[Float[Tensor, "h w"], tuple[int, int]]]:
    """Resize each mask to its box by bilinear interpolation, at the pixels whose centres the box contains.

    Yields, for each box, the crop of probabilities and the row and column of its first pixel. The crop is
    clipped to an image of `size_hw` and may be empty. Within the box it equals `grid_sample` of the mask at
    every pixel's centre, with zeros around; beyond, where `grid_sample` fades out, nothing is pasted.
    """
    # One at a time: all crops of a large image together would fill the memory.
    return (_paste_one(probs, box, size_hw) for probs, box in zip(mask_probs, boxes.tolist(), strict=True))


def paste_dense(
    mask_probs: Float[Tensor, "N M M"], boxes: Float[Tensor, "N 4"], size_hw: tuple[int, int]
) -> Bool[Tensor, "N H W"]:
    """Return each mask as a whole image of `size_hw`, True where its probability is at least 0.5."""
    masks = torch.zeros((len(boxes), *size_hw), dtype=torch.bool, device=mask_probs.device)
    for mask, (crop, (y0, x0)) in zip(masks, paste(mask_probs, boxes, size_hw), strict=True):
        mask[y0 : y0 + crop.shape[0], x0 : x0 + crop.shape[1]] = crop >= 0.5
    return masks


def _paste_one(
    probs: Tensor, box: Sequence[float], size_hw: tuple[int, int]
) -> tuple[Tensor, tuple[int, int]]:
    x1, y1, x2, y2 = box
    y0, row_weights = _axis_weights(y1, y2, size_hw[0], probs)
    x0, column_weights = _axis_weights(x1, x2, size_hw[1], probs)
    return row_weights @ probs @ column_weights.T, (y0, x0)  # bilinear: one small matrix for each axis


def _axis_weights(low: float, high: float, limit: int, probs: Tensor) -> tuple[int, Tensor]:
    """Return the first pixel with its centre in [low, high], and the weights (pixels, M) of the cells."""
    first = min(max(math.ceil(low - 0.5), 0), limit)
    stop = min(max(math.floor(high - 0.5) + 1, first), limit) if high > low else first
    cells = probs.shape[-1]
    centres = torch.arange(first, stop, dtype=torch.float64) + 0.5
    positions = (centres - low) * (cells / max(high - low, 1e-9)) - 0.5
    return first, (1 - (positions[:, None] - torch.arange(cells)).abs()).clamp(min=0).to(probs)
