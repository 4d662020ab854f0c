"""What the network asks of a branch beside the box branch: `masks.py` and `keypoints.py` have one each."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor

from maskrcnn.network.learning import SampledRegions
from maskrcnn.ops.roi_align import RoIPooler
from maskrcnn.types import Detections, Targets


@runtime_checkable
class Branch(Protocol):
    """A module that predicts something for each detected region."""

    pooler: RoIPooler | None  # None: it works on the box branch's region features

    def losses(self, features: Tensor, regions: SampledRegions, targets: Targets) -> dict[str, Tensor]:
        """Return the branch's losses of N positive regions, some of which may be empty slots."""

    def detect(self, features: Tensor, labels: Tensor) -> Tensor:
        """Return the branch's prediction (N, …) for N regions of these classes."""

    def added(self, detections: Detections, prediction: Tensor) -> Detections:
        """Return the detections with the prediction (B, D, …) in its field."""
