"""Networks executed by ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from maskrcnn.extras import import_extra
from maskrcnn.runtimes.description import KEY, read_description
from maskrcnn.runtimes.network import Arrays, ExportedNetwork


def read_onnx(path: Path, device: str = "auto") -> ExportedNetwork:
    """Return the network of a file of ``maskrcnn export --format onnx``, worked by ONNX Runtime.

    `device` is cpu, cuda or another that ONNX Runtime was built for; auto is the fastest of them. Raises
    ValueError where it has no such device, where it is not installed, and for a file that is not one of ours.
    """
    onnxruntime = import_extra("onnxruntime", "onnx")
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
    description = read_description(session.get_modelmeta().custom_metadata_map.get(KEY), path)
    names = [output.name for output in session.get_outputs()]

    def run(images: np.ndarray, sizes_hw: np.ndarray) -> Arrays:
        return dict(zip(names, session.run(names, {"images": images, "sizes_hw": sizes_hw}), strict=True))

    return ExportedNetwork(description, run)
