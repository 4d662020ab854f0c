"""Exported networks that PyTorch itself executes: programs of torch.export, packages of AOTInductor.

Security: reading such a file executes code from it (pickled objects of a program, native code of a package).
Read only files that you exported yourself. `read_exported`, and with it the command line, refuses them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import maskrcnn.ops.boxes  # noqa: F401  (registers the operator that the graphs call)
from maskrcnn.runtimes.description import KEY, read_description
from maskrcnn.runtimes.network import Arrays, ExportedNetwork, Run


def read_program(path: Path) -> ExportedNetwork:
    """Return the network in a file of ``maskrcnn export --format torch``. This executes code from the file.

    Raises ValueError for a file that PyTorch cannot read, and as `read_description` does.
    """
    extra = {KEY: ""}
    try:
        module = torch.export.load(path, extra_files=extra).module()
    except Exception as error:  # a damaged file can raise anything
        raise ValueError(f"PyTorch cannot read {path} as a program of torch.export: {error}") from error
    return ExportedNetwork(read_description(extra[KEY], path), _on_arrays(module))


def read_package(path: Path) -> ExportedNetwork:
    """Return the network in a file of ``maskrcnn export --format aotinductor``. This executes code from it.

    Raises ValueError for a file that PyTorch cannot read, and as `read_description` does.
    """
    from torch._inductor import aoti_load_package  # slow to import

    try:
        package: Any = aoti_load_package(str(path))
    except Exception as error:  # a damaged file can raise anything
        raise ValueError(f"PyTorch cannot read {path} as a package of AOTInductor: {error}") from error
    return ExportedNetwork(read_description(package.get_metadata().get(KEY), path), _on_arrays(package))


def _on_arrays(module: Callable[..., dict[str, torch.Tensor]]) -> Run:
    def run(images: np.ndarray, sizes_hw: np.ndarray) -> Arrays:
        with torch.no_grad():
            outputs = module(torch.from_numpy(images), torch.from_numpy(sizes_hw))
        return {name: tensor.numpy() for name, tensor in outputs.items()}

    return run
