"""How the time of a detection divides between body, pyramid, RPN, NMS, regions and heads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from statistics import median
from typing import Any, NamedTuple

from torch import nn

from maskrcnn.bench.timing import milliseconds
from maskrcnn.network.model import MaskRCNN
from maskrcnn.types import Batch


class Stage(NamedTuple):
    """A method of a module, whose time counts for the stage `name`."""

    name: str
    module: nn.Module
    method: str


def time_stages(model: MaskRCNN, batch: Batch, *, repeats: int = 3) -> dict[str, float]:
    """Return the milliseconds of each stage of `detect`, medians, in their order.

    "rest" is the time between the stages. On a GPU the measurement waits for each stage to finish, so the
    stages add up to more than a detection takes.
    """
    runs = [_stages_once(model, batch) for _ in range(repeats + 1)][1:]
    return {name: median(run[name] for run in runs) for name in runs[0]}


def _stages_once(model: MaskRCNN, batch: Batch) -> dict[str, float]:
    spent: dict[str, float] = {}
    with timed(_detection_stages(model), spent):
        whole = milliseconds(lambda: model.detect(batch))
    if "pyramid" in spent:  # the pyramid calls the body
        spent["pyramid"] -= spent["body"]
    return {**spent, "rest": whole - sum(spent.values())}


def _detection_stages(model: MaskRCNN) -> list[Stage]:
    backbone = model.backbone
    body = getattr(backbone, "body", None)
    stages = [
        ("body", body or backbone, "forward"),
        ("pyramid", body and backbone, "forward"),
        ("RPN head", model.rpn, "forward"),
        ("proposals, NMS", model.rpn, "propose"),
        ("box regions", model.box_branch, "region_features"),
        ("box head", model.box_branch, "forward"),
        ("boxes, NMS", model.box_branch, "select"),
        *((f"{name} branch", branch, "detect") for name, branch in model.branches.items()),
    ]
    return [Stage(name, module, method) for name, module, method in stages if module is not None]


@contextmanager
def timed(stages: Sequence[Stage], spent: dict[str, float]) -> Iterator[None]:
    """Within the block, the methods of `stages` add their milliseconds to `spent`, by the stages' names."""
    for name, module, method in stages:
        setattr(module, method, _timed(getattr(module, method), name, spent))
    try:
        yield
    finally:
        for _, module, method in stages:
            vars(module).pop(method, None)  # which hid the method of the class


def _timed(run: Callable[..., Any], name: str, spent: dict[str, float]) -> Callable[..., Any]:
    def wrapper(*arguments: Any) -> Any:
        outputs: list[Any] = []
        duration = milliseconds(lambda: outputs.append(run(*arguments)))
        spent[name] = spent.get(name, 0.0) + duration
        return outputs[0]

    return wrapper
