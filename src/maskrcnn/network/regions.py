"""From a pyramid and boxes to the features of regions."""

import math

from jaxtyping import Float, Int
from torch import Tensor, nn

from maskrcnn.ops.pyramid import Pyramid
from maskrcnn.ops.roi_align import RegionOperator, assign_levels, roi_align


class Regions(nn.Module):
    """Reads `bins` × `bins` features for each box from the level that its size assigns it to.

    `strides` are those of the pyramid's levels (powers of two). `head` works on every region before the
    branches do: res5 in a C4 network, where the branches share it; nothing in a pyramid network (Figure 4).
    """

    def __init__(
        self,
        strides: tuple[int, ...],
        bins: int,
        *,
        operator: RegionOperator = roi_align,
        head: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.strides = strides
        self.bins = bins
        self.operator = operator
        self.head = nn.Identity() if head is None else head

    def forward(
        self, pyramid: Pyramid, boxes: Float[Tensor, "N 4"], pictures: Int[Tensor, " N"]
    ) -> Float[Tensor, "N C h w"]:
        """Return the features of N boxes of the given pictures."""
        finest, coarsest = (round(math.log2(stride)) for stride in (self.strides[0], self.strides[-1]))
        levels = assign_levels(boxes, first=finest, last=coarsest)
        return self.head(self.operator(pyramid, boxes, pictures, levels, self.bins))
