"""A network in a file of another runtime, and what the file says of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from importlib import import_module
from pathlib import Path
from types import GenericAlias
from typing import Any, get_args, get_origin, get_type_hints

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Int, UInt8

from maskrcnn.types import Batch, Detections

KEY = "maskrcnn"  # under which a file keeps its description

Arrays = dict[str, np.ndarray]
# From images (B, C, H, W) and their sizes (B, 2) to the outputs by name, as `export.graph.Graph` tells them.
Run = Callable[[UInt8[np.ndarray, "B C H W"], Int[np.ndarray, "B 2"]], Arrays]


@dataclass(frozen=True)
class Description:
    """What it takes to look at pictures with an exported network and to say what it sees."""

    recipe: str
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    keypoint_names: tuple[str, ...]
    skeleton: tuple[tuple[int, ...], ...]
    short_side: int | None  # of pictures, px; None: as in the file
    long_side: int
    size_hw: tuple[int, int] | None  # of the input; None: any from `least_side` on
    least_side: int
    stride: int  # divides the sides of the input
    batch: int | None  # pictures at a time; None: any number
    channels: int
    # What the graph does itself, for who wants to know: on the scale 0 … 255, in the order that it uses.
    pixel_mean: tuple[float, ...]
    pixel_std: tuple[float, ...]
    bgr: bool
    max_detections: int
    score_threshold: float

    def to_json(self) -> str:
        """Return it as text."""
        return json.dumps(asdict(self), allow_nan=False)


def described(text: str | None, path: Path) -> Description:
    """Return the description that `text` holds. Raises ValueError, naming the file, where it holds none."""
    kinds = get_type_hints(Description)
    try:
        values = json.loads(text or "")
    except ValueError as error:
        raise ValueError(
            f"{path} does not say what it finds: it was not written by maskrcnn export"
        ) from error
    names = [field.name for field in fields(Description)]
    if not isinstance(values, dict) or sorted(values) != sorted(names):
        raise ValueError(f"{path} was written by another version of maskrcnn export: export it again")
    values = {name: _tuples(values[name]) for name in names}
    for name, value in values.items():
        if not _is(value, kinds[name]):
            raise ValueError(f"{path}: {name} is {value!r:.60}")
    if not len(values["class_names"]) == len(values["category_ids"]) > 0:
        raise ValueError(f"{path}: there are not as many category ids as class names")
    return Description(**values)


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _is(value: Any, kind: Any) -> bool:
    """Whether a value of JSON is of a kind that `Description` has."""
    if isinstance(kind, GenericAlias):
        first, *rest = get_args(kind)
        fits = isinstance(value, tuple) and (rest == [...] or len(value) == 1 + len(rest))
        return fits and all(_is(item, first) for item in value)
    if get_origin(kind) is not None or not isinstance(kind, type):  # a union
        return any(_is(value, one) for one in get_args(kind))
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


@dataclass(frozen=True)
class ExportedNetwork:
    """A network that another runtime works, for a `Predictor`: `run` gives the outputs for one input."""

    description: Description
    run: Run

    @property
    def stride(self) -> int:
        """What divides the sides of the input, px."""
        return self.description.stride

    @property
    def in_channels(self) -> int:
        """Channels of a picture."""
        return self.description.channels

    @property
    def num_classes(self) -> int:
        """Classes that are told apart."""
        return len(self.description.class_names)

    def detect(self, batch: Batch) -> Detections:
        """Return the detections of uint8 pictures, as `MaskRCNN.detect` does.

        Raises ValueError for pictures that are larger than the input.
        """
        parts = [self.run(*one) for one in self.inputs(batch)]
        joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        count = len(batch.images)
        return detections({name: torch.from_numpy(array[:count]) for name, array in joined.items()})

    def inputs(self, batch: Batch) -> list[tuple[UInt8[np.ndarray, "b C h w"], Int[np.ndarray, "b 2"]]]:
        """Return what `run` takes: as many pictures as fit at a time, padded in size and number."""
        height, width = batch.images.shape[2:]
        least = self.description.least_side
        wanted = self.description.size_hw or (max(height, least), max(width, least))
        if height > wanted[0] or width > wanted[1]:
            raise ValueError(
                f"the exported network sees {wanted[0]} rows of {wanted[1]} pixels, not {height} of {width}"
            )
        at_once = self.description.batch or len(batch.images)
        missing = -len(batch.images) % at_once
        images = F.pad(batch.images, (0, wanted[1] - width, 0, wanted[0] - height, 0, 0, 0, missing))
        sizes_hw = F.pad(batch.sizes_hw, (0, 0, 0, missing), value=1)
        chunks = zip(images.contiguous().split(at_once), sizes_hw.split(at_once), strict=True)
        return [(images.numpy(), sizes_hw.numpy()) for images, sizes_hw in chunks]


def detections(outputs: Mapping[str, torch.Tensor]) -> Detections:
    """Return the outputs of an exported network as the network itself gives them."""
    slots = torch.arange(outputs["scores"].shape[1])
    return Detections(
        boxes=outputs["boxes"],
        scores=outputs["scores"],
        labels=outputs["labels"].long(),
        valid=slots < outputs["count"][:, None],
        mask_probs=outputs.get("masks"),
        keypoint_heatmaps=outputs.get("keypoint_heatmaps"),
    )


def read_onnx(path: Path, device: str = "auto") -> ExportedNetwork:
    """Return the network of a file of ``maskrcnn export --format onnx``, worked by ONNX Runtime.

    `device` is cpu, cuda or another that ONNX Runtime was built for; auto is the fastest of them. Raises
    ValueError where it has no such device, where it is not installed, and for a file that is not one of ours.
    """
    onnxruntime = imported("onnxruntime", "onnx")
    providers = onnxruntime.get_available_providers()
    if device != "auto":
        named = [provider for provider in providers if provider.lower() == f"{device}executionprovider"]
        if not named:
            raise ValueError(f"ONNX Runtime has no device '{device}' here: it has {', '.join(providers)}")
        providers = named
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # it would warn of each shape that it cannot know beforehand
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # it has no error of its own
        raise ValueError(f"{path} cannot be read as an ONNX file: {error}") from error
    description = described(session.get_modelmeta().custom_metadata_map.get(KEY), path)
    names = [output.name for output in session.get_outputs()]

    def run(images: np.ndarray, sizes_hw: np.ndarray) -> Arrays:
        return dict(zip(names, session.run(names, {"images": images, "sizes_hw": sizes_hw}), strict=True))

    return ExportedNetwork(description, run)


def read_openvino(path: Path, device: str = "auto", *, precision: str | None = None) -> ExportedNetwork:
    """Return the network of a file of ``maskrcnn export --format openvino``, worked by OpenVINO.

    `device` is cpu, gpu or another of OpenVINO's; auto is its own choice. `precision` is what it computes in,
    such as "f32"; None leaves that to OpenVINO. Raises ValueError as `read_onnx` does.
    """
    openvino = imported("openvino", "openvino")
    hints: dict[str, Any] = {"INFERENCE_NUM_THREADS": torch.get_num_threads()} if device == "cpu" else {}
    if precision is not None:
        hints["INFERENCE_PRECISION_HINT"] = precision
    core = openvino.Core()
    try:
        model = core.read_model(path)
        compiled = core.compile_model(model, device.upper(), hints)
    except RuntimeError as error:
        raise ValueError(f"{path} cannot be read by OpenVINO on the device '{device}': {error}") from error
    description = described(model.get_rt_info(KEY).astype(str) if model.has_rt_info(KEY) else None, path)
    names = [output.get_any_name() for output in model.outputs]

    def run(images: np.ndarray, sizes_hw: np.ndarray) -> Arrays:
        found = compiled({"images": images, "sizes_hw": sizes_hw})
        return {name: found[name].copy() for name in names}

    return ExportedNetwork(description, run)


def imported(name: str, extra: str) -> Any:
    """Import a module that an extra of this library brings. Raises ValueError where it is not installed."""
    try:
        return import_module(name)
    except ImportError as error:
        raise ValueError(f"this takes {name}: pip install 'maskrcnn[{extra}]' ({error})") from error


READERS: dict[str, Callable[..., ExportedNetwork]] = {".onnx": read_onnx, ".xml": read_openvino}


def is_exported(source: str | Path) -> bool:
    """Say whether a name is that of a file which `read_exported` reads."""
    return Path(source).suffix in READERS


def read_exported(path: Path, device: str = "auto") -> ExportedNetwork:
    """Return the network of an exported file, on a device of its runtime.

    Raises FileNotFoundError where there is no such file, and ValueError as the readers do.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    return READERS[path.suffix](path, device)
