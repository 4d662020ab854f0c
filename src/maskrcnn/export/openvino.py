"""Writes the graph for OpenVINO, in floats or quantized to int8 on the user's pictures."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from maskrcnn.data.dataset import Dataset
from maskrcnn.data.folder import read_split
from maskrcnn.data.loader import picture_batches
from maskrcnn.data.picture_files import find_pictures
from maskrcnn.evaluation.coco import Metrics
from maskrcnn.evaluation.run import evaluate
from maskrcnn.export.onnx import write_onnx
from maskrcnn.extras import import_extra
from maskrcnn.network.model import MaskRCNN
from maskrcnn.predict.predictor import Predictor
from maskrcnn.runtimes.description import KEY, Description
from maskrcnn.runtimes.network import ExportedNetwork
from maskrcnn.runtimes.openvino import read_openvino
from maskrcnn.types import Batch

_MAX_CALIBRATION = 300  # pictures; NNCF's own default


def write_openvino(model: MaskRCNN, description: Description, path: Path) -> None:
    """Write `model`, whose norms are folded, as an ``.xml`` with a ``.bin`` beside it, through ONNX.

    Raises ValueError where OpenVINO is not installed, and as `write_onnx` does.
    """
    openvino = import_extra("openvino", "openvino")
    with tempfile.TemporaryDirectory() as folder:
        onnx = Path(folder) / "model.onnx"
        write_onnx(model, description, onnx)
        converted = openvino.Core().read_model(onnx)
        converted.set_rt_info(description.to_json(), KEY)
        openvino.save_model(converted, path, compress_to_fp16=False)


class Calibration(NamedTuple):
    """Data for a quantization: pictures to measure the activations on, annotations for an evaluation."""

    pictures: Sequence[Path]
    evaluated_on: Dataset | None


def read_calibration(data: Path) -> Calibration:
    """Return at most 300 pictures of `data`, a data set or a folder, and the split to evaluate on.

    Of a data set, the pictures are from the training split, the evaluation is on the validation split; where
    it has only one, both are from this one. Raises ValueError where NNCF is not installed, and as
    `read_split` and `find_pictures` do.
    """
    import_extra("nncf", "openvino")
    splits = list(_splits(data))
    if splits:
        return Calibration(splits[0].paths[:_MAX_CALIBRATION], splits[-1])
    return Calibration(find_pictures([data])[:_MAX_CALIBRATION], None)


def _splits(data: Path) -> Iterator[Dataset]:
    for split in ("train", "val"):
        with suppress(FileNotFoundError):
            yield read_split(data, split)


def quantize_int8(path: Path, network: ExportedNetwork, calibration: Calibration) -> dict[str, Metrics]:
    """Replace the file `path` of `network` by one whose layers compute in int8.

    Returns the metrics of "float", the network before, and "int8", after; none without annotations. Raises
    ValueError for a picture that cannot be read, and as `evaluate` does.
    """
    openvino, nncf = import_extra("openvino", "openvino"), import_extra("nncf", "openvino")
    dataset = calibration.evaluated_on
    metrics = {"float": _evaluated(network, dataset)} if dataset else {}
    inputs = _calibration_inputs(network, calibration.pictures)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the scores of empty slots overflow its statistics
        quantized = nncf.quantize(
            openvino.Core().read_model(path),
            nncf.Dataset(inputs),
            preset=nncf.QuantizationPreset.MIXED,  # symmetric for weights, asymmetric for activations
            subset_size=len(inputs),
        )
    quantized.set_rt_info(network.description.to_json(), KEY)
    unfinished = path.with_name("int8.xml")  # the weights of `path` are still being read
    openvino.save_model(quantized, unfinished, compress_to_fp16=False)
    for suffix in (".xml", ".bin"):
        unfinished.with_suffix(suffix).replace(path.with_suffix(suffix))
    if dataset:
        metrics["int8"] = _evaluated(read_openvino(path), dataset)
    return metrics


def _calibration_inputs(network: ExportedNetwork, pictures: Sequence[Path]) -> list[dict[str, Any]]:
    return [
        {"images": images, "sizes_hw": sizes_hw}
        for batch in _batches(Predictor.from_exported(network), pictures)
        for images, sizes_hw in network.split_inputs(batch)
    ]


def _batches(predictor: Predictor, pictures: Sequence[Path]) -> Iterator[Batch]:
    """Yield the pictures one by one, resized and padded. Raises ValueError for one that cannot be read."""
    network = predictor.model
    batches = picture_batches(
        pictures,
        predictor.resize,
        batch_size=1,
        stride=network.stride,
        workers=0,
        channels=network.in_channels,
        white=predictor.white,
    )
    for batch in batches:
        if batch.batch is None:
            raise ValueError(f"cannot calibrate int8: {batch.errors[0].message}")
        yield batch.batch


def _evaluated(network: ExportedNetwork, dataset: Dataset) -> Metrics:
    max_detections = network.description.max_detections
    return evaluate(Predictor.from_exported(network), dataset, max_detections=max_detections).metrics
