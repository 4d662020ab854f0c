"""The command ``maskrcnn bench``: how long a detection takes on this machine, and which stages take it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from rich.console import Group
from rich.table import Table
from torch import Tensor, nn

from maskrcnn.bench.networks import noise_picture, random_checkpoint
from maskrcnn.bench.stages import time_stages
from maskrcnn.bench.timing import Timing, count_flops, machine, peak_flops, peak_memory, take_turns
from maskrcnn.bench.torchvision import (
    agreement,
    detect_without_pasting,
    to_torchvision,
    torchvision_network,
)
from maskrcnn.device import resolve_device
from maskrcnn.fast.acceleration import PLAIN, Acceleration
from maskrcnn.fast.winograd import Probe, probe_winograd
from maskrcnn.network.model import MaskRCNN
from maskrcnn.predict.predictor import Predictor
from maskrcnn.types import Batch

DTYPES: dict[str, torch.dtype] = {"float32": torch.float32, "bf16": torch.bfloat16}


@torch.inference_mode()
def bench_detection(
    recipe: str,
    size_hw: tuple[int, int],
    *,
    batch_size: int = 1,
    against: str | None = None,
    acceleration: Acceleration = PLAIN,
    device: str | torch.device = "auto",
    repeats: int = 10,
) -> dict[str, Any]:
    """Return figures of detection with a recipe on pictures of `size_hw`, and of torchvision if `against` it.

    Both have the same weights and pictures, and take turns. "network" is from the network's input to boxes
    and M × M masks, "whole" from pictures to masks of the pictures' size. Times are milliseconds per batch,
    memory is in bytes. Raises ValueError for an unknown recipe, and as `resolve_device`,
    `Acceleration.apply` and `torchvision_network` do.
    """
    device = resolve_device(device)
    checkpoint = random_checkpoint(recipe)
    predictor = Predictor.from_checkpoint(checkpoint, device=device, acceleration=acceleration)
    assert isinstance(predictor.model, MaskRCNN)
    picture = noise_picture(size_hw)
    batch, pictures = _batch(predictor, picture, batch_size), [_to_array(picture)] * batch_size
    contestants: dict[str, dict[str, Callable[[], Any]]] = {
        "network": {"ours": lambda: predictor.detect(batch)},
        "whole": {"ours": lambda: _predict_masks(predictor, pictures)},
    }
    figures: dict[str, Any] = {}
    with torch.autocast(device.type, torch.bfloat16, enabled=acceleration.precision == "bf16"):
        if against:
            model = torchvision_network(checkpoint, size_hw).to(device).eval()
            images = to_torchvision([picture] * batch_size, device)
            figures["agreement"] = agreement(predictor, pictures[0], model(images[:1])[0])
            contestants["network"][against] = lambda: detect_without_pasting(model, images)
            contestants["whole"][against] = lambda: model(images)
        timings = {part: take_turns(sides, repeats=repeats) for part, sides in contestants.items()}
        memory = {side: peak_memory(run, device) for side, run in contestants["whole"].items()}
        stages = time_stages(predictor.model, batch)
    return {
        "machine": machine(device),
        "recipe": recipe,
        "size_hw": size_hw,
        "batch_size": batch_size,
        **acceleration._asdict(),
        "accelerated_layers": active_accelerations(predictor.model),
        "winograd_probe_ms": probe_winograd()._asdict() if device.type == "cpu" else None,
        **figures,
        "milliseconds": {
            part: {side: timing._asdict() for side, timing in sides.items()}
            for part, sides in timings.items()
        },
        "peak_bytes": memory,
        "stages": stages,
        **_efficiency(
            lambda: checkpoint.build().eval().to(device).detect(batch),
            timings["network"]["ours"],
            peak_flops(device, DTYPES[acceleration.precision]),
        ),
    }


def _efficiency(run: Callable[[], Any], timing: Timing, peak: float) -> dict[str, Any]:
    """Return the operations of `run`, the machine's peak per second, and the share of it that was reached."""
    operations = count_flops(run)
    share = operations / (timing.median / 1000) / peak
    return {"operations": operations, "product_peak": peak, "share_of_peak": share}


def active_accelerations(model: nn.Module) -> dict[str, int]:
    """Return how many layers of each kind `maskrcnn.fast` put into `model`, by the names of their classes.

    What does not pay on this machine is absent: there is no WinogradConv2d where the probe of
    `maskrcnn.fast.winograd` chose PyTorch's own convolutions.
    """
    kinds = (type(module) for module in model.modules())
    return dict(Counter(kind.__name__ for kind in kinds if kind.__module__.startswith("maskrcnn.fast.")))


