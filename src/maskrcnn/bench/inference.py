"""The command ``maskrcnn bench``: how long a detection takes on this machine, and where the time goes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from rich.console import Group
from rich.table import Table
from torch import Tensor

from maskrcnn.bench.networks import ours, picture, theirs
from maskrcnn.bench.stages import stages
from maskrcnn.bench.timing import Timing, machine, operations, peak_memory, product_peak, take_turns
from maskrcnn.device import resolve_device
from maskrcnn.fast.acceleration import PLAIN, Acceleration
from maskrcnn.network.model import MaskRCNN
from maskrcnn.predict.predictor import Predictor
from maskrcnn.types import Batch

DTYPES: dict[str, torch.dtype] = {"float32": torch.float32, "bf16": torch.bfloat16}


@torch.inference_mode()
def bench(
    recipe: str,
    size_hw: tuple[int, int],
    *,
    batch_size: int = 1,
    against: str | None = None,
    speed: Acceleration = PLAIN,
    device: str | torch.device = "auto",
    repeats: int = 10,
) -> dict[str, Any]:
    """Return the figures of detection with a recipe on pictures of `size_hw`, and torchvision's if asked.

    Both have the same weights and see the same pictures, in turns: `network` is from pixels to boxes and
    M × M masks, `whole` from pictures to masks of their size. Times are milliseconds a batch. Raises
    ValueError as `find`, `resolve_device` and `theirs` do.
    """
    trained = ours(recipe)
    predictor = Predictor.from_checkpoint(trained, device=device, acceleration=speed)
    place = resolve_device(device)
    pixels = picture(size_hw)
    batch = _batch(predictor, pixels, batch_size)
    arrays = [pixels.permute(1, 2, 0).contiguous().numpy()] * batch_size
    rounded = _rounding(place, speed)
    contestants: dict[str, dict[str, Callable[[], Any]]] = {
        "network": {"ours": lambda: predictor.detect(batch)},
        "whole": {"ours": lambda: _masks(predictor, arrays)},
    }
    figures: dict[str, Any] = {}
    with rounded:
        if against:
            other = theirs(trained, size_hw).to(place).eval()
            images = [(pixels.float() / 255).to(place)] * batch_size
            figures["agreement"] = agreement(predictor, arrays[0], other(images[:1])[0])
            contestants["network"][against] = lambda: _network_of(other, images)
            contestants["whole"][against] = lambda: other(images)
        times = {what: take_turns(sides, repeats=repeats) for what, sides in contestants.items()}
        memory = {side: peak_memory(run, place) for side, run in contestants["whole"].items()}
        assert isinstance(predictor.model, MaskRCNN)
        spent = stages(predictor.model, batch)
    work = operations(lambda: trained.build().eval().to(place).detect(batch))
    peak = product_peak(place, DTYPES[speed.precision])
    return {
        "machine": machine(place),
        "recipe": recipe,
        "size_hw": size_hw,
        "batch_size": batch_size,
        **speed._asdict(),
        **figures,
        "milliseconds": {
            what: {side: own._asdict() for side, own in sides.items()} for what, sides in times.items()
        },
        "peak_bytes": memory,
        "stages": spent,
        "operations": work,
        "product_peak": peak,
        "share_of_peak": work / (times["network"]["ours"].median / 1000) / peak,
    }


def _rounding(device: torch.device, speed: Acceleration) -> AbstractContextManager[Any]:
    return torch.autocast(device.type, torch.bfloat16, enabled=speed.precision == "bf16")


def _batch(predictor: Predictor, pixels: Tensor, batch_size: int) -> Batch:
    """Return the pictures as `predictor` gives them to its network."""
    stride = predictor.model.stride
    height, width = (-(-side // stride) * stride for side in pixels.shape[1:])
    images = pixels.new_zeros(batch_size, 3, height, width)
    images[:, :, : pixels.shape[1], : pixels.shape[2]] = pixels
    sizes_hw = torch.tensor([pixels.shape[1:]] * batch_size)
    return Batch(images.contiguous(memory_format=torch.channels_last), sizes_hw).to(predictor.device)


def _masks(predictor: Predictor, arrays: list[Any]) -> list[Any]:
    found = predictor.predict_many(arrays, score=0.0, batch_size=len(arrays), workers=0)
    return [result.masks for _, result in found if result.mask_probs is not None]  # type: ignore[union-attr]


def _network_of(model: Any, images: list[Tensor]) -> list[dict[str, Tensor]]:
    """Run torchvision's network without pasting its masks."""
    batch, _ = model.transform(images)
    features = model.backbone(batch.tensors)
    proposals, _ = model.rpn(batch, features)
    return model.roi_heads(features, proposals, batch.image_sizes)[0]


