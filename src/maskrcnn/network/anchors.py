"""Anchors: the boxes that the region proposal network scores and refines at every cell of every level."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class Anchors(NamedTuple):
    """Anchor shapes of each pyramid level: `sizes` are √area in pixels, `aspect_ratios` are height / width.

    The anchors of a cell stand at `offset` of its extent: 0.5 is its centre. Published weights of torchvision
    and Detectron2 were trained with 0, the cell's corner. Torchvision's anchors are `rounded` as well: their
    corners, around the place where they stand, to whole pixels; and the step from cell to cell down to the
    whole quotient of the padded picture's side by its cells, which on P6 can be less than the stride.
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
                f"but are {self.sizes}"
            )
        return counts.pop() * len(self.aspect_ratios)

    def grid(
        self, level: int, size_hw: tuple[int, int], input_hw: tuple[int, int], shapes: Float[Tensor, "n 4"]
    ) -> Float[Tensor, "anchors 4"]:
        """Return the anchors of a level of `size_hw` cells, in pixels: by row, cell, then size.

        `input_hw` is the size of the padded picture, `shapes` are the level's own of `shapes()`.
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

    def shapes(self) -> Float[Tensor, "levels n 4"]:
        """Return the anchors of a cell of each level around 0: all ratios of a size, then of the next."""
        sides = [
            [(s / r**0.5, s * r**0.5) for s in sizes for r in self.aspect_ratios] for sizes in self.sizes
        ]
        corners = torch.tensor([[(-w / 2, -h / 2, w / 2, h / 2) for w, h in level] for level in sides])
        return corners.round() if self.rounded else corners
