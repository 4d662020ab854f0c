"""What an evaluation says of weights."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from maskrcnn.evaluation.coco import Metrics


class Judged(NamedTuple):
    """Weights, by the names of the network's state dict, and what their evaluation says."""

    weights: dict[str, Tensor]
    metrics: Metrics
    score_thresholds: tuple[float, ...] = ()  # of each class; empty: they could not be measured

    @property
    def ap(self) -> float:
        """The AP, percent, by which the best checkpoint is chosen: of masks, or of boxes."""
        return self.metrics.get("segm", self.metrics["bbox"])["AP"] or 0.0
