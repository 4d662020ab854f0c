"""The box branch: which class does a region have, and where exactly is its object? (Fast R-CNN; section 3)"""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor, nn

from maskrcnn.network.rpn import Proposals
from maskrcnn.ops import boxes as box_ops
from maskrcnn.ops.roi_align import Pyramid, RoIPooler, is_static, scatter_to_slots, valid_indices
from maskrcnn.types import Detections


class BoxBranch(nn.Module):
    """Classifies regions, refines their boxes for each class, and selects the detections.

    `head` maps region features to vectors of `head.out_features`. Class K is background. `res5` is applied to
    the pooled features of every region first, in C4 networks, where other branches share its output (Figure
    4, left). `beta` is where the smooth L1 loss becomes linear; 0 is L1. `maskrcnn.network.learning` has the
    losses.
    """

    def __init__(
        self,
        pooler: RoIPooler,
        head: nn.Module,
        num_classes: int,
        *,
        res5: nn.Module | None = None,
        beta: float = 1.0,
        score_threshold: float = 0.05,
        max_detections: int = 100,
        min_size: float = 0.0,
    ) -> None:
        super().__init__()
        width: int = head.out_features  # type: ignore[assignment]
        self.pooler = pooler
        self.res5 = res5
        self.head = head
        self.num_classes = num_classes
        self.cls_score = nn.Linear(width, num_classes + 1)
        self.bbox_pred = nn.Linear(width, num_classes * 4)
        self.box_weights = (10.0, 10.0, 5.0, 5.0)
        self.beta = beta
        self.score_threshold = score_threshold
        self.nms_threshold = 0.5
        self.max_detections = max_detections
        self.min_size = min_size
        for layer, std in ((self.cls_score, 0.01), (self.bbox_pred, 0.001)):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)

    def region_features(
        self, pyramid: Pyramid, boxes: Float[Tensor, "N 4"], images: Int[Tensor, " N"]
    ) -> Float[Tensor, "N C h w"]:
        """Return the features of N boxes of the given images."""
        features = self.pooler(pyramid, boxes, images)
        return features if self.res5 is None else self.res5(features)

    def forward(
        self, features: Float[Tensor, "N C h w"]
    ) -> tuple[Float[Tensor, "N classes"], Float[Tensor, "N K 4"]]:
        """Return class logits (background last) and box deltas for each class."""
        vectors = self.head(features)
        return self.cls_score(vectors).float(), self.bbox_pred(vectors).float().unflatten(1, (-1, 4))

    def detect(self, pyramid: Pyramid, proposals: Proposals, sizes_hw: Int[Tensor, "B 2"]) -> Detections:
        """Return each image's best detections: above the score threshold, without duplicates of a class."""
        index = valid_indices(proposals.valid)
        boxes, images = proposals.boxes.flatten(0, 1)[index], index // proposals.valid.shape[1]
        logits, deltas = (
            scatter_to_slots(output, index, proposals.valid.shape)
            for output in self(self.region_features(pyramid, boxes, images))
        )
        return self.select(logits, deltas, proposals, sizes_hw)

    def select(
        self,
        logits: Float[Tensor, "B P classes"],
        deltas: Float[Tensor, "B P K 4"],
        proposals: Proposals,
        sizes_hw: Int[Tensor, "B 2"],
    ) -> Detections:
        """Return the detections of all proposals' predictions."""
        probs = logits.softmax(-1)[..., : self.num_classes] * proposals.valid[..., None]
        index, scores = self._above_threshold(probs.flatten(1))
        region, labels = index // self.num_classes, index % self.num_classes
        deltas = box_ops.gather_rows(deltas.flatten(1, 2), index)
        boxes = box_ops.decode(deltas, box_ops.gather_rows(proposals.boxes, region), self.box_weights)
        boxes = box_ops.clip(boxes, sizes_hw)
        valid = (scores > self.score_threshold) & box_ops.is_larger(boxes, self.min_size)
        keep = box_ops.suppress(boxes, scores, labels, valid, self.nms_threshold)
        best = scores.masked_fill(~keep, -1.0).argsort(dim=1, descending=True, stable=True)
        best = best[:, : self.max_detections]
        valid = box_ops.gather_rows(keep, best)
        return Detections(
            boxes=box_ops.gather_rows(boxes, best) * valid[..., None],
            scores=box_ops.gather_rows(scores, best) * valid,
            labels=box_ops.gather_rows(labels, best) * valid,
            valid=valid,
        )

    def _above_threshold(
        self, probs: Float[Tensor, "B n"]
    ) -> tuple[Int[Tensor, "B m"], Float[Tensor, "B m"]]:
        """Return the indices, ascending, and values of at least all probabilities above the threshold.

        The classes of a region share a probability of 1, so at most 1 / threshold of them can exceed it.
        """
        capacity = probs.shape[1]
        if not is_static(probs):
            capacity = int((probs > self.score_threshold).sum(1).max())
        elif self.score_threshold > 0:
            regions = capacity // self.num_classes
            capacity = min(capacity, regions * int(1 / self.score_threshold))
        index = probs.topk(capacity, sorted=False).indices.sort().values
        return index, box_ops.gather_rows(probs, index)
