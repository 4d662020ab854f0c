"""Writes a network in the file layout of this library, torchvision or Detectron2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from maskrcnn.weights.describe import format_arguments, printable
from maskrcnn.weights.files import write_state_dict
from maskrcnn.weights.layouts import DETECTRON2, TORCHVISION
from maskrcnn.weights.model_checkpoint import read_model, write_model

LAYOUTS = {"torchvision": TORCHVISION, "detectron2": DETECTRON2}


def convert(
    source: str | Path,
    output: Path,
    layout: str,
    *,
    class_names: Sequence[str] | None = None,
    options: Mapping[str, Any] | None = None,
    test_sides: tuple[int | None, int] | None = None,
) -> str:
    """Write the network of `source` in `layout` ("maskrcnn" or of `LAYOUTS`); return a summary.

    The other arguments are those of `read_model`. Reading the written file gives the same network, with equal
    weights to the bit. Raises ValueError where the other library has no such network, and as `read_model`
    does.
    """
    checkpoint = read_model(source, class_names=class_names, options=options, test_sides=test_sides)
    checkpoint.build()  # raises ValueError for weights that do not fit, which could not be read again
    if layout == "maskrcnn":
        write_model(output, checkpoint)
        return f"wrote {checkpoint.recipe} with {len(checkpoint.class_names)} classes to {output}"
    weights = LAYOUTS[layout].from_native(checkpoint.weights)
    write_state_dict(output, weights, layout, checkpoint.description())
    lines = (
        f"wrote {checkpoint.recipe} to {output} in the layout of {layout}",
        f"classes in order: {', '.join(checkpoint.class_names)}",
        f"build the network in {layout} with: {format_arguments(checkpoint.arguments) or 'its defaults'}",
    )
    return "\n".join(map(printable, lines))
