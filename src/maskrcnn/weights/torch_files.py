"""Files of ``torch.save``: checked before torch loads them, so that their cost is bounded by their size.

``torch.load(weights_only=True)`` runs no code of a file from torch 2.6 on, but it calls constructors with
whatever arguments a file gives: ``bytearray(10**12)`` or a tensor larger than its storage take 50 bytes. The
pickle inside a file is therefore read once by `PickleReader`, with stand-ins for torch's constructors. torch
writes a checksum of each tensor, but does not compare it: that is done here, too.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from io import BufferedIOBase, BytesIO
from pathlib import Path
from typing import Any

import torch

from maskrcnn.weights.pickles import (
    Budget,
    PickleReader,
    RefusedGlobal,
    StandIn,
    check_key,
    encode,
    ordered_dict,
)

ZIP_MAGIC = b"PK\x03\x04"
LEGACY_MAGIC = (
    b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # a pickled number begins a file of torch before 1.6
)
_SAFE_TORCH = (2, 6)
_CHUNK = 1 << 20
_ITEM_SIZES = {
    **{"Byte": 1, "Char": 1, "Bool": 1, "Short": 2, "Half": 2, "BFloat16": 2, "Int": 4, "Float": 4},
    **{"Long": 8, "Double": 8, "ComplexFloat": 8, "ComplexDouble": 16},
}


def load_torch(path: Path) -> Any:
    """Return the content of a file of ``torch.save``, tensors on the CPU.

    Raises ValueError, naming the file, where it is damaged, asks for more than tensors and plain values, or
    would need more memory than its size; and on a torch that runs code of such files.
    """
    check_torch_version()
    try:
        _check(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except RefusedGlobal as refused:
        raise ValueError(
            f"{path} is refused: loading it would run {refused}, not only read tensors"
        ) from None
    except Exception as error:  # a damaged or hostile file can raise anything
        reason = str(error).partition("\n")[0][:200]
        raise ValueError(
            f"{path} is not a checkpoint that torch can read, or it is damaged ({reason})"
        ) from error


def check_torch_version() -> None:
    """Raise ValueError on a torch whose ``weights_only=True`` does not keep files from running code."""
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < _SAFE_TORCH:
        raise ValueError(
            f"torch {torch.__version__} can run code from weight files (CVE-2025-32434): "
            "install torch 2.6 or later"
        )


def _check(path: Path) -> None:
    """Raise an exception where a file would cost more than its size, or is not a checkpoint."""
    size = path.stat().st_size
    with path.open("rb") as file:
        if file.read(len(ZIP_MAGIC)) == ZIP_MAGIC:
            _check_archive(file, size)
        else:
            file.seek(0)
            _check_legacy(file, size)


def _check_archive(file: BufferedIOBase, size: int) -> None:
    with zipfile.ZipFile(file) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries.values()):
            raise ValueError("it is a compressed archive")
        if len(entries) < len(archive.infolist()) or sum(e.file_size for e in entries.values()) > size:
            raise ValueError("its entries overlap")
        if any(name.endswith("/constants.pkl") for name in entries):
            raise ValueError("it is a TorchScript archive: save the state_dict of its module instead")
        pickles = [name for name in entries if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ValueError("it is an archive of something else")
        folder = pickles[0].removesuffix("data.pkl") + "data/"
        records = {n.removeprefix(folder): e.file_size for n, e in entries.items() if n.startswith(folder)}
        for entry in entries.values():
            if entry.CRC == 0:
                del entry.CRC  # torch can save without checksums
        content = archive.read(entries[pickles[0]])
        for name in records:
            _compare_checksum(archive, entries[folder + name])
    _TorchReader(BytesIO(content), size, records).load()


def _compare_checksum(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> None:
    """Read an entry to its end, where `zipfile` compares the checksum. Raises BadZipFile."""
    with archive.open(entry) as file:
        while file.read(_CHUNK):
            pass


def _check_legacy(file: BufferedIOBase, size: int) -> None:
    """Check a file of torch before 1.6: pickles of a number, a version, a system, and then the content."""
    for _ in range(4):
        _TorchReader(file, size, None).load()


class _Storage(StandIn):
    """Stands for a storage of `length` numbers."""

    def __init__(self, length: int) -> None:
        self.length = length


class _TorchReader(PickleReader):
    """Checks the pickle of a file of torch. `records` are the sizes in bytes of an archive's storages."""

    def __init__(self, file: BufferedIOBase, size: int, records: Mapping[str, int] | None) -> None:
        self.records, self.storage_sizes = records, dict[str, int]()
        self.budget, self.storage_budget = Budget(2 * size), Budget(size)
        constructors: dict[str, Any] = {
            "collections.OrderedDict": lambda pairs=(): ordered_dict(pairs, self.budget),
            "collections.Counter": self._counter,
            "_codecs.encode": lambda text, encoding: encode(text, encoding, self.budget),
            "torch.Size": self._sizes,
            "torch.device": lambda *_: StandIn(),
            "torch._utils._rebuild_tensor": self._tensor,
            "torch._utils._rebuild_tensor_v2": self._tensor,
            "torch._utils._rebuild_parameter": lambda *_: StandIn(),
        }
        for module in ("builtins", "__builtin__"):
            constructors[f"{module}.set"] = self._set
        constructors |= {f"torch.{name}Storage": item_size for name, item_size in _ITEM_SIZES.items()}
        dtypes = {str(value) for value in vars(torch).values() if isinstance(value, torch.dtype)}
        constructors |= {name: StandIn() for name in dtypes}
        super().__init__(file, constructors)

    def persistent_load(self, pid: Any) -> _Storage:
        """Check that the file holds a storage in full; storages together are no larger than the file."""
        if len(pid) > 6:
            raise ValueError("a reference is not to a storage")
        kind, item_size, key, location, length, *views = pid
        if kind != "storage" or not (isinstance(key, str) and isinstance(location, str)) or any(views):
            raise ValueError("a reference is not to a storage")
        if type(item_size) is not int or type(length) is not int or length < 0:
            raise ValueError("a storage has no length")
        size = item_size * length
        if self.records is not None and self.records.get(key) != size:
            raise ValueError(f"a storage of {size} bytes has {self.records.get(key, 0)} in the file")
        if key not in self.storage_sizes:
            self.storage_budget.charge(size)
        if self.storage_sizes.setdefault(key, size) != size:
            raise ValueError("a storage has two lengths")
        return _Storage(length)

    def _tensor(self, storage: Any, offset: Any, size: Any, stride: Any, *_: object) -> StandIn:
        is_short = len(size) <= 32 and len(stride) <= 32
        if not is_short or not all(type(n) is int and 0 <= n < 1 << 48 for n in (offset, *size, *stride)):
            raise ValueError("a tensor has no plain shape")
        last = offset + sum((side - 1) * step for side, step in zip(size, stride, strict=True))
        if 0 not in size and last >= storage.length:
            raise ValueError("a tensor is larger than its storage")
        return StandIn()

    def _counter(self, counts: Any = ()) -> dict[Any, Any]:
        self.budget.charge(len(counts))
        return ordered_dict(list(counts.items()) if isinstance(counts, dict) else (), self.budget)

    def _set(self, members: Any = ()) -> StandIn:
        self.budget.charge(len(members))
        for member in members:
            check_key(member)
        return StandIn()

    def _sizes(self, sides: Any = ()) -> StandIn:
        self.budget.charge(len(sides))
        return StandIn()
