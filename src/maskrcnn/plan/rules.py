"""The rules of a plan: from a fingerprint, a machine and a wish to ordinary settings, with a reason each.

The numbers come from published tools and from trainings in docs/log.md; each rule says in its reason what it
looked at. `plan` is a pure function: the same arguments give the same plan.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from maskrcnn.plan.fingerprint import Fingerprint
from maskrcnn.plan.machine import Machine
from maskrcnn.plan.memory import StepMemory

_SHORT_SIDES_CPU = (256, 320, 384, 448, 512)
_SHORT_SIDES_GPU = (512, 640, 800)
_SMALLEST_SIDE = 16.0  # px of the network's input that all but a tenth of the objects should have
_MANY_OBJECTS = 8  # in a picture: then windows of it are enough to learn from


class Line(NamedTuple):
    """One setting, or option of the recipe, by its dotted name."""

    name: str
    value: Any
    reason: str


@dataclass(frozen=True)
class Wish:
    """What a user asks for beside the best network."""

    minutes: float | None = None  # None: as long as the data need
    recipe: str | None = None  # None: the plan chooses
    start: Literal["scratch", "backbone", "detector"] = "scratch"  # what the initial weights are


@dataclass(frozen=True)
class Plan:
    """A recipe, and settings and options of it that differ from their defaults."""

    recipe: str | None  # None: that of the initial weights
    lines: tuple[Line, ...]

    def replaced(self, values: Mapping[str, Any], reason: str) -> Plan:
        """Return the plan with the lines of these names replaced, or added, for one reason."""
        kept = tuple(line for line in self.lines if line.name not in values)
        return replace(self, lines=kept + tuple(Line(name, value, reason) for name, value in values.items()))

    def values(self, names: Sequence[str] | Mapping[str, Any]) -> dict[str, Any]:
        """Return the values of those lines whose names are among `names`."""
        return {line.name: line.value for line in self.lines if line.name in names}


class View(NamedTuple):
    """How the network sees the pictures: whole ones at a short side, or windows at the file's own scale."""

    short_side: int | None  # None: windows
    scale: float  # px of the input for a px of the file
    crop: int | None  # side of the windows


def plan(data: Fingerprint, machine: Machine, wish: Wish) -> Plan:
    """Return the settings with which this machine learns most from these data in the time wished for."""
    is_gpu = machine.device.startswith("cuda")
    view = choose_view(data, is_gpu)
    lines = [*_view_lines(data, view), *_region_lines(data, view, wish, is_gpu)]
    lines += _network_lines(data, wish, is_gpu)
    lines += _step_lines(data, machine, wish, is_gpu)
    lines += _length_lines(data, lines, wish)
    lines += _augmentation_lines(data, view, wish)
    return Plan(wish.recipe or _recipe(wish, is_gpu), tuple(lines))


def choose_view(data: Fingerprint, is_gpu: bool) -> View:
    """Return windows where pictures hold many objects or small ones, otherwise whole pictures."""
    _, s10, s50, s95, _ = data.objects.sides
    short = min(data.size_hw)
    sides = _SHORT_SIDES_GPU if is_gpu else _SHORT_SIDES_CPU
    wanted = _SMALLEST_SIDE / s10 * short
    side = next((side for side in sides if side >= min(wanted, short)), sides[-1])
    crop = _to_32(min(max(4 * s95, 8 * s50, 256), 1024 if is_gpu else 384))
    has_many = data.objects.in_a_picture[0] >= _MANY_OBJECTS
    is_small = s10 * side / short < _SMALLEST_SIDE / 2
    if (has_many or is_small) and s95 < crop:
        return View(None, 1.0, crop)
    return View(side, side / short, None)


def _view_lines(data: Fingerprint, view: View) -> list[Line]:
    _, s10, s50, s95, _ = data.objects.sides
    sides = f"objects have sides of {s10:.0f}, {s50:.0f}, {s95:.0f} px (percentiles 10, 50, 95)"
    if view.crop:
        return [
            Line("pictures.short_sides", None, f"the file's own scale: {sides}"),
            Line("pictures.long_side", max(1333, data.longest_side), "no picture is shrunk"),
            Line(
                "augmentation.crop",
                (view.crop, view.crop),
                f"windows: {data.objects.in_a_picture[0]:.0f} objects in a picture, "
                f"{data.size_hw[0]:.0f} x {data.size_hw[1]:.0f} px",
            ),
        ]
    assert view.short_side
    sizes = tuple(_to_32(share * view.short_side) for share in (0.875, 1.0, 1.125))
    longest = view.scale * max(data.size_hw) * 1.3
    return [
        Line("pictures.short_sides", sizes, f"whole pictures: {sides}"),
        Line("pictures.test_short_side", view.short_side, "the middle one"),
        Line("pictures.long_side", max(_to_32(longest), 512), "room for pictures longer than usual"),
    ]


