"""The graph as PyTorch's own exported program, or compiled from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from maskrcnn.export.graph import traced
from maskrcnn.network.model import MaskRCNN
from maskrcnn.runtimes.description import KEY, Description, read_description
from maskrcnn.runtimes.network import Arrays, ExportedNetwork


def write_program(model: MaskRCNN, description: Description, path: Path) -> None:
    """Write `model`, whose norms are folded, as an exported program; see `traced`.

    To run it, ``import maskrcnn.ops.nms`` first: it has an operator of this library.
    """
    torch.export.save(traced(model, description), path, extra_files={KEY: description.to_json()})


def read_program(path: Path) -> ExportedNetwork:
    """Return the network of a file of `write_program`, worked by PyTorch.

    PyTorch may run code that such a file holds: read only what you wrote. Raises ValueError where it is not
    one of ours.
    """
    extra = {KEY: ""}
    program = torch.export.load(path, extra_files=extra)
    module = program.module()

    def run(images: np.ndarray, sizes_hw: np.ndarray) -> Arrays:
        with torch.no_grad():
            found = module(torch.from_numpy(images), torch.from_numpy(sizes_hw))
        return {name: tensor.numpy() for name, tensor in found.items()}

    return ExportedNetwork(read_description(extra[KEY], path), run)


def write_package(model: MaskRCNN, description: Description, path: Path) -> None:
    """Write `model`, whose norms are folded, as native code for this kind of machine: by AOTInductor.

    It takes minutes. To run it, ``import maskrcnn.ops.nms`` first, as for a program. Raises ValueError where
    PyTorch finds no C++ compiler.
    """
    from torch._inductor import aoti_compile_and_package  # slow to import, and used here alone
    from torch._inductor.exc import InvalidCxxCompiler

    about = {"aot_inductor.metadata": {KEY: description.to_json()}}
    try:
        with torch.no_grad():
            aoti_compile_and_package(
                traced(model, description), package_path=str(path), inductor_configs=about
            )
    except InvalidCxxCompiler as error:
        raise ValueError(
            "the format aotinductor takes a C++ compiler, such as g++, which PyTorch does not find: "
            "install one, or name it in the environment as CXX"
        ) from error


def read_package(path: Path) -> ExportedNetwork:
    """Return the network of a file of `write_package`.

    Such a file is native code: read only what you wrote. Raises ValueError where it is not one of ours.
    """
    from torch._inductor import aoti_load_package

    package: Any = aoti_load_package(str(path))

    def run(images: np.ndarray, sizes_hw: np.ndarray) -> Arrays:
        found = package(torch.from_numpy(images), torch.from_numpy(sizes_hw))
        return {name: tensor.numpy() for name, tensor in found.items()}

    return ExportedNetwork(read_description(package.get_metadata().get(KEY), path), run)