def _to_array(picture: Tensor) -> np.ndarray:
    return picture.permute(1, 2, 0).contiguous().numpy()


def _batch(predictor: Predictor, picture: Tensor, batch_size: int) -> Batch:
    """Return a batch of one picture several times, as `predictor` passes it to its network."""
    stride = predictor.model.stride
    height, width = (-(-side // stride) * stride for side in picture.shape[1:])
    images = picture.new_zeros(batch_size, 3, height, width)
    images[:, :, : picture.shape[1], : picture.shape[2]] = picture
    sizes_hw = torch.tensor([picture.shape[1:]] * batch_size)
    return Batch(images.contiguous(memory_format=torch.channels_last), sizes_hw).to(predictor.device)


def _predict_masks(predictor: Predictor, pictures: list[np.ndarray]) -> list[Any]:
    results = predictor.predict_many(pictures, score=0.0, batch_size=len(pictures), workers=0)
    return [result.masks for _, result in results if result.mask_probs is not None]  # type: ignore[union-attr]


def detection_report(figures: dict[str, Any]) -> Group:
    """Return the figures of `bench_detection` as tables for rich to print."""
    return Group(_comparison(figures), _stages_table(figures), _accelerations_line(figures))


def _comparison(figures: dict[str, Any]) -> Table:
    height, width = figures["size_hw"]
    sides = list(figures["peak_bytes"])
    table = Table(
        "",
        *(f"{side}, ms" for side in sides),
        *("ours / theirs" for _ in sides[1:]),
        title=f"{figures['recipe']}, {figures['batch_size']} of {height}x{width}, {figures['precision']}",
        title_justify="left",
    )
    titles = {"network": "input to boxes and masks of 28x28", "whole": "pictures to masks of their size"}
    for part, title in titles.items():
        timings = [Timing(**timing) for timing in figures["milliseconds"][part].values()]
        table.add_row(title, *_with_ratios([timing.median for timing in timings], "{:.1f}"))
    if all(figures["peak_bytes"].values()):
        megabytes = [memory / 1e6 for memory in figures["peak_bytes"].values()]
        table.add_row("peak memory, MB", *_with_ratios(megabytes, "{:.0f}"))
    if "agreement" in figures:
        difference = figures["agreement"]
        table.caption = (
            f"{difference['ours']} detections, theirs {difference['theirs']}; the largest differences are "
            f"{difference.get('box_px', 0):.1g} px and {difference.get('score', 0):.1g} in score"
        )
    return table


def _with_ratios(values: list[float], form: str) -> list[str]:
    return [*(form.format(value) for value in values), *(f"{values[0] / other:.2f}" for other in values[1:])]


def _stages_table(figures: dict[str, Any]) -> Table:
    stages = figures["stages"]
    whole = sum(stages.values())
    table = Table("stage", "ms", "share", "", title="the stages of ours", title_justify="left")
    for name, duration in stages.items():
        share = duration / whole
        table.add_row(name, f"{duration:.1f}", f"{share:.0%}", "█" * round(40 * share))
    table.caption = (
        f"{figures['operations'] / 1e9:.0f} Gflop of convolutions and matrix products, at "
        f"{figures['share_of_peak']:.0%} of the {figures['product_peak'] / 1e9:.0f} Gflop/s "
        "that a large matrix product reaches on this machine"
    )
    return table


def _accelerations_line(figures: dict[str, Any]) -> str:
    """Return which accelerations are active on this machine, and what decides about Winograd's algorithm."""
    modes = [
        name
        for name, is_on in (("compiled", figures["compiled"]), ("CUDA graph", figures["cuda_graph"]))
        if is_on
    ]
    layers = [f"{count} {name}" for name, count in figures["accelerated_layers"].items()]
    line = f"accelerations active on this machine: {', '.join([*modes, *layers]) or 'none'}"
    if figures["winograd_probe_ms"]:
        probe = Probe(**figures["winograd_probe_ms"])
        line += (
            f"\n3x3 convolution: {probe.plain_ms:.1f} ms by PyTorch, {probe.winograd_ms:.1f} ms by "
            f"Winograd's algorithm, which {'pays' if probe.pays else 'does not pay'}"
        )
    return line
