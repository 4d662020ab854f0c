"""The region proposal network: where is anything at all? (Ren et al. 2015; on a pyramid: FPN, §4.1)"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from maskrcnn.network.anchors import Anchors
from maskrcnn.ops import boxes as box_ops
from maskrcnn.ops.losses import binary_cross_entropy, masked_sum, smooth_l1
from maskrcnn.ops.matching import ignore_crowds, match, sample
from maskrcnn.ops.nms import suppress
from maskrcnn.ops.pyramid import Pyramid, gather_windows, map_slices
from maskrcnn.ops.slots import gather_rows
from maskrcnn.types import Targets

_WEIGHTS = (1.0, 1.0, 1.0, 1.0)


class Candidates(NamedTuple):
    """Every anchor with its score and its refinement, level after level."""

    logits: Float[Tensor, "B A"]
    deltas: Float[Tensor, "B A 4"]
    anchors: Float[Tensor, "A 4"]
    levels: tuple[int, ...]  # the number of anchors of each level; they add up to A


class Proposals(NamedTuple):
    """The P best regions of each picture, best first."""

    boxes: Float[Tensor, "B P 4"]
    logits: Float[Tensor, "B P"]
    valid: Bool[Tensor, "B P"]


class TopN(NamedTuple):
    """How many regions go on: the best of each level into suppression, the best of all levels out of it."""

    pre_nms: int
    post_nms: int


Divisor = Callable[[Bool[Tensor, "B S"], int], Tensor | int]


def by_sampled(sampled: Bool[Tensor, "B S"], budget: int) -> Int[Tensor, ""]:
    """Divide the losses by the number of anchors that were drawn."""
    return sampled.sum().clamp(min=1)


def by_budget(sampled: Bool[Tensor, "B S"], budget: int) -> int:
    """Divide the losses by the number of anchors that could have been drawn, as Detectron2 does."""
    return budget * sampled.shape[0]


class RPNHead(nn.Module):
    """3×3 convolutions, then for each anchor of a cell a score and four deltas; one head for all levels."""

    def __init__(self, channels: int, anchors_per_cell: int, *, convolutions: int = 1) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(convolutions))
        self.objectness = nn.Conv2d(channels, anchors_per_cell, 1)
        self.deltas = nn.Conv2d(channels, anchors_per_cell * 4, 1)
        for layer in (*self.convs, self.objectness, self.deltas):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)

    def forward(self, level: Float[Tensor, "B C h w"]) -> tuple[Float[Tensor, "B A"], Float[Tensor, "B A 4"]]:
        """Return the logits and deltas of a level's anchors, row by row, cell by cell."""
        for conv in self.convs:
            level = F.relu(conv(level), inplace=True)
        logits = self.objectness(level).permute(0, 2, 3, 1).flatten(1)
        deltas = self.deltas(level).permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, 4))
        return logits, deltas

    @property
    def reach(self) -> int:
        """How many cells around its own an answer depends on."""
        return len(self.convs)

    def predict_at(
        self, cells: Float[Tensor, "N C k k"], inside: Bool[Tensor, "N 1 k k"]
    ) -> tuple[Float[Tensor, "N A"], Float[Tensor, "N A 4"]]:
        """Return what `forward` says of N cells, out of the cells up to `reach` around each."""
        for conv in self.convs:
            assert isinstance(conv, nn.Conv2d)
            cells = F.relu(F.conv2d(cells, conv.weight, conv.bias))
            inside = inside[:, :, 1:-1, 1:-1]
            cells = cells * inside  # the next convolution is padded by zeros
        return self.objectness(cells).flatten(1), self.deltas(cells).flatten(1).unflatten(1, (-1, 4))


