"""Weight files: read from anywhere, nothing in them ever executed, and written for other libraries."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maskrcnn.files import replacing
from maskrcnn.weights.pickles import read_pickle

_WRAPPERS = ("model", "state_dict", "blobs")
_OURS = "maskrcnn"  # under which other libraries' files keep what we know of the network


def read_checkpoint(path: str | Path) -> Any:
    """Return all that a ``.pth`` or ``.pt`` file of torch, or a ``.pkl`` file of numpy arrays, holds.

    Raises FileNotFoundError when there is no such file, and ValueError when it cannot be read safely.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no weights file at {path}{' (it is a folder)' if path.is_dir() else ''}")
    if path.suffix == ".pkl":
        try:
            return read_pickle(path.read_bytes())
        except ValueError as error:
            raise ValueError(f"{path} is refused: {error}") from error
    return _load(path)


def tensors_in(content: Any) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint's content, also from under "model", "state_dict" or "blobs".

    Raises ValueError when the content is something else than tensors by name.
    """
    for wrapper in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not content:
        raise ValueError(f"it holds a {type(content).__name__} where a dictionary of tensors was expected")
    tensors = {
        name: torch.from_numpy(value.copy()) if isinstance(value, np.ndarray) else value
        for name, value in content.items()
    }
    for name, tensor in tensors.items():
        if not isinstance(name, str) or not _is_plain(tensor):
            raise ValueError(f"it holds a {type(tensor).__name__} at {name!r}, not a plain dense tensor")
    return tensors


def write_state_dict(
    path: Path, tensors: Mapping[str, Tensor], library: str, description: Mapping[str, Any]
) -> None:
    """Write tensors as `library` keeps them, whole or not at all.

    Detectron2's ``.pkl`` holds numpy arrays under "model"; other suffixes are torch's. `description` goes
    where the library does not look, and comes back from `description_in`. Raises ValueError for a ``.pkl`` of
    another library, which nothing could read.
    """
    if path.suffix == ".pkl" and library != "detectron2":
        raise ValueError(f"{path}: only Detectron2 reads .pkl; choose a name that ends in .pth")
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as unfinished:
        if library == "detectron2" and path.suffix == ".pkl":
            arrays = {name: tensor.cpu().numpy() for name, tensor in tensors.items()}
            unfinished.write_bytes(pickle.dumps(_beside(arrays, description), protocol=2))
        elif library == "detectron2":
            torch.save(_beside(tensors, description), unfinished)
        else:
            weights = OrderedDict(tensors)
            weights._metadata = {_OURS: dict(description)}  # type: ignore[attr-defined]
            torch.save(weights, unfinished)


def _beside(weights: Mapping[str, Any], description: Mapping[str, Any]) -> dict[str, Any]:
    return {"model": dict(weights), "__author__": "maskrcnn", _OURS: dict(description)}


def description_in(content: Any) -> dict[str, Any] | None:
    """Return the description that `write_state_dict` left in a checkpoint's content, if any."""
    if not isinstance(content, dict):
        return None
    metadata = getattr(content, "_metadata", {})
    found = content.get(_OURS) or (isinstance(metadata, dict) and metadata.get(_OURS))
    return found if isinstance(found, dict) else None


def _load(path: Path) -> object:
    if _is_compressed(path):
        raise ValueError(f"{path} is a compressed archive, not a checkpoint")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or hostile file can raise anything
        wanted = re.search(r"GLOBAL (\S+)", str(error))
        if wanted:
            raise ValueError(
                f"{path} is refused: loading it would run {wanted[1]}, not only read tensors"
            ) from error
        raise ValueError(f"{path} is not a checkpoint that torch can read, or it is damaged") from error


def _is_compressed(path: Path) -> bool:
    """Whether `path` is an archive that may be far larger than it looks; torch stores without compression."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist())
    except zipfile.BadZipFile:
        return False


def _is_plain(tensor: object) -> bool:
    """Whether the file holds `tensor` in full: not a placeholder, nor a view that makes much of little."""
    return (
        isinstance(tensor, Tensor)
        and tensor.layout is torch.strided
        and tensor.device.type == "cpu"
        and tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()
    )
