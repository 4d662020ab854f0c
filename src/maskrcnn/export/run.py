"""The command ``maskrcnn export``: reads a network, writes it, checks the file, keeps it if it is right."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from maskrcnn.data.pictures import read_picture
from maskrcnn.data.synthetic import synthetic_picture
from maskrcnn.evaluation.coco import Metrics
from maskrcnn.export.check import HALF, SINGLE, Difference, check_cases, compare
from maskrcnn.export.graph import DYNAMIC, InputShape, input_format, to_half
from maskrcnn.export.onnx import write_onnx
from maskrcnn.export.openvino import quantize_int8, read_calibration, write_openvino
from maskrcnn.export.program import write_package, write_program
from maskrcnn.fast.fold_norms import fold_norms
from maskrcnn.network.model import MaskRCNN
from maskrcnn.runtimes.description import Description
from maskrcnn.runtimes.network import ExportedNetwork
from maskrcnn.runtimes.onnx import read_onnx
from maskrcnn.runtimes.openvino import read_openvino
from maskrcnn.runtimes.torch_program import read_package, read_program
from maskrcnn.weights.model_checkpoint import ModelCheckpoint, read_model


class Format(NamedTuple):
    """A file format: the suffix of its files, its writer and its reader."""

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
    """The file that was written, and how it compares with the original network."""

    path: Path
    differences: list[Difference]
    metrics: dict[str, Metrics]  # of "float" and "int8", where data with annotations was given


def export(
    source: str | Path,
    format: str = "onnx",
    *,
    shape: InputShape = DYNAMIC,
    half: bool = False,
    int8: Path | None = None,
    picture: Path | None = None,
    output: Path | None = None,
) -> Exported:
    """Write the network of `source` (see `read_model`) for another runtime.

    With `half` the layers compute in half precision. With `int8`, for OpenVINO, they compute in int8: it
    names pictures for the calibration, a folder or a data set, whose annotations also evaluate the network
    before and after. `output` is by default `source` with the suffix of the format.

    The file is checked before it is kept: it must detect what the original detects in `picture` (by default
    a synthetic one) and in further inputs, see `check_cases`. Raises ValueError, and leaves no file, where it
    does not; for a format or a shape that is not possible; and as `read_model` does.
    """
    if format not in FORMATS:
        raise ValueError(f"there is no format '{format}'; expected one of {', '.join(FORMATS)}")
    if int8 is not None and format != "openvino":
        raise ValueError(f"int8 is supported only in the format openvino, not in {format}")
    suffix, write, read = FORMATS[format]
    path = output or _beside(source, suffix)
    if path.suffix != suffix:
        raise ValueError(f"a file of the format {format} must end in {suffix}, not be named {path}")
    calibration = None if int8 is None else read_calibration(int8)
    checkpoint = read_model(source)
    model = fold_norms(checkpoint.build())
    assert isinstance(model, MaskRCNN)
    description = describe(checkpoint, model, shape)
    example = read_picture(picture, model.in_channels) if picture else synthetic_example(model.in_channels)
    cases = check_cases(description, example)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _written_whole(path) as unfinished:
        write(to_half(model) if half else model, description, unfinished)
        exported = read(unfinished)
        tolerance = HALF if half else SINGLE
        differences = compare(model.detect, exported.detect, cases, description, tolerance)
        metrics = quantize_int8(unfinished, exported, calibration) if calibration else {}
        del exported  # Windows does not rename a file that is open
    return Exported(path, differences, metrics)


def _beside(source: str | Path, suffix: str) -> Path:
    """Return the file of this suffix beside `source`, or in the working folder for a published name."""
    path = Path(source)
    return (path if path.exists() else Path(path.name)).with_suffix(suffix)


def describe(checkpoint: ModelCheckpoint, model: MaskRCNN, shape: InputShape = DYNAMIC) -> Description:
    """Return the description of `model`, the network of `checkpoint`. Raises as `input_format` does."""
    boxes = checkpoint.options.boxes
    return Description(
        recipe=checkpoint.recipe,
        metadata=checkpoint.metadata,
        input=input_format(model, shape),
        short_side=checkpoint.short_side,
        long_side=checkpoint.long_side,
        white=checkpoint.white,
        max_detections=boxes.max_detections,
        score_threshold=boxes.score_threshold,
    )


def synthetic_example(channels: int) -> UInt8[Tensor, "C 480 480"]:
    """Return a synthetic picture of random shapes, the same at each call."""
    picture, _ = synthetic_picture(480, np.random.default_rng(0))
    image = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
    return image[torch.arange(channels) % 3]


@contextmanager
def _written_whole(path: Path) -> Iterator[Path]:
    """Yield a path of the same name in a temporary folder, whose files are moved beside `path` at the end.

    Where an exception ends the block, nothing is moved.
    """
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        yield Path(folder) / path.name
        for file in sorted(Path(folder).iterdir()):
            file.replace(path.parent / file.name)
