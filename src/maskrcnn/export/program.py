"""Writes the graph for PyTorch itself: as a program of torch.export, or compiled by AOTInductor."""

from __future__ import annotations

from pathlib import Path

import torch

from maskrcnn.export.graph import export_graph
from maskrcnn.network.model import MaskRCNN
from maskrcnn.runtimes.description import KEY, Description


def write_program(model: MaskRCNN, description: Description, path: Path) -> None:
    """Write `model`, whose norms are folded, as a program of torch.export.

    ``import maskrcnn.ops.boxes`` must come before ``torch.export.load``: it registers an operator of the
    graph.
    """
    program = export_graph(model, description.input)
    torch.export.save(program, path, extra_files={KEY: description.to_json()})


def write_package(model: MaskRCNN, description: Description, path: Path) -> None:
    """Write `model`, whose norms are folded, as native code for this kind of machine. It takes minutes.

    As for a program, ``import maskrcnn.ops.boxes`` must come before loading. Raises ValueError where PyTorch
    finds no C++ compiler.
    """
    from torch._inductor import aoti_compile_and_package  # slow to import
    from torch._inductor.exc import InvalidCxxCompiler

    metadata = {"aot_inductor.metadata": {KEY: description.to_json()}}
    program = export_graph(model, description.input)
    try:
        with torch.no_grad():
            aoti_compile_and_package(program, package_path=str(path), inductor_configs=metadata)
    except InvalidCxxCompiler as error:
        raise ValueError(
            "the format aotinductor needs a C++ compiler such as g++, and PyTorch finds none: "
            "install one, or name it in the environment variable CXX"
        ) from error
