"""The region proposal network: where is any object at all? (Ren et al. 2015; on a pyramid: FPN, §4.1)"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from maskrcnn.ops import boxes as box_ops


class Anchors(NamedTuple):
    """Anchor shapes of each pyramid level: `sizes` are √area in pixels, `aspect_ratios` are height / width.

    The anchors of a cell stand at `offset` of its extent: 0.5 is its centre. Published weights of torchvision
    and Detectron2 were trained with 0, the cell's corner. torchvision's anchors are `rounded` as well: their
    corners relative to the cell become whole pixels, and the step between cells becomes the padded image's
    side divided by the number of cells, rounded down, which on P6 can be less than the stride.
    """

    sizes: tuple[tuple[float, ...], ...]  # one tuple a level
    aspect_ratios: tuple[float, ...]
    strides: tuple[int, ...]  # one a level
    offset: float = 0.5
    rounded: bool = False

    @property
    def per_cell(self) -> int:
        """The number of anchors of a cell, the same on each level. Raises ValueError where levels differ."""
        counts = {len(sizes) for sizes in self.sizes}
        if len(counts) != 1 or len(self.sizes) != len(self.strides):
            raise ValueError(
                f"anchor sizes must be one group of equal length for each of {len(self.strides)} levels, "
                f"not {self.sizes}"
            )
        return counts.pop() * len(self.aspect_ratios)

    def shapes(self) -> Float[Tensor, "levels n 4"]:
        """Return the anchors of a cell of each level around 0: all ratios of a size, then of the next."""
        sides = [
            [(s / r**0.5, s * r**0.5) for s in sizes for r in self.aspect_ratios] for sizes in self.sizes
        ]
        corners = torch.tensor([[(-w / 2, -h / 2, w / 2, h / 2) for w, h in level] for level in sides])
        return corners.round() if self.rounded else corners

    def grid(
        self, level: int, size_hw: tuple[int, int], input_hw: tuple[int, int], shapes: Float[Tensor, "n 4"]
    ) -> Float[Tensor, "anchors 4"]:
        """Return the anchors of a level of `size_hw` cells, in pixels: by row, cell, then size.

        `input_hw` is the size of the padded image, `shapes` are the level's own of `shapes()`.
        """
        steps = [self.strides[level]] * 2
        if self.rounded:
            steps = [side // cells for side, cells in zip(input_hw, size_hw, strict=True)]
        y, x = (
            (torch.arange(cells, device=shapes.device) + self.offset) * step
            for cells, step in zip(size_hw, steps, strict=True)
        )
        centres = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).repeat(1, 1, 2)
        return (centres[:, :, None] + shapes).flatten(0, 2)


class AnchorPredictions(NamedTuple):
    """Every anchor with its objectness and its box deltas, level after level."""

    logits: Float[Tensor, "B A"]
    deltas: Float[Tensor, "B A 4"]
    anchors: Float[Tensor, "A 4"]
    levels: tuple[int, ...]  # the number of anchors of each level; they add up to A


class Proposals(NamedTuple):
    """The P best regions of each image, best first."""

    boxes: Float[Tensor, "B P 4"]
    logits: Float[Tensor, "B P"]
    valid: Bool[Tensor, "B P"]


class TopN(NamedTuple):
    """How many regions are kept: the best of each level before NMS, the best of all levels after it."""

    pre_nms: int
    post_nms: int


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


class RPN(nn.Module):
    """Scores anchors and proposes the best as regions. `maskrcnn.network.learning` has its losses.

    `samples_per_image` anchors are drawn for the losses. These are divided by the number of anchors drawn,
    or, with `fixed_divisor`, by the number that could have been drawn, as Detectron2 does. `beta` is where
    the smooth L1 loss of the boxes becomes linear; 0 is L1.
    """

    anchor_shapes: Tensor

    def __init__(
        self,
        head: RPNHead,
        anchors: Anchors,
        *,
        train_topn: TopN,
        test_topn: TopN,
        min_size: float = 0.0,
        samples_per_image: int = 256,
        beta: float = 1 / 9,
        fixed_divisor: bool = False,
    ) -> None:
        super().__init__()
        self.head = head
        self.anchors = anchors
        # A buffer on the network's device: copying it there in every step would make the host wait.
        self.register_buffer("anchor_shapes", anchors.shapes(), persistent=False)
        self.box_weights = (1.0, 1.0, 1.0, 1.0)
        self.train_topn = train_topn
        self.test_topn = test_topn
        self.nms_threshold = 0.7
        self.min_size = min_size
        self.samples_per_image = samples_per_image
        self.beta = beta
        self.fixed_divisor = fixed_divisor

    def forward(self, features: Sequence[Float[Tensor, "B C _h _w"]]) -> AnchorPredictions:
        """Return the predictions of all anchors, detached: `learning` repeats those that it needs."""
        outputs = [[output.detach() for output in self.head(level.detach())] for level in features]
        logits, deltas = (torch.cat(parts, 1).float() for parts in zip(*outputs, strict=True))
        sizes = [(level.shape[2], level.shape[3]) for level in features]
        (height, width), stride = sizes[0], self.anchors.strides[0]
        input_hw = (height * stride, width * stride)  # images are padded to whole cells
        grids = [
            self.anchors.grid(number, size_hw, input_hw, self.anchor_shapes[number])
            for number, size_hw in enumerate(sizes)
        ]
        return AnchorPredictions(logits, deltas, torch.cat(grids), tuple(grid.shape[0] for grid in grids))

    def propose(self, predictions: AnchorPredictions, sizes_hw: Int[Tensor, "B 2"], topn: TopN) -> Proposals:
        """Return the best regions: refined, clipped to their images, without near duplicates on a level."""
        index, level = _best_of_levels(predictions.logits, predictions.levels, topn.pre_nms)
        logits = box_ops.gather_rows(predictions.logits, index)
        deltas = box_ops.gather_rows(predictions.deltas, index)
        boxes = box_ops.decode(deltas, predictions.anchors[index], self.box_weights)
        boxes = box_ops.clip(boxes, sizes_hw)
        valid = box_ops.is_larger(boxes, self.min_size) & logits.isfinite()
        valid = box_ops.suppress(boxes, logits, level.expand_as(logits), valid, self.nms_threshold)
        order = logits.masked_fill(~valid, -torch.inf).argsort(dim=1, descending=True, stable=True)
        order = order[:, : topn.post_nms]
        boxes, logits = box_ops.gather_rows(boxes, order), box_ops.gather_rows(logits, order)
        return Proposals(boxes, logits, box_ops.gather_rows(valid, order))


def _best_of_levels(logits: Tensor, levels: tuple[int, ...], count: int) -> tuple[Tensor, Tensor]:
    """Return the `count` best anchors (B, n) of each level, and the level (n,) of each."""
    first, chosen, level_of = 0, [], []
    for number, size in enumerate(levels):
        best = logits[:, first : first + size].topk(torch.sym_min(count, size), sorted=True).indices
        chosen.append(best + first)
        level_of.append(torch.full_like(best[0], number))
        first += size
    return torch.cat(chosen, 1), torch.cat(level_of)