class RPN(nn.Module):
    """Scores anchors, learns which of them hold objects, and proposes the best as regions.

    An anchor is positive from an IoU of 0.7 with an object or as an object's best, negative below 0.3.
    """

    anchor_shapes: Tensor

    def __init__(
        self,
        head: RPNHead,
        anchors: Anchors,
        *,
        train_topn: TopN = TopN(2000, 1000),
        test_topn: TopN = TopN(1000, 1000),
        nms_threshold: float = 0.7,
        min_size: float = 0.0,
        budget: int = 256,
        beta: float = 1 / 9,
        divisor: Divisor = by_sampled,
    ) -> None:
        super().__init__()
        self.head = head
        self.anchors = anchors
        # On the network's device: a step that copies something there makes the host wait.
        self.register_buffer("anchor_shapes", anchors.shapes(), persistent=False)
        self.train_topn = train_topn
        self.test_topn = test_topn
        self.nms_threshold = nms_threshold
        self.min_size = min_size
        self.budget = budget
        self.beta = beta
        self.divisor = divisor

    def forward(self, features: Sequence[Float[Tensor, "B C _h _w"]]) -> Candidates:
        """Return all anchors of all levels, scored and refined. No gradient goes this way: see `losses`."""
        answers = [[answer.detach() for answer in self.head(level.detach())] for level in features]
        logits, deltas = (torch.cat(parts, 1).float() for parts in zip(*answers, strict=True))
        sizes = [(level.shape[2], level.shape[3]) for level in features]
        (height, width), stride = sizes[0], self.anchors.strides[0]
        input_hw = (height * stride, width * stride)  # pictures are padded to whole cells
        grids = [
            self.anchors.grid(number, size_hw, input_hw, self.anchor_shapes[number])
            for number, size_hw in enumerate(sizes)
        ]
        return Candidates(logits, deltas, torch.cat(grids), tuple(grid.shape[0] for grid in grids))

    def propose(self, candidates: Candidates, sizes_hw: Int[Tensor, "B 2"], topn: TopN) -> Proposals:
        """Return the best regions: refined, clipped to their pictures, no near duplicates on a level."""
        index, level = self._best_of_levels(candidates.logits, candidates.levels, topn.pre_nms)
        logits = gather_rows(candidates.logits, index)
        deltas = gather_rows(candidates.deltas, index)
        boxes = box_ops.decode(deltas, candidates.anchors[index], _WEIGHTS)
        boxes = box_ops.clip(boxes, sizes_hw)
        valid = box_ops.is_larger(boxes, self.min_size) & logits.isfinite()
        valid = suppress(boxes, logits, level.expand_as(logits), valid, self.nms_threshold)
        order = logits.masked_fill(~valid, -torch.inf).argsort(dim=1, descending=True, stable=True)
        order = order[:, : topn.post_nms]
        return Proposals(gather_rows(boxes, order), gather_rows(logits, order), gather_rows(valid, order))

    @staticmethod
    def _best_of_levels(logits: Tensor, levels: tuple[int, ...], count: int) -> tuple[Tensor, Tensor]:
        """Return the `count` best anchors (B, n) of each level, and the level (n,) of each."""
        first, chosen, level_of = 0, [], []
        for number, size in enumerate(levels):
            best = logits[:, first : first + size].topk(torch.sym_min(count, size), sorted=True).indices
            chosen.append(best + first)
            level_of.append(torch.full_like(best[0], number))
            first += size
        return torch.cat(chosen, 1), torch.cat(level_of)

    def losses(
        self, pyramid: Pyramid, candidates: Candidates, targets: Targets
    ) -> dict[str, Float[Tensor, ""]]:
        """Return `loss_rpn_objectness` and `loss_rpn_box` of drawn anchors (Faster R-CNN, equation 1).

        All other anchors have no part in them. So the head is asked once more, at the cells of the drawn
        anchors alone, and no gradient is led through whole maps.
        """
        objects = targets.valid & ~targets.crowd
        anchors = candidates.anchors.expand(len(objects), -1, -1)
        matches = match(
            anchors, targets.boxes, objects, negative_below=0.3, positive_from=0.7, low_quality=True
        )
        matched = ignore_crowds(matches.object, anchors, targets.boxes, targets.valid & targets.crowd)
        keys = torch.rand(matched.shape, device=matched.device)
        drawn = sample(matched, keys, budget=self.budget, positive_fraction=0.5)
        divisor = self.divisor(drawn.valid, self.budget)
        logits, deltas = self._predict_at(pyramid, candidates.levels, drawn.candidate)
        objectness = binary_cross_entropy(logits, drawn.positive.float())
        truth = gather_rows(targets.boxes, gather_rows(matched, drawn.candidate).clamp(min=0))
        wanted = box_ops.encode(truth, gather_rows(anchors, drawn.candidate), _WEIGHTS)
        error = smooth_l1(deltas - wanted, self.beta).sum(-1)
        return {
            "loss_rpn_objectness": masked_sum(objectness, drawn.valid) / divisor,
            "loss_rpn_box": masked_sum(error, drawn.positive) / divisor,
        }

    def _predict_at(
        self, pyramid: Pyramid, levels: tuple[int, ...], candidate: Int[Tensor, "B S"]
    ) -> tuple[Float[Tensor, "B S"], Float[Tensor, "B S 4"]]:
        """Return the logits and deltas of some of the candidates, to learn from."""
        picture = torch.arange(len(candidate), device=candidate.device)[:, None].expand_as(candidate)
        level = torch.zeros_like(candidate)
        within, first = candidate, 0
        for number, size in enumerate(levels[:-1], start=1):
            first = first + size
            level = torch.where(candidate >= first, number, level)
            within = torch.where(candidate >= first, candidate - first, within)
        cell, anchor = within.flatten() // self.anchors.per_cell, within.flatten() % self.anchors.per_cell
        at = map_slices(pyramid, picture.flatten(), level.flatten())
        cells = gather_windows(pyramid, at, cell // at.width, cell % at.width, self.head.reach)
        logits, deltas = (answer.float() for answer in self.head.predict_at(*cells))
        each = torch.arange(len(anchor), device=anchor.device)
        return logits[each, anchor].view(candidate.shape), deltas[each, anchor].view(*candidate.shape, 4)
