"""Where the time of a detection goes: body, pyramid, RPN, suppression, regions, heads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

from torch import nn

from maskrcnn.bench.timing import milliseconds
from maskrcnn.network.model import MaskRCNN
from maskrcnn.types import Batch


def stages(model: MaskRCNN, batch: Batch, *, repeats: int = 3) -> dict[str, float]:
    """Return the milliseconds of each stage of `detect`, medians, in their order.

    "rest" is what lies between them. On a GPU each stage is waited for, so they add up to more than a
    detection takes.
    """
    runs = [_stages(model, batch) for _ in range(repeats + 1)][1:]
    return {name: median(run[name] for run in runs) for name in runs[0]}


def _stages(model: MaskRCNN, batch: Batch) -> dict[str, float]:
    spent: dict[str, float] = {}
    with clocked(_parts(model), spent):
        whole = milliseconds(lambda: model.detect(batch))
    if "pyramid" in spent:  # which calls the body
        spent["pyramid"] -= spent["body"]
    return {**spent, "rest": whole - sum(spent.values())}


def _parts(model: MaskRCNN) -> list[tuple[str, nn.Module, str]]:
    """Return name, module and method of each stage."""
    backbone = model.backbone
    body = getattr(backbone, "body", None)
    parts = [
        ("body", body or backbone, "forward"),
        ("pyramid", body and backbone, "forward"),
        ("RPN head", model.rpn, "forward"),
        ("proposals, NMS", model.rpn, "propose"),
        ("box regions", model.box_branch, "region_features"),
        ("box head", model.box_branch, "forward"),
        ("boxes, NMS", model.box_branch, "select"),
        *((f"{name} branch", branch, "detect") for name, branch in model.branches.items()),
    ]
    return [(name, module, method) for name, module, method in parts if module is not None]


@contextmanager
def clocked(parts: list[tuple[str, nn.Module, str]], spent: dict[str, float]) -> Iterator[None]:
    """Let the methods of `parts` (name, module, method) add to `spent` the milliseconds that they take.

    Afterwards they are themselves again.
    """
    for name, module, method in parts:
        setattr(module, method, _clock(getattr(module, method), name, spent))
    try:
        yield
    finally:
        for _, module, method in parts:
            vars(module).pop(method, None)


def _clock(run: Callable[..., Any], name: str, spent: dict[str, float]) -> Callable[..., Any]:
    def timed(*arguments: Any) -> Any:
        answer: list[Any] = []
        taken = milliseconds(lambda: answer.append(run(*arguments)))
        spent[name] = spent.get(name, 0.0) + taken
        return answer[0]

    return timed
