"""Read an exported network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from maskrcnn.runtimes.network import ExportedNetwork
from maskrcnn.runtimes.onnx import read_onnx
from maskrcnn.runtimes.openvino import read_openvino

READERS: dict[str, Callable[..., ExportedNetwork]] = {".onnx": read_onnx, ".xml": read_openvino}


def is_exported(source: str | Path) -> bool:
    """Say whether a name is that of a file which `read_exported` reads."""
    return Path(source).suffix in READERS


def read_exported(path: Path, device: str = "auto") -> ExportedNetwork:
    """Return the network of an exported file, on a device of its runtime.

    Raises FileNotFoundError where there is no such file, and ValueError as the readers do.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    return READERS[path.suffix](path, device)
