"""Loss curves of ResNet-50-FPN from the same weights on the same pictures: ours, ours in bf16, torchvision's.

python benchmarks/curves.py [--steps 60] [--size 256] [--rate 0.0002] [--device cuda]
"""

from statistics import mean

import contest
import torch
from train_torchvision import torchvision_step

from maskrcnn.bench.training import Step, StepSpec, make_step

_PRINTED = 6  # means over consecutive steps


def main() -> None:
    parser = contest.arguments("losses of a training, step by step", repeats=1)
    parser.add_argument("--steps", type=int, default=60, help="(default: 60)")
    parser.add_argument("--size", type=int, default=256, help="side of the two pictures (default: 256)")
    parser.add_argument("--rate", type=float, default=0.0002, help="learning rate (default: 0.0002)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    curves: dict[str, list[float]] = {}
    for name, make, precision in (
        ("ours", make_step, "float32"),
        ("ours in bf16", make_step, "bf16"),
        ("torchvision", torchvision_step, "float32"),
    ):
        side = (given.size, given.size)
        spec = StepSpec("resnet50_fpn", given.device, precision, 2, side, 10, given.threads, given.rate)
        torch.manual_seed(0)
        curves[name] = curve(make(spec), given.steps)
        length = -(-given.steps // _PRINTED)
        means = (mean(curves[name][first : first + length]) for first in range(0, given.steps, length))
        print(f"{name:12}", *(f"{loss:8.3f}" for loss in means), flush=True)
    contest.write(given.json, {"losses": curves})


def curve(step: Step, steps: int) -> list[float]:
    """Return the sum of the losses at each step."""
    losses = (step() for _ in range(steps))
    return [sum(loss for name, loss in parts.items() if name.startswith("loss_")) for parts in losses]


if __name__ == "__main__":
    main()
