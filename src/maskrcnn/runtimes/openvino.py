"""Exported networks in OpenVINO."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from maskrcnn.extras import import_extra
from maskrcnn.runtimes.description import KEY, read_description
from maskrcnn.runtimes.network import Arrays, ExportedNetwork


def read_openvino(path: Path, device: str = "auto", *, precision: str | None = None) -> ExportedNetwork:
    """Return the network in a file of ``maskrcnn export --format openvino``, executed by OpenVINO.

    `device` is cpu, gpu or another device of OpenVINO; with auto, OpenVINO chooses. `precision` is that of
    the arithmetic, such as "f32"; with None, OpenVINO chooses. Raises ValueError where OpenVINO is not
    installed, for a file that it cannot read or compile for the device, and as `read_description` does.
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
        raise ValueError(f"OpenVINO cannot read {path} for the device '{device}': {error}") from error
    text = model.get_rt_info(KEY).astype(str) if model.has_rt_info(KEY) else None
    description = read_description(text, path)
    names = [output.get_any_name() for output in model.outputs]

    def run(images: np.ndarray, sizes_hw: np.ndarray) -> Arrays:
        outputs = compiled({"images": images, "sizes_hw": sizes_hw})
        return {name: outputs[name].copy() for name in names}

    return ExportedNetwork(description, run)
