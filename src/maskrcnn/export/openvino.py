"""The graph as an OpenVINO file, in floats or quantised to whole numbers on the user's pictures."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from maskrcnn.export.onnx import write_onnx
from maskrcnn.exported import KEY, Arrays, Description
from maskrcnn.network.model import MaskRCNN


def write_openvino(model: MaskRCNN, description: Description, path: Path) -> None:
    """Write `model`, whose norms are folded, as ``.xml`` and, beside it, ``.bin``, by way of ONNX.

    Raises ValueError where OpenVINO is not installed, and as `write_onnx` does.
    """
    openvino = _imported("openvino", "openvino")
    with tempfile.TemporaryDirectory() as folder:
        onnx = Path(folder) / "model.onnx"
        write_onnx(model, description, onnx)
        converted = openvino.convert_model(onnx)
        converted.set_rt_info(description.to_json(), KEY)
        openvino.save_model(converted, path, compress_to_fp16=False)


def quantise(path: Path, inputs: Iterable[Arrays], output: Path) -> None:
    """Write the network of `path` with layers that compute in int8, their ranges taken from `inputs`.

    Convolutions and linear layers are quantised, boxes and scores are computed in floats as before. Raises
    ValueError where NNCF, which does it, is not installed.
    """
    openvino, nncf = _imported("openvino", "openvino"), _imported("nncf", "nncf")
    model = openvino.Core().read_model(path)
    text = model.get_rt_info(KEY).astype(str)
    quantised = nncf.quantize(
        model, nncf.Dataset(list(inputs)), preset=nncf.QuantizationPreset.MIXED, subset_size=10**6
    )
    quantised.set_rt_info(text, KEY)
    openvino.save_model(quantised, output, compress_to_fp16=False)


def _imported(name: str, package: str) -> Any:
    from importlib import import_module

    try:
        return import_module(name)
    except ImportError as error:
        raise ValueError(f"this takes {package}: pip install 'maskrcnn[openvino]' ({error})") from error
