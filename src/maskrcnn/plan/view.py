"""How large the network sees the pictures: as large as the objects need and the minutes allow."""

from __future__ import annotations

from typing import NamedTuple

from maskrcnn.plan.fingerprint import Fingerprint
from maskrcnn.plan.lines import Line, Wish
from maskrcnn.plan.machine import Machine

_SHORT_SIDES_CPU = (256, 320, 384, 448, 512)
_SHORT_SIDES_GPU = (512, 640, 800)
_SMALLEST_SIDE = 16.0  # px of the network's input that all but a tenth of the objects should have
_MANY_OBJECTS = 8  # in a picture: then windows of it are enough to learn from
_LEAST_SIDE = 256  # px, of pictures and windows that are made smaller to be seen more often
_TENTH_SIDE, _MEDIAN_SIDE = 6.0, 16.0  # px that all but a tenth, and half, of the objects keep then
_KNOWN_SIDE = 32.0  # px of the smallest objects that a trained network knows well: its anchors begin there
_LEARNING = 0.92  # share of the minutes that are steps


class View(NamedTuple):
    """How the network sees the pictures: whole ones at a short side, or windows at the file's own scale."""

    short_side: int | None  # None: windows
    scale: float  # px of the input for a px of the file
    crop: int | None  # side of the windows


def choose_view(data: Fingerprint, is_gpu: bool) -> View:
    """Return windows where pictures hold many objects or small ones, otherwise whole pictures."""
    _, s10, s50, s95, _ = data.objects.sides
    short = min(data.size_hw)
    sides = _SHORT_SIDES_GPU if is_gpu else _SHORT_SIDES_CPU
    wanted = _SMALLEST_SIDE / s10 * short
    side = next((side for side in sides if side >= min(wanted, short)), sides[-1])
    crop = to_32(min(max(4 * s95, 8 * s50, 256), 1024 if is_gpu else 384))
    has_many = data.objects.in_a_picture[0] >= _MANY_OBJECTS
    is_small = s10 * side / short < _SMALLEST_SIDE / 2
    if (has_many or is_small) and s95 < crop:
        return View(None, 1.0, crop)
    return View(side, side / short, None)


def affordable_view(view: View, data: Fingerprint, machine: Machine, wish: Wish) -> View:
    """Return the largest view with which the minutes suffice for the passes wanted, or the smallest one.

    Pictures are not made so small that objects can hardly be seen, nor windows smaller than objects. The time
    of a step is taken to be in proportion to the pixels.
    """
    _, s10, s50, s95, _ = data.objects.sides
    short = min(data.size_hw)
    median = _KNOWN_SIDE if wish.start == "detector" else _MEDIAN_SIDE
    least_scale = max(_TENTH_SIDE / s10, median / s50)
    views = [view]
    for side in range((view.crop or view.short_side or 0) // 32 * 32 - 32, _LEAST_SIDE - 1, -32):
        if view.crop and side > s95:
            views.append(view._replace(crop=side))
        elif not view.crop and side / short >= least_scale:
            views.append(View(side, side / short, None))
    return next((one for one in views if has_time(data, machine, wish, one, view)), views[-1])


def has_time(data: Fingerprint, machine: Machine, wish: Wish, view: View, measured: View) -> bool:
    """Return whether the minutes suffice for the passes wanted; machine.picture_seconds are of `measured`."""
    if wish.minutes is None or machine.picture_seconds is None:
        return True
    side, measured_side = view.crop or view.short_side or 1, measured.crop or measured.short_side or 1
    seconds = machine.picture_seconds * (side / measured_side) ** 2
    return wish.minutes * 60 * _LEARNING / (seconds * data.pictures) >= least_passes(wish.start == "scratch")


def least_passes(from_scratch: bool) -> int:
    """Return how often every picture should be seen at least, where minutes limit the training."""
    return 40 if from_scratch else 20


def view_lines(data: Fingerprint, view: View, largest: View, wish: Wish) -> list[Line]:
    """Return the settings of a view, which says why it is smaller than the `largest` one, where it is."""
    _, s10, s50, s95, _ = data.objects.sides
    sides = f"objects have sides of {s10:.0f}, {s50:.0f}, {s95:.0f} px (percentiles 10, 50, 95)"
    if view != largest:
        sides += (
            f"; {largest.crop or largest.short_side} px would suit them better, but leave {wish.minutes:g} "
            f"minutes fewer than {least_passes(wish.start == 'scratch')} passes over the pictures"
        )
    if view.crop:
        return [
            Line("pictures.short_sides", None, "the file's own scale"),
            Line("pictures.long_side", max(1333, data.longest_side), "no picture is shrunk"),
            Line(
                "augmentation.crop",
                (view.crop, view.crop),
                f"windows: {data.objects.in_a_picture[0]:.0f} objects in a picture of "
                f"{data.size_hw[0]:.0f} x {data.size_hw[1]:.0f} px; {sides}",
            ),
        ]
    assert view.short_side
    sizes = tuple(to_32(share * view.short_side) for share in (0.875, 1.0, 1.125))
    longest = view.scale * max(data.size_hw) * 1.3
    return [
        Line("pictures.short_sides", sizes, f"whole pictures: {sides}"),
        Line("pictures.test_short_side", view.short_side, "the middle one"),
        Line("pictures.long_side", max(to_32(longest), 512), "room for pictures longer than usual"),
    ]


def to_32(side: int | float) -> int:
    """Return the multiple of 32 that is nearest to a side, px; at least 32."""
    return max(32, 32 * round(side / 32))
