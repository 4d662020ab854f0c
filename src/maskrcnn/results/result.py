"""What was found in one picture, in the pixels of its file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped

from maskrcnn.masks.paste import paste, paste_dense
from maskrcnn.masks.polygons import polygons
from maskrcnn.masks.rle import crop_to_rle
from maskrcnn.types import Metadata


@dataclass(frozen=True, eq=False)
class Result:
    """Objects of one picture, best first. A mask stays a box and M × M probabilities until it is asked for.

    Boxes are x1, y1, x2, y2 in the file's pixels, as shown upright; `labels` index `class_names` and
    `category_ids`, which are the data set's own. Keypoints are x, y and the logit of their heatmap's peak.
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
        """Names of all classes that the network knows, in the order of its labels."""
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
        """Keep some objects: by a boolean for each, by their numbers in a new order, or by a slice."""
        return replace(
            self,
            boxes=self.boxes[keep],
            scores=self.scores[keep],
            labels=self.labels[keep],
            mask_probs=None if self.mask_probs is None else self.mask_probs[keep],
            keypoints=None if self.keypoints is None else self.keypoints[keep],
        )

    def above(self, score: float) -> Result:
        """Keep the objects of at least this score."""
        return self.select(self.scores >= score)

    @property
    def masks(self) -> Bool[np.ndarray, "n H W"]:
        """Whole masks, made at each call. Raises ValueError where the network has no mask branch."""
        return paste_dense(*self._pasted(), self.size_hw).numpy()

    def crop(self, index: int) -> tuple[Bool[np.ndarray, "h w"], tuple[int, int]]:
        """Mask of one object within its box, and the column and row (x0, y0) where it begins.

        Raises ValueError where the network has no mask branch.
        """
        return next(self.select(np.array([index]))._crops())

    def rle(self) -> list[dict[str, Any]]:
        """Masks as COCO's run lengths, compressed. Raises ValueError where the network has no mask branch."""
        return [crop_to_rle(crop, (y0, x0), self.size_hw) for crop, (x0, y0) in self._crops()]

    def polygons(self) -> list[list[Float[np.ndarray, "_ 2"]]]:
        """Outlines of each mask: rings of x, y along the edges of pixels, to be filled by the even-odd rule.

        Raises ValueError where the network has no mask branch.
        """
        return [polygons(crop, origin_xy) for crop, origin_xy in self._crops()]

    def to_coco(self, image_id: int) -> list[dict[str, Any]]:
        """Results as COCO's evaluation reads them, one dictionary an object, in the data set's category ids.

        COCO counts keypoints from the centre of the first pixel, so 0.5 is taken off theirs; their third
        number is the score.
        """
        low, high = self.boxes[:, :2], self.boxes[:, 2:]
        columns: dict[str, list] = {
            "category_id": [int(self.category_ids[label]) for label in self.labels],
            "bbox": np.concatenate([low, high - low], 1).tolist(),
            "score": self.scores.tolist(),
        }
        if self.mask_probs is not None:
            columns["segmentation"] = self.rle()
        if self.keypoints is not None:
            columns["keypoints"] = [points.ravel().tolist() for points in self.keypoints - [0.5, 0.5, 0]]
        return [
            {"image_id": image_id, **dict(zip(columns, row, strict=True))}
            for row in zip(*columns.values(), strict=True)
        ]

    def table(self) -> str:
        """List the objects as text, a line each."""
        if not len(self):
            return "nothing found"
        wide = max(map(len, self.names))
        lines = [f"{'':{wide}}  score" + "".join(f"{side:>9}" for side in ("x1", "y1", "x2", "y2"))]
        for name, score, box in zip(self.names, self.scores, self.boxes, strict=True):
            lines.append(f"{name:{wide}}  {score:5.3f}" + "".join(f"{side:9.1f}" for side in box))
        return "\n".join(lines)

    def _crops(self) -> Iterator[tuple[np.ndarray, tuple[int, int]]]:
        for crop, (y0, x0) in paste(*self._pasted(), self.size_hw):
            yield (crop >= 0.5).numpy(), (x0, y0)

    def _pasted(self) -> tuple[torch.Tensor, torch.Tensor]:
        if self.mask_probs is None:
            raise ValueError("this result has no masks: it comes from a network without a mask branch")
        return torch.tensor(self.mask_probs), torch.tensor(self.boxes)