def agreement(predictor: Predictor, array: Any, other: dict[str, Tensor]) -> dict[str, Any]:
    """Return how far the two answers to one picture lie apart: pixels of a box's side, scores."""
    mine = predictor.predict(array, score=0.0)
    figures: dict[str, Any] = {"ours": len(mine), "theirs": len(other["boxes"])}
    if len(mine) and len(other["boxes"]):
        theirs_boxes, theirs_scores = other["boxes"].float().cpu(), other["scores"].float().cpu()
        distance = (torch.from_numpy(mine.boxes)[:, None] - theirs_boxes).abs().amax(-1)
        other_class = torch.from_numpy(mine.labels)[:, None] != other["labels"].cpu() - 1
        box, twin = distance.masked_fill(other_class, torch.inf).min(1)
        figures["box_px"] = box.max().item()
        figures["score"] = (torch.from_numpy(mine.scores) - theirs_scores[twin]).abs().max().item()
    return figures


def printed(figures: dict[str, Any]) -> Group:
    """Return the figures as tables, to print with rich."""
    return Group(_comparison(figures), _timeline(figures))


def _comparison(figures: dict[str, Any]) -> Table:
    height, width = figures["size_hw"]
    sides = list(figures["peak_bytes"])
    made = Table(
        "",
        *(f"{side}, ms" for side in sides),
        *("ours / theirs" for _ in sides[1:]),
        title=f"{figures['recipe']}, {figures['batch_size']} of {height}x{width}, {figures['precision']}",
        title_justify="left",
    )
    titles = {"network": "pixels to boxes and masks of 28x28", "whole": "pictures to masks of their size"}
    for what, title in titles.items():
        times = {side: Timing(**own) for side, own in figures["milliseconds"][what].items()}
        made.add_row(title, *_compared([own.median for own in times.values()], "{:.1f}"))
    if all(figures["peak_bytes"].values()):
        made.add_row(
            "peak memory, MB", *_compared([own / 1e6 for own in figures["peak_bytes"].values()], "{:.0f}")
        )
    if "agreement" in figures:
        apart = figures["agreement"]
        made.caption = (
            f"{apart['ours']} detections, theirs {apart['theirs']}; at most {apart.get('box_px', 0):.1g} px "
            f"and {apart.get('score', 0):.1g} of a score apart"
        )
    return made


def _compared(values: list[float], form: str) -> list[str]:
    return [*(form.format(value) for value in values), *(f"{values[0] / other:.2f}" for other in values[1:])]


def _timeline(figures: dict[str, Any]) -> Table:
    spent = figures["stages"]
    whole = sum(spent.values())
    made = Table("stage", "ms", "share", "", title="where ours takes its time", title_justify="left")
    for name, taken in spent.items():
        made.add_row(name, f"{taken:.1f}", f"{taken / whole:.0%}", "█" * round(40 * taken / whole))
    made.caption = (
        f"{figures['operations'] / 1e9:.0f} Gflop of convolutions and products, "
        f"{figures['share_of_peak']:.0%} of the {figures['product_peak'] / 1e9:.0f} Gflop/s "
        "that a large matrix product reaches here"
    )
    return made
