"""The graph as an OpenVINO file, in floats or quantised to whole numbers on the user's pictures."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from maskrcnn.data.folder import find_split
from maskrcnn.data.loader import picture_batches
from maskrcnn.data.pictures import find_pictures
from maskrcnn.data.readers.coco import CocoDataset
from maskrcnn.evaluation.coco import Metrics, evaluate
from maskrcnn.export.onnx import write_onnx
from maskrcnn.extras import import_extra
from maskrcnn.network.model import MaskRCNN
from maskrcnn.predict.predictor import Predictor
from maskrcnn.runtimes.description import KEY, Description
from maskrcnn.runtimes.network import ExportedNetwork
from maskrcnn.runtimes.openvino import read_openvino
from maskrcnn.types import Batch

_SHOWN = 300  # pictures at most


def write_openvino(model: MaskRCNN, description: Description, path: Path) -> None:
    """Write `model`, whose norms are folded, as ``.xml`` and, beside it, ``.bin``, by way of ONNX.

    Raises ValueError where OpenVINO is not installed, and as `write_onnx` does.
    """
    openvino = import_extra("openvino", "openvino")
    with tempfile.TemporaryDirectory() as folder:
        onnx = Path(folder) / "model.onnx"
        write_onnx(model, description, onnx)
        converted = openvino.Core().read_model(onnx)
        converted.set_rt_info(description.to_json(), KEY)
        openvino.save_model(converted, path, compress_to_fp16=False)


def in_int8(path: Path, network: ExportedNetwork, data: Path) -> dict[str, Metrics]:
    """Replace the file by one whose layers compute in int8, and judge both where `data` has annotations.

    The ranges of the layers' inputs are taken from at most 300 pictures: of the data set's training split, or
    of its other one, or of the folder. Raises ValueError where NNCF, which quantises, is not installed, and
    as reading pictures and data does.
    """
    openvino, nncf = import_extra("openvino", "openvino"), import_extra("nncf", "openvino")
    splits = list(_splits(data))
    pictures = splits[0].paths if splits else find_pictures([data])
    float_predictor = Predictor.from_exported(network)
    inputs = [
        {"images": images, "sizes_hw": sizes_hw}
        for batch in _batches(float_predictor, pictures[:_SHOWN])
        for images, sizes_hw in network.inputs(batch)
    ]
    metrics = {"float": _judged(float_predictor, splits[-1])} if splits else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # what marks empty slots overflows its statistics
        quantised = nncf.quantize(
            openvino.Core().read_model(path),
            nncf.Dataset(inputs),
            preset=nncf.QuantizationPreset.MIXED,  # scales symmetric for weights, shifted for what flows
            subset_size=len(inputs),
        )
    quantised.set_rt_info(network.description.to_json(), KEY)
    beside = path.with_name("int8.xml")
    openvino.save_model(quantised, beside, compress_to_fp16=False)  # not over weights that are being read
    for suffix in (".xml", ".bin"):
        beside.with_suffix(suffix).replace(path.with_suffix(suffix))
    if splits:
        metrics["int8"] = _judged(Predictor.from_exported(read_openvino(path)), splits[-1])
    return metrics


def _splits(data: Path) -> Iterator[CocoDataset]:
    for split in ("train", "val"):
        with suppress(FileNotFoundError):
            yield CocoDataset(*find_split(data, split))


def _batches(predictor: Predictor, pictures: Sequence[Path]) -> Iterator[Batch]:
    """Yield the pictures one by one, as the network sees them."""
    network = predictor.model
    read = picture_batches(
        pictures,
        predictor.resize,
        batch_size=1,
        stride=network.stride,
        workers=0,
        channels=network.in_channels,
    )
    for batch in read:
        if batch.batch is None:
            raise ValueError(f"cannot quantise on {batch.failures[0][1]}")
        yield batch.batch


def _judged(predictor: Predictor, dataset: CocoDataset) -> Metrics:
    assert isinstance(predictor.model, ExportedNetwork)
    return evaluate(predictor, dataset, max_detections=predictor.model.description.max_detections)
