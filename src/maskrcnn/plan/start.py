"""Which weights a training starts from: of the published ones, the best for the data and the machine.

A detector of photographs (COCO) learns other photographs in a few passes. Pictures that are no photographs
take a backbone of ImageNet at most, whose first layers suit any picture; with many objects to learn from they
need none (He et al. 2019, "Rethinking ImageNet Pre-training"). All functions are pure: what can be had is an
argument.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

from maskrcnn.plan.fingerprint import Fingerprint
from maskrcnn.plan.lines import Line, Wish
from maskrcnn.plan.machine import Machine
from maskrcnn.plan.rules import SMALL_GPU
from maskrcnn.weights.init import InitialWeights
from maskrcnn.weights.published import PUBLISHED, Published

INIT = "init"
_FEW_MINUTES = 30.0  # on a CPU: too few for the steps of a ResNet-50
_MANY_OBJECTS = 10_000  # enough to learn from drawn weights: 24,000 nuclei do so in minutes
_GREY = 0.5  # share of pictures without colour from which a data set is not one of photographs

_DETECTOR, _DETECTOR_V2 = "torchvision/maskrcnn_resnet50_fpn", "torchvision/maskrcnn_resnet50_fpn_v2"
_V2_NORMS = ("body.norm", "pyramid.norm", "boxes.norm", "masks.norm")
# The options that a detector brings and that change the time of a step
_DETECTORS: dict[str, dict[str, Any]] = {
    _DETECTOR: {},
    _DETECTOR_V2: dict.fromkeys(_V2_NORMS, "batch") | {"boxes.head": "conv", "proposals.convolutions": 2},
}
_V2_KEPT = (
    Line(
        "body.norm", "frozen", "keeps the statistics of the weights' training, which small batches would blur"
    ),
    Line("body.norm_eps", 1e-5, "that of the weights' norms"),
)
_BODIES = {
    "resnet18": "torchvision/resnet18",
    "resnet34": "torchvision/resnet34",
    "resnet50": "torchvision/resnet50",
    "resnet101": "torchvision/resnet101",
    "resnext101": "torchvision/resnext101_32x8d",
    "resnext101_64x4d": "torchvision/resnext101_64x4d",
    "mobilenet_v2": "torchvision/mobilenet_v2",
}


class Candidates(NamedTuple):
    """Published weights that suit a training, the best first, and why."""

    names: tuple[str, ...]
    reason: str


class Available(NamedTuple):
    """Which published weights can be had."""

    cached: frozenset[str] = frozenset()  # names of those whose files are on this machine
    obstacle: str = ""  # why others cannot be downloaded; "" where they can
    folder: str = ""  # of the cache


def candidates(data: Fingerprint, machine: Machine, wish: Wish) -> Candidates:
    """Return the published weights from which a training on these data should start."""
    is_gpu = machine.device.startswith("cuda")
    if is_photographs := data.white is None and data.share_grey < _GREY:
        kind = "photographs"
    else:
        kind = "grey pictures" if data.white is None else "pictures of more than 8 bits"
    if not is_photographs and data.objects.count >= _MANY_OBJECTS:
        return Candidates((), f"{data.objects.count:,} objects in {kind} are enough to learn from")
    if wish.recipe:
        return _of_recipe(wish.recipe, kind, is_photographs)
    small = ("torchvision/mobilenet_v2", "torchvision/resnet18")
    has_hours = wish.minutes is None or wish.minutes >= _FEW_MINUTES
    if is_gpu and machine.memory is not None and machine.memory < SMALL_GPU:
        return Candidates(small[::-1], f"a small backbone for {machine.memory / 2**30:.0f} GB of memory")
    if is_photographs and (is_gpu or has_hours):
        detectors = (_DETECTOR_V2, _DETECTOR) if is_gpu else (_DETECTOR,)
        others = ("torchvision/resnet50", *small[::-1]) if is_gpu else small
        return Candidates((*detectors, *others), "photographs: a network that knows those of COCO")
    if is_gpu:
        return Candidates(
            ("torchvision/resnet50", *small[::-1]), f"{kind}: a backbone suits them, no detector"
        )
    time = "a CPU" if wish.minutes is None else f"{wish.minutes:g} minutes of a CPU"
    return Candidates(small, f"{kind} and {time}: a small backbone")


def _of_recipe(recipe: str, kind: str, is_photographs: bool) -> Candidates:
    """Return the weights that fit a recipe of the user's."""
    if is_photographs and recipe == "resnet50_fpn":
        return Candidates((_DETECTOR, _BODIES["resnet50"]), f"{kind}: a network that knows those of COCO")
    body = max((body for body in _BODIES if recipe.startswith(f"{body}_")), key=len)
    return Candidates((_BODIES[body],), f"{kind}: the backbone of {recipe}")


def choose_start(wish: Wish, suiting: Candidates, available: Available) -> tuple[Wish, InitialWeights | None]:
    """Return the wish with the best weights that can be had, and what they bring, without the weights.

    The best are taken where they are on this machine or can be downloaded; otherwise the next best that are
    on this machine; otherwise the weights are drawn.
    """
    if not suiting.names:
        return replace(wish, init=Line(INIT, None, f"drawn weights: {suiting.reason}")), None
    best, *others = suiting.names
    if best in available.cached or not available.obstacle:
        return _start_from(wish, best, suiting.reason, best in available.cached)
    lack = f"{best} cannot be had ({available.obstacle})"
    if present := [name for name in others if name in available.cached]:
        return _start_from(wish, present[0], f"{lack}, but this one", is_cached=True)
    mend = f"give a file by --init FILE, or put {PUBLISHED[best].url} into {available.folder}"
    return replace(wish, init=Line(INIT, None, f"drawn weights: {lack}; {mend}")), None


def _start_from(wish: Wish, name: str, reason: str, is_cached: bool) -> tuple[Wish, InitialWeights]:
    published = PUBLISHED[name]
    where = "on this machine" if is_cached else "will be downloaded"
    line = Line(INIT, name, f"{reason}; {describe_file(published)}; {where}")
    if name in _DETECTORS:
        kept = _V2_KEPT if name == _DETECTOR_V2 else ()
        wish = replace(wish, init=line, kept=kept, start="detector")
        return wish, InitialWeights({}, "resnet50_fpn", _DETECTORS[name], ())
    body = next(body for body, of_body in _BODIES.items() if of_body == name)
    recipe = wish.recipe or f"{body}_fpn"
    return replace(wish, init=line, start="backbone", recipe=recipe), InitialWeights({}, None, {}, ())


def describe_file(published: Published) -> str:
    """Return the size and the licence of a published file."""
    return f"{published.size} MB, {published.licence}"
