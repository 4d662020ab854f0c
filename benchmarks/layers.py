"""What of a detection on a CPU is convolutions and linear layers? Where freed memory is kept, and where not.

Each of the two has a process of its own, for what an allocator was told cannot be untold.

python benchmarks/layers.py [--json FILE]
"""

import multiprocessing
import statistics
from typing import Any

import contest
import torch
from torch import nn

from maskrcnn.bench.networks import ours, picture
from maskrcnn.bench.stages import clocked
from maskrcnn.bench.timing import milliseconds
from maskrcnn.data.batch import pad
from maskrcnn.fast.cpu import ChannelsLastLinear, OnePassSum, QuarterMerge
from maskrcnn.fast.memory import keep_memory
from maskrcnn.predict.predictor import Predictor

RECIPE, SIZE_HW = "resnet50_fpn", (800, 1216)
KINDS = {
    "convolutions, linear layers": (nn.Conv2d, nn.ConvTranspose2d, nn.Linear, ChannelsLastLinear),
    "sums of maps": (OnePassSum, QuarterMerge),
}


def main() -> None:
    arguments = contest.arguments("the layers of a detection, timed", repeats=15).parse_args()
    figures: dict[str, Any] = {}
    for how in ("freed memory returned", "freed memory kept"):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            spent = pool.apply(measured, (how.endswith("kept"), arguments.threads, arguments.repeats))
        rest = 1 - spent["convolutions, linear layers"] / spent["all"]
        print(f"{how}: {rest:.1%} outside convolutions and linear layers")
        for name, value in spent.items():
            print(f"    {name:40} {value:7.1f} ms")
        figures[how] = {"milliseconds": spent, "outside": rest}
    contest.write(arguments.json, {"recipe": RECIPE, "size_hw": SIZE_HW, **figures})


@torch.inference_mode()
def measured(keep: bool, threads: int, repeats: int) -> dict[str, float]:
    """Return the milliseconds of each kind of layer in a detection, medians."""
    if keep:
        keep_memory()
    torch.set_num_threads(threads)
    trained = ours(RECIPE)
    predictor = Predictor.from_checkpoint(trained, device="cpu")
    batch = pad([picture(SIZE_HW)], predictor.model.stride)
    parts = [
        (kind, layer, "forward")
        for layer in predictor.model.modules()
        for kind, types in KINDS.items()
        if isinstance(layer, types)
    ]
    runs = []
    for _ in range(repeats + 3):
        spent: dict[str, float] = {}
        with clocked(parts, spent):
            spent["all"] = milliseconds(lambda: predictor.detect(batch))
        runs.append(spent)
    return {name: statistics.median(run[name] for run in runs[3:]) for name in runs[0]}


if __name__ == "__main__":
    main()
