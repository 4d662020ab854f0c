"""RoIAlign: `maskrcnn.ops.roi_align.roi_align` against torchvision's kernel, forward and with backward.

Both read the same map and boxes with 2 × 2 samples per bin. Each gets the map in the memory layout that it
has in its own network: ours channels-last, torchvision's channels-first.

python benchmarks/roi_align.py [--json benchmarks/results/roi_align.json]
"""

from collections.abc import Callable
from typing import Any

import contest
import torch
import torchvision.ops
from torch import Tensor

from maskrcnn.ops.roi_align import flatten_levels, roi_align

CHANNELS, SIZE_HW, STRIDE = 256, (200, 304), 4
CASES = {"1000 RoIs, 7x7": (1000, 7), "100 RoIs, 14x14": (100, 14)}
TOLERANCE = 1e-4


def main() -> None:
    parser = contest.arguments("RoIAlign, ours against torchvision", repeats=7)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = {}
    for title, (count, bins) in CASES.items():
        rows[title] = compare(title, regions(count), bins, arguments.repeats)
    contest.write(arguments.json, {"channels": CHANNELS, "size_hw": SIZE_HW, "rows": rows})


def regions(count: int) -> Tensor:
    """Return boxes within the picture, with sides of 16 … 400 px."""
    generator = torch.Generator().manual_seed(count)
    limit = STRIDE * torch.tensor([SIZE_HW[1], SIZE_HW[0]])
    sides = 16 + 384 * torch.rand(count, 2, generator=generator)
    corner = torch.rand(count, 2, generator=generator) * (limit - sides)
    return torch.cat((corner, corner + sides), 1)


def compare(title: str, boxes: Tensor, bins: int, repeats: int) -> dict[str, Any]:
    features = torch.randn(1, CHANNELS, *SIZE_HW, generator=torch.Generator().manual_seed(0))
    weight = torch.randn(len(boxes), CHANNELS, bins, bins, generator=torch.Generator().manual_seed(1))
    zeros = torch.zeros(len(boxes), dtype=torch.int64)

    def ours(features: Tensor) -> Tensor:
        return roi_align(flatten_levels([features], [STRIDE]), boxes, zeros, zeros, bins)

    def theirs(features: Tensor) -> Tensor:
        return torchvision.ops.roi_align(features, [boxes], bins, 1 / STRIDE, sampling_ratio=2, aligned=True)

    contestants = {
        "ours": (
            ours,
            features.to(memory_format=torch.channels_last),
            weight.to(memory_format=torch.channels_last),
        ),
        "theirs": (theirs, features, weight),
    }
    forward = {name: lambda run=run, own=own: run(own) for name, (run, own, _) in contestants.items()}
    both = {name: lambda args=args: gradient(*args) for name, args in contestants.items()}
    with torch.no_grad():
        times = contest.take_turns(forward, repeats=repeats)
        error = relative_error(forward["ours"](), forward["theirs"]())
    result: dict[str, Any] = {"forward": contest.row(f"{title}, forward", times["ours"], times["theirs"])}
    times = contest.take_turns(both, repeats=repeats)
    result["forward_backward"] = contest.row(f"{title}, forward + backward", times["ours"], times["theirs"])
    gradient_error = relative_error(both["ours"](), both["theirs"]())
    equal = max(error, gradient_error) < TOLERANCE
    print(f"{'':<36} largest difference {error:.1e}, of gradients {gradient_error:.1e}", end=": ")
    print("equal" if equal else "NOT equal")
    return {
        **result,
        "largest_difference": error,
        "relative_gradient_difference": gradient_error,
        "equal": equal,
    }


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def gradient(run: Callable[[Tensor], Tensor], features: Tensor, weight: Tensor) -> Tensor:
    """Return the gradient of a weighted sum of the regions' features with respect to the map."""
    leaf = features.detach().requires_grad_()
    (result,) = torch.autograd.grad(run(leaf), leaf, weight)
    return result


if __name__ == "__main__":
    main()
