"""From the name of an exported file to its network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from maskrcnn.runtimes.network import ExportedNetwork
from maskrcnn.runtimes.onnx import read_onnx
from maskrcnn.runtimes.openvino import read_openvino


def _refuse(path: Path, device: str) -> NoReturn:
    raise ValueError(
        f"{path} is a file of torch.export or AOTInductor, and reading it executes code from it. If you "
        "exported it yourself, call read_program or read_package of maskrcnn.runtimes.torch_program in Python"
    )


READERS: dict[str, Callable[[Path, str], ExportedNetwork]] = {
    ".onnx": read_onnx,
    ".xml": read_openvino,
    ".pt2": _refuse,
}


def is_exported(source: str | Path) -> bool:
    """Say whether a name ends like that of an exported file."""
    return Path(source).suffix in READERS


def read_exported(path: Path, device: str = "auto") -> ExportedNetwork:
    """Return the network of an exported file, on a device of its runtime.

    Raises FileNotFoundError for a missing file, and ValueError as `read_onnx` and `read_openvino` do, and for
    files whose reading would execute code from them.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    return READERS[path.suffix](path, device)
