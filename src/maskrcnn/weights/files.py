"""Weight files: read safely, whoever wrote them, and written for other libraries."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maskrcnn.files import replacing
from maskrcnn.weights.pickles import read_pickle
from maskrcnn.weights.torch_files import LEGACY_MAGIC, ZIP_MAGIC, load_torch

MAX_DEPTH = 64  # of dictionaries, lists and tuples inside one another
MAX_VALUES = 1_000_000  # in a file, each as often as it is referred to
_WRAPPERS = ("model", "state_dict", "blobs")
_DESCRIPTION = "maskrcnn"  # key of this library's description of the network in other libraries' files


def read_checkpoint(path: str | Path) -> Any:
    """Return the content of a file of ``torch.save``, or of a pickle of numpy arrays.

    Nothing in the file is executed. Raises FileNotFoundError where there is no such file, and ValueError,
    naming the file, where it cannot be read, is damaged, or asks for more than tensors and plain values.
    """
    path = Path(path)
    try:
        if not path.exists():
            raise FileNotFoundError(f"no weights file at {path}")
        if not path.is_file():
            raise FileNotFoundError(f"no weights file at {path}: it is a folder or a device")
        with path.open("rb") as file:
            beginning = file.read(len(LEGACY_MAGIC))
        if not beginning:
            raise ValueError(f"{path} is empty")
        is_torch = beginning.startswith(ZIP_MAGIC) or beginning == LEGACY_MAGIC
        content = load_torch(path) if is_torch else _load_pickle(path)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from error
    try:
        _measure(content, {})
    except ValueError as error:
        raise ValueError(f"{path} is refused: {error}") from error
    return content


def _load_pickle(path: Path) -> Any:
    with path.open("rb") as file:
        try:
            return read_pickle(file, path.stat().st_size)
        except ValueError as error:
            raise ValueError(f"{path} is refused: {error}") from error


def _measure(value: Any, measured: dict[int, tuple[int, int]], depth: int = 0) -> tuple[int, int]:
    """Return how many values `value` holds and how deep they are nested.

    Values referred to many times count many times, and long ones more: code that walks through the content,
    or prints it, takes time in proportion. `measured` has the result of each container by its id. Raises
    ValueError for too many or too deep, which includes a container that holds itself.
    """
    if isinstance(value, (str, bytes, bytearray)):
        return 1 + len(value) // 64, 0
    if not isinstance(value, (dict, list, tuple)):
        return 1 + value.bit_length() // 64 if isinstance(value, int) else 1, 0
    if id(value) not in measured:
        too_deep = f"its values are nested more than {MAX_DEPTH} deep"
        if depth == MAX_DEPTH:
            raise ValueError(too_deep)
        children = [*value.keys(), *value.values()] if isinstance(value, dict) else value
        parts = [_measure(child, measured, depth + 1) for child in children]
        count = 1 + sum(part for part, _ in parts)
        height = 1 + max((part for _, part in parts), default=0)
        if count > MAX_VALUES:
            raise ValueError(f"it unfolds to more than {MAX_VALUES:,} values")
        if height > MAX_DEPTH:
            raise ValueError(too_deep)
        measured[id(value)] = count, height
    return measured[id(value)]


def extract_state_dict(content: Any) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint's content, which may be under "model", "state_dict" or "blobs".

    Raises ValueError where the content is not a dictionary of tensors by name.
    """
    for wrapper in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not content:
        kind = "an empty one" if isinstance(content, dict) else f"a value of type {type(content).__name__}"
        raise ValueError(f"expected a dictionary of tensors, but the file holds {kind}")
    return checked_tensors(content)


def checked_tensors(values: Mapping[Any, Any]) -> dict[str, Tensor]:
    """Return tensors and numpy arrays by name as tensors. Raises ValueError for anything else."""
    tensors = {}
    for name, value in values.items():
        if not isinstance(name, str):
            raise ValueError(
                f"expected text as the name of a tensor, but one is of type {type(name).__name__}"
            )
        tensor = torch.from_numpy(value) if isinstance(value, np.ndarray) else value
        if not isinstance(tensor, Tensor):
            raise ValueError(f"expected a tensor at {name[:100]!r}, but it is of type {type(value).__name__}")
        if not _is_plain(tensor):
            raise ValueError(f"the tensor at {name[:100]!r} is not a dense one that the file holds in full")
        tensors[name] = tensor.detach()
    return tensors


def extract_description(content: Any) -> dict[str, Any] | None:
    """Return the description that `write_state_dict` put into a checkpoint's content, or None."""
    if not isinstance(content, dict):
        return None
    metadata = getattr(content, "_metadata", {})
    candidates = (content.get(_DESCRIPTION), isinstance(metadata, dict) and metadata.get(_DESCRIPTION))
    return next((value for value in candidates if isinstance(value, dict) and value), None)


def write_state_dict(
    path: Path, tensors: Mapping[str, Tensor], library: str, description: Mapping[str, Any]
) -> None:
    """Write tensors in the file format of `library`; the file appears whole or not at all.

    Detectron2's ``.pkl`` holds numpy arrays under "model"; other suffixes are torch's. `description` goes
    where the library does not look, and `extract_description` returns it. Raises ValueError for a ``.pkl`` of
    a library other than Detectron2, which could not read it.
    """
    if path.suffix == ".pkl" and library != "detectron2":
        raise ValueError(f"{path}: only Detectron2 reads .pkl files; choose a name that ends in .pth")
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as unfinished:
        if path.suffix == ".pkl":
            arrays = {name: tensor.cpu().numpy() for name, tensor in tensors.items()}
            unfinished.write_bytes(pickle.dumps(_detectron2_content(arrays, description), protocol=2))
        elif library == "detectron2":
            torch.save(_detectron2_content(tensors, description), unfinished)
        else:
            weights = OrderedDict(tensors)
            weights._metadata = {_DESCRIPTION: dict(description)}  # type: ignore[attr-defined]
            torch.save(weights, unfinished)


def _detectron2_content(weights: Mapping[str, Any], description: Mapping[str, Any]) -> dict[str, Any]:
    return {"model": dict(weights), "__author__": "maskrcnn", _DESCRIPTION: dict(description)}


def _is_plain(tensor: Tensor) -> bool:
    """Return whether a tensor is dense and held in full: neither a placeholder nor an expanded view."""
    return (
        tensor.layout is torch.strided
        and tensor.device.type == "cpu"
        and tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()
    )
