"""Exported networks in ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from maskrcnn.extras import import_extra
from maskrcnn.runtimes.description import KEY, read_description
from maskrcnn.runtimes.network import Arrays, ExportedNetwork

_ERRORS_ONLY = 3  # of ONNX Runtime's log levels; below, it warns of each shape that it cannot infer


def read_onnx(path: Path, device: str = "auto") -> ExportedNetwork:
    """Return the network in a file of ``maskrcnn export --format onnx``, executed by ONNX Runtime.

    `device` is cpu, cuda or another execution provider of this build of ONNX Runtime; auto is its preferred
    one. Raises ValueError for a device that it does not have, where it is not installed, for a file that it
    cannot read, and as `read_description` does.
    """
    onnxruntime = import_extra("onnxruntime", "onnx")
    providers = _providers(onnxruntime.get_available_providers(), device)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = _ERRORS_ONLY
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # it has no exception class of its own
        raise ValueError(f"ONNX Runtime cannot read {path}: {error}") from error
    description = read_description(session.get_modelmeta().custom_metadata_map.get(KEY), path)
    names = [output.name for output in session.get_outputs()]

    def run(images: np.ndarray, sizes_hw: np.ndarray) -> Arrays:
        outputs = session.run(names, {"images": images, "sizes_hw": sizes_hw})
        return dict(zip(names, outputs, strict=True))

    return ExportedNetwork(description, run)


def _providers(available: list[str], device: str) -> list[str]:
    """Return ONNX Runtime's execution providers for a device, in order of preference."""
    if device == "auto":
        return available
    chosen = [provider for provider in available if provider.lower() == f"{device}executionprovider"]
    if not chosen:
        devices = ", ".join(name.removesuffix("ExecutionProvider").lower() for name in available)
        raise ValueError(f"ONNX Runtime has no device '{device}' here; it has {devices}, or auto")
    return chosen
