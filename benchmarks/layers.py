"""The share of a detection on a CPU that is convolutions and linear layers, with and without `keep_memory`.

Each of the two runs in a process of its own, because `keep_memory` cannot be undone.

python benchmarks/layers.py [--json FILE]
"""

import multiprocessing
import statistics
from typing import Any

import contest
import torch
from torch import nn

from maskrcnn.bench.networks import noise_picture, random_checkpoint
from maskrcnn.bench.stages import Stage, timed
from maskrcnn.bench.timing import milliseconds
from maskrcnn.data.prepare import pad
from maskrcnn.fast.layers import ChannelsLastLinear, FusedAddReLU, StridedTopDownAdd
from maskrcnn.fast.memory import keep_memory
from maskrcnn.fast.winograd import WinogradConv2d
from maskrcnn.predict.predictor import Predictor

RECIPE, SIZE_HW = "resnet50_fpn", (800, 1216)
KINDS = {
    "convolutions, linear layers": (
        *(nn.Conv2d, nn.ConvTranspose2d, nn.Linear),
        *(WinogradConv2d, ChannelsLastLinear),
    ),
    "sums of maps": (FusedAddReLU, StridedTopDownAdd),
}


def main() -> None:
    arguments = contest.arguments("time of the layers of a detection", repeats=15).parse_args()
    figures: dict[str, Any] = {}
    for case in ("freed memory returned", "freed memory kept"):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            spent = pool.apply(time_layers, (case.endswith("kept"), arguments.threads, arguments.repeats))
        rest = 1 - spent["convolutions, linear layers"] / spent["all"]
        print(f"{case}: {rest:.1%} outside convolutions and linear layers")
        for name, value in spent.items():
            print(f"    {name:40} {value:7.1f} ms")
        figures[case] = {"milliseconds": spent, "outside": rest}
    contest.write(arguments.json, {"recipe": RECIPE, "size_hw": SIZE_HW, **figures})


@torch.inference_mode()
def time_layers(keep: bool, threads: int, repeats: int) -> dict[str, float]:
    """Return the milliseconds of each kind of layer in a detection, medians, and of all of it."""
    if keep:
        keep_memory()
    torch.set_num_threads(threads)
    checkpoint = random_checkpoint(RECIPE)
    predictor = Predictor.from_checkpoint(checkpoint, device="cpu")
    batch = pad([noise_picture(SIZE_HW)], predictor.model.stride)
    stages = [
        Stage(kind, layer, "forward")
        for layer in predictor.model.modules()
        for kind, types in KINDS.items()
        if isinstance(layer, types)
    ]
    runs = []
    for _ in range(repeats + 3):
        spent: dict[str, float] = {}
        with timed(stages, spent):
            spent["all"] = milliseconds(lambda: predictor.detect(batch))
        runs.append(spent)
    return {name: statistics.median(run[name] for run in runs[3:]) for name in runs[0]}


if __name__ == "__main__":
    main()
