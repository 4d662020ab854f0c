"""Networks executed by OpenVINO."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from maskrcnn.extras import import_extra
from maskrcnn.runtimes.description import KEY, read_description
from maskrcnn.runtimes.network import Arrays, ExportedNetwork


def read_openvino(path: Path, device: str = "auto", *, precision: str | None = None) -> ExportedNetwork:
    """Return the network of a file of ``maskrcnn export --format openvino``, worked by OpenVINO.

    `device` is cpu, gpu or another of OpenVINO's; auto is its own choice. `precision` is what it computes in,
    such as "f32"; None leaves that to OpenVINO. Raises ValueError as `read_onnx` does.
    """
    openvino = import_extra("openvino", "openvino")
    hints: dict[str, Any] = {"INFERENCE_NUM_THREADS": torch.get_num_threads()} if device == "cpu" else {}
    if precision is not None:
        hints["INFERENCE_PRECISION_HINT"] = precision
    core = openvino.Core()
    try:
        model = core.read_model(path)
        compiled = core.compile_model(model, device.upper(), hints)
    except RuntimeError as error:
        raise ValueError(f"{path} cannot be read by OpenVINO on the device '{device}': {error}") from error
    description = read_description(
        model.get_rt_info(KEY).astype(str) if model.has_rt_info(KEY) else None, path
    )
    names = [output.get_any_name() for output in model.outputs]

    def run(images: np.ndarray, sizes_hw: np.ndarray) -> Arrays:
        found = compiled({"images": images, "sizes_hw": sizes_hw})
        return {name: found[name].copy() for name in names}

    return ExportedNetwork(description, run)
