"""The command ``maskrcnn export``: read a network, write it, check what was written, keep it if right."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from maskrcnn.data.pictures import read_picture
from maskrcnn.data.synthetic import synthetic_picture
from maskrcnn.evaluation.coco import Metrics
from maskrcnn.export.check import HALF, SINGLE, Figures, cases, compared
from maskrcnn.export.graph import half as in_half
from maskrcnn.export.graph import least_side
from maskrcnn.export.onnx import write_onnx
from maskrcnn.export.openvino import in_int8, write_openvino
from maskrcnn.export.program import read_package, read_program, write_package, write_program
from maskrcnn.fast.fold_norms import fold_norms
from maskrcnn.network.model import MaskRCNN
from maskrcnn.runtimes.description import Description
from maskrcnn.runtimes.network import ExportedNetwork
from maskrcnn.runtimes.onnx import read_onnx
from maskrcnn.runtimes.openvino import read_openvino
from maskrcnn.weights.model_checkpoint import ModelCheckpoint, read_model


class Format(NamedTuple):
    """A kind of file: how its name ends, who writes it and who reads it."""

    suffix: str
    write: Callable[[MaskRCNN, Description, Path], None]
    read: Callable[[Path], ExportedNetwork]


FORMATS = {
    "onnx": Format(".onnx", write_onnx, read_onnx),
    "openvino": Format(".xml", write_openvino, partial(read_openvino, precision="f32")),
    "torch": Format(".pt2", write_program, read_program),
    "aotinductor": Format(".pt2", write_package, read_package),
}


class Exported(NamedTuple):
    """What was written, how far it is from the network it was made of, and how right both are, if judged."""

    path: Path
    figures: list[Figures]
    metrics: dict[str, Metrics]  # of "float" and "int8"


def export(
    source: str | Path,
    format: str = "onnx",
    *,
    size_hw: tuple[int, int] | None = None,
    batch: int | None = None,
    half: bool = False,
    int8: Path | None = None,
    picture: Path | None = None,
    output: Path | None = None,
) -> Exported:
    """Write the network of `source` (see `read_model`) for another runtime.

    `size_hw` and `batch` are those of the input, None for any. With `half` the layers compute in half
    precision. What was written looks at `picture`, else at one that is drawn, at a blank one, at an odd size
    and at three pictures, as far as its input allows. Raises ValueError, and leaves no file, where it does
    not find what the network finds; for an input that cannot be; and as `read_model` does.

    `int8` names pictures, a folder or a data set, to quantise an OpenVINO file on, after its float form was
    checked; where it is a data set with annotations, both are judged by them.
    """
    if int8 is not None and format != "openvino":
        raise ValueError(f"only the format openvino is quantised, not {format}")
    if format not in FORMATS:
        raise ValueError(f"there is no format '{format}': there are {', '.join(FORMATS)}")
    trained = read_model(source)
    model = fold_norms(trained.build())
    assert isinstance(model, MaskRCNN)
    description = describe(trained, model, size_hw, batch)
    suffix, write, read = FORMATS[format]
    given = Path(source)
    path = output or (given if given.exists() else Path(given.name)).with_suffix(suffix)
    if path.suffix != suffix:
        raise ValueError(f"a file of the format {format} ends in {suffix}, not as {path}")
    path.parent.mkdir(parents=True, exist_ok=True)
    shown = cases(
        description, read_picture(picture, model.in_channels) if picture else drawn(model.in_channels)
    )
    with _in_place_of(path) as unfinished:
        write(in_half(model) if half else model, description, unfinished)
        found = read(unfinished)
        figures = compared(model.detect, found.detect, shown, description, HALF if half else SINGLE)
        metrics = in_int8(unfinished, found, int8) if int8 else {}
        del found  # or its file could not be moved on Windows
    return Exported(path, figures, metrics)


def describe(
    trained: ModelCheckpoint, model: MaskRCNN, size_hw: tuple[int, int] | None, batch: int | None
) -> Description:
    """Return what a file is to say of itself. Raises ValueError for an input that the network cannot have."""
    if size_hw is not None and any(side < 1 or side % model.stride for side in size_hw):
        raise ValueError(
            f"the sides of this network's input are multiples of {model.stride} px, "
            f"not {size_hw[0]}x{size_hw[1]}"
        )
    if batch is not None and batch < 1:
        raise ValueError(f"an input holds at least 1 picture, not {batch}")
    return Description(
        recipe=trained.recipe,
        class_names=trained.class_names,
        category_ids=trained.category_ids,
        keypoint_names=trained.keypoint_names,
        skeleton=trained.skeleton,
        short_side=trained.short_side,
        long_side=trained.long_side,
        size_hw=size_hw,
        least_side=least_side(model),
        stride=model.stride,
        batch=batch,
        channels=model.in_channels,
        pixel_mean=tuple(model.normalise.mean.flatten().tolist()),
        pixel_std=tuple(model.normalise.std.flatten().tolist()),
        bgr=model.normalise.bgr,
        max_detections=trained.options.boxes.max_detections,
        score_threshold=trained.options.boxes.score_threshold,
    )


def drawn(channels: int) -> Tensor:
    """Return a picture of shapes."""
    picture, _ = synthetic_picture(480, np.random.default_rng(0))
    image = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
    return image[torch.arange(channels) % 3]


@contextmanager
def _in_place_of(path: Path) -> Iterator[Path]:
    """Give a path of the same name in a folder beside; what was written there takes its place at the end."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        yield Path(folder) / path.name
        for file in sorted(Path(folder).iterdir()):
            file.replace(path.parent / file.name)
