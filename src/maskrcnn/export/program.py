"""The graph as PyTorch's own exported program."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from maskrcnn.export.graph import traced
from maskrcnn.exported import KEY, Arrays, Description, ExportedNetwork, described
from maskrcnn.network.model import MaskRCNN


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

    return ExportedNetwork(described(extra[KEY], path), run)
