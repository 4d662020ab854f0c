"""The rules of a plan: from a fingerprint, a machine and a wish to ordinary settings, with a reason each.

The numbers come from published tools and from trainings in docs/log.md; each rule says in its reason what it
looked at. `plan` is a pure function: the same arguments give the same plan.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from maskrcnn.plan.fingerprint import Fingerprint
from maskrcnn.plan.lines import Line, Plan, Wish
from maskrcnn.plan.machine import Machine
from maskrcnn.plan.memory import StepMemory
from maskrcnn.plan.view import View, affordable_view, choose_view, has_time, least_passes, to_32, view_lines

SMALL_GPU = 6 << 30  # bytes, too few for a ResNet-50
_NMS = 0.5  # of the detections of a class
_PATIENCE = 10  # evaluations, as OTX and RF-DETR have it
_LONGEST_AVERAGE = 0.9999  # decay
_LEAST_JITTERED = 6.0  # px of the network's input that the smallest twentieth keeps when it is scaled down
_RARE = 10  # pictures that show a class: below it, they are repeated


def plan(data: Fingerprint, machine: Machine, wish: Wish) -> Plan:
    """Return the settings with which this machine learns most from these data in the time wished for."""
    is_gpu = machine.device.startswith("cuda")
    largest = choose_view(data, is_gpu)
    view = affordable_view(largest, data, machine, wish)
    lines = [_recipe_line(data, view, machine, wish), wish.init, *wish.kept]
    lines += [*view_lines(data, view, largest, wish), *_region_lines(data, view, wish, is_gpu)]
    lines += _network_lines(data, wish, is_gpu)
    lines += _step_lines(data, machine, wish, is_gpu)
    lines += _length_lines(data, lines, wish)
    lines += _scale_lines(data, view, _passes_of(data, lines))
    lines += [*_turn_lines(data), *_copy_paste_lines(data), *_sampling_lines(data)]
    lines += _colour_lines(data, wish)
    return Plan(tuple(lines))


def _region_lines(data: Fingerprint, view: View, wish: Wish, is_gpu: bool) -> list[Line]:
    _, p99, most = data.objects.in_a_picture
    detections = min(2000, max(100, 50 * math.ceil(max(1.5 * p99, most) / 50)))
    regions = int(min(max(4 * p99, 300), 2000 if is_gpu else 500))
    samples = 512 if is_gpu else 64
    lines = [
        Line("boxes.max_detections", detections, f"most objects in a picture: {most:.0f}; at least 100"),
        Line("proposals.post_nms", regions, f"4 for each object of a full picture: {p99:.0f}; at least 300"),
        Line(
            "boxes.samples_per_image",
            samples,
            "the paper's" if is_gpu else "a CPU learns more from more steps than from more regions",
        ),
    ]
    lines += _nms_lines(data)
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


def _nms_lines(data: Fingerprint) -> list[Line]:
    """Return a threshold that keeps both of two objects that overlap, where more than 1 % of them do."""
    overlap = data.objects.overlap
    if overlap <= _NMS:
        return []
    reason = f"1% of the objects overlap their neighbour of the same class by an IoU of {overlap:.2f} or more"
    return [Line("boxes.nms_threshold", round(min(overlap + 0.05, 0.8), 2), reason)]


def _recipe_line(data: Fingerprint, view: View, machine: Machine, wish: Wish) -> Line:
    if wish.recipe:
        return Line("recipe", wish.recipe, "fits the initial weights" if wish.init.value else "as asked for")
    if wish.start == "detector":
        return Line("recipe", None, "that of the initial weights")
    if not machine.device.startswith("cuda"):
        return Line("recipe", "resnet18_fpn", "small enough for many steps on a CPU")
    if machine.memory is not None and machine.memory < SMALL_GPU:
        return Line("recipe", "resnet18_fpn", f"small enough for {machine.memory / 2**30:.0f} GB of memory")
    if not has_time(data, machine, wish, view, choose_view(data, is_gpu=True)):
        reason = f"resnet50_fpn would make fewer than {least_passes(True)} passes in {wish.minutes:g} minutes"
        return Line("recipe", "resnet18_fpn", reason)
    return Line("recipe", "resnet50_fpn", "the usual network, on a GPU")


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
            *_safety_lines(None),
        ]
    passes = _passes(data.pictures) * (3 if wish.start == "scratch" else 1)
    least = 5000 if wish.start == "scratch" else 1000
    steps = max(least, math.ceil(passes * data.pictures / pictures_per_step(lines)))
    reason = f"{passes} passes over {data.pictures:,} pictures, at least {least:,} steps"
    evaluations = int(min(max(steps * pictures_per_step(lines) / data.pictures / 2, 5), 20))
    lines = [
        Line("length.steps", steps, reason),
        Line(
            "logging.eval_every",
            max(1, steps // evaluations),
            f"{evaluations} evaluations, which take about a twelfth of the time or less",
        ),
        Line("logging.validation_loss", True, "tells when the training pictures are learnt by heart"),
    ]
    if evaluations > _PATIENCE:
        reason = f"{_PATIENCE} evaluations without 0.1 AP, after half of the training, are enough"
        lines.append(Line("length.patience", _PATIENCE, reason))
    return [*lines, *_safety_lines(steps)]


def _safety_lines(steps: int | None) -> list[Line]:
    """Return what keeps the best of a training, of `steps` or as many as the time allows."""
    decay = _LONGEST_AVERAGE if steps is None else min(max(1 - 20 / steps, 0.99), _LONGEST_AVERAGE)
    reach = "a ninth of the steps" if steps is None else f"{1 / (1 - decay):.0f} of {steps:,} steps"
    reason = f"the average reaches back over {reach}, and is judged beside the weights"
    return [
        Line("optimiser.ema", round(decay, 4), reason),
        Line("optimiser.retries", 3, "a loss that is not finite costs the steps since the last save"),
        Line("logging.save_every", 200, "what a power failure can cost"),
    ]


def _passes(pictures: int) -> int:
    """Return the passes over the data of a fine-tuning."""
    return next(
        n for limit, n in ((1000, 100), (10_000, 50), (50_000, 36), (math.inf, 12)) if pictures < limit
    )


def _passes_of(data: Fingerprint, lines: Sequence[Line]) -> float | None:
    """Return the passes over the data; None where the clock ends the training."""
    values = {line.name: line.value for line in lines}
    steps = values["length.steps"]
    return None if steps is None else steps * pictures_per_step(lines) / data.pictures


def _scale_lines(data: Fingerprint, view: View, passes: float | None) -> list[Line]:
    """Return the random scale, and how windows are drawn from what it enlarges.

    Ghiasi et al. (2021) and Detectron2 found that 0.1 … 2 needs a hundred passes over many pictures.
    """
    s05, _, _, s95, _ = data.objects.sides
    spread = s95 / max(s05, 1)
    if view.crop:
        reason = f"sizes of objects vary by {spread:.0f}: large ones must be met in windows, too"
        return [Line("augmentation.scale", (0.6, 1.6), reason), _object_crop_line()]
    if passes is None or passes < 20 or spread > 8:
        return []  # the short sides vary by an eighth
    low = 0.1 if passes >= 50 and data.pictures >= 5000 else 0.5
    low = max(low, round(min(1.0, _LEAST_JITTERED / (view.scale * s05)), 2))
    reason = (
        f"{passes:.0f} passes over {data.pictures:,} pictures; small objects keep {_LEAST_JITTERED:.0f} px"
    )
    side = to_32(view.scale * max(data.size_hw))
    return [
        Line("augmentation.scale", (low, 2.0), reason),
        Line("augmentation.crop", (side, side), "what is enlarged takes no more time"),
        _object_crop_line(),
    ]


def _object_crop_line() -> Line:
    reason = "a third of the windows is sure to hold an object, of a class that is drawn first"
    return Line("augmentation.object_crops", 0.33, reason)


def _turn_lines(data: Fingerprint) -> list[Line]:
    if data.has_up:
        return []
    reason = "masks have all directions, and no side is brighter: {} is as good"
    return [
        Line("augmentation.flip_vertical", 0.5, reason.format("upside down")),
        Line("augmentation.quarter_turns", 0.5, reason.format("a quarter turn")),
    ]


def _copy_paste_lines(data: Fingerprint) -> list[Line]:
    """Return copy-paste where there is enough to paste, room for it, and not plenty of pictures anyway."""
    is_scarce = data.pictures < 20_000 or _least_shown(data) < 0.01 * data.pictures
    if data.objects.whole < 20 or data.objects.cover > 0.5 or not is_scarce:
        return []
    reason = (
        f"{data.objects.whole:,} whole masks of one class to paste; "
        f"objects cover {data.objects.cover:.0%} of a picture"
    )
    return [Line("augmentation.copy_paste", 0.5, reason)]


def _sampling_lines(data: Fingerprint) -> list[Line]:
    threshold = min(1.0, max(0.001, _RARE / data.pictures))
    if (least := _least_shown(data)) >= threshold * data.pictures:
        return []
    factor = min(10.0, math.sqrt(threshold * data.pictures / least))
    reason = f"a class is in {least} of {data.pictures:,} pictures: they come {factor:.1f} times as often"
    return [Line("pictures.repeat_threshold", round(threshold, 6), reason)]


def _least_shown(data: Fingerprint) -> int:
    """Return the pictures of the rarest class that there is."""
    return min(count for count in data.class_pictures if count)


def _colour_lines(data: Fingerprint, wish: Wish) -> list[Line]:
    if data.keypoints and wish.start == "detector":
        return []
    strength = 0.3 if wish.start == "scratch" else 0.2
    return [Line("augmentation.jitter", (strength,) * 3, "brightness, contrast, saturation")]