def _region_lines(data: Fingerprint, view: View, wish: Wish, is_gpu: bool) -> list[Line]:
    _, p99, most = data.objects.in_a_picture
    detections = min(2000, max(100, 50 * math.ceil(max(1.5 * p99, most) / 50)))
    regions = int(min(max(4 * p99, 300), 2000 if is_gpu else 500))
    samples = 512 if is_gpu else 64
    lines = [
        Line("boxes.max_detections", detections, f"up to {most:.0f} objects in a picture"),
        Line("proposals.post_nms", regions, f"4 for each of {p99:.0f} objects, from 300 on"),
        Line(
            "boxes.samples_per_image",
            samples,
            "the paper's" if is_gpu else "a CPU learns more from more steps than from more regions",
        ),
    ]
    if wish.start == "detector":  # its anchors are what its RPN learnt
        return lines
    s05, _, _, _, s99 = (side * view.scale for side in data.objects.sides)
    first = min(max(2 ** round(math.log2(max(s05, 1.0))), 4), 32)
    sizes = tuple(float(first * 2**octave) for octave in range(5))
    square = data.objects.share_square
    ratios: tuple[float, ...] = (1.0,) if square >= 0.7 else (0.5, 1.0, 2.0)
    if data.objects.share_long > 0.05:
        ratios = (0.25, 0.5, 1.0, 2.0, 4.0)
    return [
        *lines,
        Line("proposals.anchor_sizes", sizes, f"objects have sides of {s05:.0f} … {s99:.0f} px in the input"),
        Line(
            "proposals.aspect_ratios",
            ratios,
            f"{square:.0%} of the boxes are within 1.5 : 1, {data.objects.share_long:.0%} beyond 3 : 1",
        ),
    ]


def _recipe(wish: Wish, is_gpu: bool) -> str | None:
    if wish.start == "detector":
        return None
    return "resnet50_fpn" if is_gpu else "resnet18_fpn"


def _network_lines(data: Fingerprint, wish: Wish, is_gpu: bool) -> list[Line]:
    lines = []
    if wish.start != "detector" and not is_gpu:
        reason = "a smaller head: a step takes a third of the time, and small data need no more"
        lines += [
            Line("pyramid.channels", 128, reason),
            Line("masks.channels", 128, reason),
            Line("boxes.hidden", 256 if wish.start == "scratch" else 512, reason),
        ]
    present = [count for count in data.classes if count]
    if wish.start != "detector" and len(present) > 1 and data.objects.count < 500 * len(present):
        reason = f"{data.objects.count} objects of {len(present)} classes: masks are learnt from all together"
        lines.append(Line("masks.coding", "class_agnostic", reason))
    return lines


