"""The box branch: which class is a region, and where exactly is it? (Fast R-CNN; the paper's section 3)"""

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from maskrcnn.network.norms import Norm, conv_norm, stacked
from maskrcnn.network.rpn import Proposals
from maskrcnn.ops import boxes as box_ops
from maskrcnn.ops.losses import masked_mean, smooth_l1
from maskrcnn.ops.nms import suppress
from maskrcnn.ops.slots import gather_rows, is_static
from maskrcnn.types import Detections

_WEIGHTS = (10.0, 10.0, 5.0, 5.0)


class LinearHead(nn.Sequential):
    """Two hidden layers on the flattened region (FPN, §4.2), after `convolutions` 3×3 convolutions, if any.

    The strong form of the box head is four 3×3 convolutions with a norm and one layer: ``hidden=(1024,)``.
    """

    def __init__(
        self,
        channels: int,
        bins: int,
        *,
        convolutions: int = 0,
        hidden: Sequence[int] = (1024, 1024),
        norm: Norm | None = None,
    ) -> None:
        widths = (channels * bins**2, *hidden)
        parts: dict[str, nn.Module] = {
            "convs": stacked(conv_norm(channels, channels, 3, norm=norm) for _ in range(convolutions)),
            "flatten": nn.Flatten(),
            "hidden": stacked(nn.Linear(*ends) for ends in pairwise(widths)),
        }
        super().__init__(OrderedDict(parts))
        self.bins = bins
        self.out_features = widths[-1]
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(layer, nn.Linear):
                nn.init.kaiming_uniform_(layer.weight, a=1)
            if isinstance(layer, nn.Conv2d | nn.Linear) and layer.bias is not None:
                nn.init.zeros_(layer.bias)


class MeanHead(nn.Module):
    """The mean over the region: what is left to do where res5 has already worked on it (Figure 4, left)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.out_features = channels

    def forward(self, features: Float[Tensor, "N C h w"]) -> Float[Tensor, "N C"]:
        """Return the mean of each channel."""
        return features.mean((2, 3))


class BoxBranch(nn.Module):
    """Classifies regions, refines their boxes for each class, and chooses the detections.

    `head` leads region features to vectors of `head.out_features`. Class K is background.
    """

    def __init__(
        self,
        head: nn.Module,
        num_classes: int,
        *,
        beta: float = 1.0,
        class_agnostic: bool = False,
        score_threshold: float = 0.05,
        nms_threshold: float = 0.5,
        max_detections: int = 100,
        min_size: float = 0.0,
    ) -> None:
        super().__init__()
        width: int = head.out_features  # type: ignore[assignment]
        self.head = head
        self.num_classes = num_classes
        self.cls_score = nn.Linear(width, num_classes + 1)
        self.bbox_pred = nn.Linear(width, 4 if class_agnostic else num_classes * 4)
        self.beta = beta
        self.score_threshold = score_threshold
        self.nms_threshold = nms_threshold
        self.max_detections = max_detections
        self.min_size = min_size
        for layer, std in ((self.cls_score, 0.01), (self.bbox_pred, 0.001)):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)

    def forward(
        self, features: Float[Tensor, "N C h w"]
    ) -> tuple[Float[Tensor, "N classes"], Float[Tensor, "N boxes 4"]]:
        """Return class logits (background last) and deltas: one box a class, or one for all classes."""
        vectors = self.head(features)
        return self.cls_score(vectors).float(), self.bbox_pred(vectors).float().unflatten(1, (-1, 4))

    def losses(
        self,
        answer: tuple[Tensor, Tensor],
        *,
        labels: Int[Tensor, " N"],
        regions: Float[Tensor, "N 4"],
        objects: Float[Tensor, "N 4"],
        valid: Bool[Tensor, " N"],
    ) -> dict[str, Float[Tensor, ""]]:
        """Return `loss_class` and `loss_box` of N regions (Fast R-CNN, equations 1 and 2).

        `labels` are the classes, K for background; `objects` are the boxes to reach from `regions` (unused
        for background). Both losses are divided by the number of regions.
        """
        logits, deltas = answer
        positive = valid & (labels < self.num_classes)
        of_class = labels.clamp(max=deltas.shape[1] - 1)
        deltas = deltas[torch.arange(len(deltas), device=deltas.device), of_class]
        error = smooth_l1(deltas - box_ops.encode(objects, regions, _WEIGHTS), self.beta).sum(-1)
        return {
            "loss_class": masked_mean(F.cross_entropy(logits, labels, reduction="none"), valid),
            "loss_box": torch.where(positive, error, 0.0).sum() / valid.sum().clamp(min=1),
        }

    def detect(
        self,
        logits: Float[Tensor, "B P classes"],
        deltas: Float[Tensor, "B P boxes 4"],
        proposals: Proposals,
        sizes_hw: Int[Tensor, "B 2"],
    ) -> Detections:
        """Return each picture's best detections: above the score threshold, without duplicates of a class."""
        probs = logits.softmax(-1)[..., : self.num_classes] * proposals.valid[..., None]
        index, scores = self._above_threshold(probs.flatten(1))
        region, labels = index // self.num_classes, index % self.num_classes
        box_index = region * deltas.shape[2] + (labels if deltas.shape[2] > 1 else 0)
        boxes = box_ops.decode(
            gather_rows(deltas.flatten(1, 2), box_index), gather_rows(proposals.boxes, region), _WEIGHTS
        )
        boxes = box_ops.clip(boxes, sizes_hw)
        valid = (scores > self.score_threshold) & box_ops.is_larger(boxes, self.min_size)
        keep = suppress(boxes, scores, labels, valid, self.nms_threshold)
        best = scores.masked_fill(~keep, -1.0).argsort(dim=1, descending=True, stable=True)
        best = best[:, : self.max_detections]
        valid = gather_rows(keep, best)
        scores = gather_rows(scores, best) * valid
        return Detections(
            gather_rows(boxes, best) * valid[..., None], scores, gather_rows(labels, best) * valid, valid
        )

    def _above_threshold(
        self, probs: Float[Tensor, "B n"]
    ) -> tuple[Int[Tensor, "B m"], Float[Tensor, "B m"]]:
        """Return the indices, rising, and values of at least all probabilities above the threshold.

        The classes of a region share a probability of 1, so no more than 1 / threshold of them can exceed it.
        """
        capacity = probs.shape[1]
        if not is_static(probs):
            capacity = int((probs > self.score_threshold).sum(1).max())
        elif self.score_threshold > 0:
            regions = capacity // self.num_classes
            capacity = min(capacity, regions * int(1 / self.score_threshold))
        index = probs.topk(capacity, sorted=False).indices.sort().values
        return index, gather_rows(probs, index)
