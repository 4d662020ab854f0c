"""Feature pyramid (Lin et al. 2017): maps of one width, semantically strong at strides 4 … 64."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from maskrcnn.network.norms import Norm, conv_norm


class TopDownAdd(nn.Module):
    """A step of the top-down pathway: adds the coarser map, upsampled, to the finer one."""

    def forward(
        self, finer: Float[Tensor, "B C H W"], coarser: Float[Tensor, "B C h w"]
    ) -> Float[Tensor, "B C H W"]:
        """Return the sum, in the memory of `finer`."""
        finer += F.interpolate(coarser, size=finer.shape[-2:], mode="nearest")
        return finer


class FPN(nn.Module):
    """A feature pyramid: a body's maps, merged top-down, and one more at twice the coarsest stride.

    `body` is any module with `strides` and `out_channels` that returns its maps finest first; over res2 …
    res5 the pyramid is P2 … P6. Convolutions are initialised by Caffe's Xavier (uniform), as in both
    published implementations.
    """

    def __init__(self, body: nn.Module, out_channels: int = 256, norm: Norm | None = None) -> None:
        super().__init__()
        strides: tuple[int, ...] = body.strides  # type: ignore[assignment]
        widths: tuple[int, ...] = body.out_channels  # type: ignore[assignment]
        self.body = body
        self.lateral = nn.ModuleList(conv_norm(width, out_channels, 1, norm=norm) for width in widths)
        self.top_down_add = TopDownAdd()
        self.output = nn.ModuleList(conv_norm(out_channels, out_channels, 3, norm=norm) for _ in widths)
        self.strides = (*strides, 2 * strides[-1])
        self.out_channels = (out_channels,) * len(self.strides)
        for conv in (*self.lateral.modules(), *self.output.modules()):
            if isinstance(conv, nn.Conv2d):
                nn.init.kaiming_uniform_(conv.weight, a=1)
                if conv.bias is not None:
                    nn.init.zeros_(conv.bias)

    def forward(self, images: Float[Tensor, "B C H W"]) -> list[Tensor]:
        """Return the pyramid, finest first."""
        merged = [lateral(x) for lateral, x in zip(self.lateral, self.body(images), strict=True)]
        for i in reversed(range(len(merged) - 1)):
            merged[i] = self.top_down_add(merged[i], merged[i + 1])
        pyramid = [output(x) for output, x in zip(self.output, merged, strict=True)]
        return [*pyramid, F.max_pool2d(pyramid[-1], kernel_size=1, stride=2)]
