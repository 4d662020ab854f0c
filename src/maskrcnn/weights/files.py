"""Reading weight files that come from anywhere: nothing in them is ever executed."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import torch
from torch import Tensor

_WRAPPERS = ("model", "state_dict")


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Return the tensors of a ``.pth`` or ``.pt`` file by name, also from under "model" or "state_dict".

    Raises FileNotFoundError when there is no such file, and ValueError when it is no checkpoint, would run
    code, or holds something else than tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no weights file at {path}{' (it is a folder)' if path.is_dir() else ''}")
    state_dict = _load(path)
    for wrapper in _WRAPPERS:
        if isinstance(state_dict, dict) and isinstance(state_dict.get(wrapper), dict):
            state_dict = state_dict[wrapper]
    if not isinstance(state_dict, dict) or not state_dict:
        raise ValueError(
            f"{path} holds a {type(state_dict).__name__} where a dictionary of tensors was expected"
        )
    for name, tensor in state_dict.items():
        if not isinstance(name, str) or not _is_plain(tensor):
            raise ValueError(f"{path} holds a {type(tensor).__name__} at {name!r}, not a plain dense tensor")
    return dict(state_dict)


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