def batch_goal(pictures: int, is_gpu: bool) -> int:
    """Return the pictures that a step should have: at most 5 % of those of the data set, at least 2."""
    goal = next(goal for least, goal in ((1000, 16), (200, 8), (0, 4)) if pictures >= least) if is_gpu else 4
    return min(goal, max(2, pictures // 20))


def batch_lines(pictures: int, machine: Machine, is_gpu: bool) -> list[Line]:
    """Return how the pictures of a step are computed in the memory that there is, as far as it was measured.

    Activations are recomputed only where not even 2 pictures fit without that.
    """
    goal = batch_goal(pictures, is_gpu)
    reason = f"{pictures:,} pictures need many steps rather than smooth ones"
    plain, memory, free = machine.step_memory, machine.step_memory, machine.memory
    if plain is None or memory is None or free is None:
        return [Line("step.batch_size", goal, reason)]
    lines = []
    if plain.largest(free) < min(2, goal) and machine.recomputed_memory:
        memory = machine.recomputed_memory
        lines.append(Line("step.recompute", True, f"saves memory for time: {_describe(plain, 2, free)}"))
    batch_size = min(goal, max(1, memory.largest(free)))
    reason += f"; {_describe(memory, batch_size, free)}"
    if batch_size < goal:
        short = f"memory is short for {goal} pictures at a time"
        lines.append(Line("step.accumulate", math.ceil(goal / batch_size), short))
    return [Line("step.batch_size", batch_size, reason), *lines]


def _describe(memory: StepMemory, pictures: int, free: int) -> str:
    """Say what a step of so many pictures needs, and how that is known."""
    if not memory.peaks:
        return f"a step of 1 picture runs out of {_gb(free)} of memory: lower short_sides"
    _, each = memory.line
    return (
        f"planned memory {_gb(memory.planned(pictures))} for {pictures}, {_gb(each)} of it for each of the "
        f"largest size (measured), of {_gb(memory.held + free)}"
    )


def _gb(size: int | float) -> str:
    size /= 2**30
    return f"{size:.{0 if size >= 10 else 2}f} GB"


def _step_lines(data: Fingerprint, machine: Machine, wish: Wish, is_gpu: bool) -> list[Line]:
    batch = batch_lines(data.pictures, machine, is_gpu)
    pictures = pictures_per_step(batch)
    rates = {"scratch": 0.002, "backbone": 0.0007, "detector": 0.0003}
    rate = rates[wish.start] * math.sqrt(pictures / 4)
    workers = max(1, min(4, machine.cores // 2))
    return [
        *batch,
        Line("step.precision", machine.precision, "the fastest here, by a probe"),
        Line("pictures.workers", workers, f"{machine.cores} cores"),
        Line("optimiser.algorithm", "adamw", "learns faster than SGD in a short training"),
        Line("optimiser.lr", round(rate, 6), f"from {_START[wish.start]}, for {pictures} pictures a step"),
        Line("optimiser.weight_decay", 0.01, "of adamw"),
        Line("schedule.decay", "cosine", "the rate falls to 0 at the end, wherever that is"),
    ]


_START = {"scratch": "drawn weights", "backbone": "a trained backbone", "detector": "a trained network"}


def pictures_per_step(lines: Sequence[Line]) -> int:
    """Return the pictures of a step in a plan."""
    return math.prod(line.value for line in lines if line.name in ("step.batch_size", "step.accumulate"))


def _length_lines(data: Fingerprint, lines: Sequence[Line], wish: Wish) -> list[Line]:
    if wish.minutes is not None:
        return [
            Line("length.time_limit", float(wish.minutes), "minutes, as asked for"),
            Line("length.steps", None, "the clock ends the training"),
            Line("schedule.warmup_steps", 30, "a short rise, whatever the number of steps"),
            Line("logging.eval_every", None, "at the end: an evaluation takes time of the training"),
            Line("logging.save_every", 200, "what a power failure can cost"),
        ]
    passes = _passes(data.pictures) * (3 if wish.start == "scratch" else 1)
    least = 5000 if wish.start == "scratch" else 1000
    steps = max(least, math.ceil(passes * data.pictures / pictures_per_step(lines)))
    reason = f"{passes} passes over {data.pictures:,} pictures, at least {least:,} steps"
    return [
        Line("length.steps", steps, reason),
        Line("logging.eval_every", max(1, steps // 5), "five evaluations"),
        Line("logging.save_every", 200, "what a power failure can cost"),
    ]


def _passes(pictures: int) -> int:
    """Return the passes over the data of a fine-tuning."""
    return next(
        n for limit, n in ((1000, 100), (10_000, 50), (50_000, 36), (math.inf, 12)) if pictures < limit
    )


def _augmentation_lines(data: Fingerprint, view: View, wish: Wish) -> list[Line]:
    lines = []
    s05, _, _, s95, _ = data.objects.sides
    if view.crop:
        reason = f"sizes of objects vary by {s95 / max(s05, 1):.0f}: large ones must be met in windows, too"
        lines.append(Line("augmentation.scale", (0.6, 1.6), reason))
    if not data.has_up:
        reason = "masks have all directions, and no side is brighter: upside down is as good"
        lines.append(Line("augmentation.flip_vertical", 0.5, reason))
    if data.keypoints == 0 or wish.start != "detector":
        strength = 0.3 if wish.start == "scratch" else 0.2
        lines.append(Line("augmentation.jitter", (strength,) * 3, "brightness, contrast, saturation"))
    return lines


def _to_32(side: int | float) -> int:
    return max(32, 32 * round(side / 32))
