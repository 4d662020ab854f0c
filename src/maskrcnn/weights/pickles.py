"""Pickled numpy arrays, as Detectron2 publishes them, read without running anything that the file names.

A pickle is a program. This reader lets it build dictionaries, lists, tuples, texts, numbers and arrays, the
arrays through stand-ins of ours, so that not even numpy's own constructors are called by the file.
"""

from __future__ import annotations

import io
import math
import pickle
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

_KINDS = "fiub"  # floats, integers, truth values: what a weight can be


def read_pickle(content: bytes) -> Any:
    """Return what a pickle holds, arrays as numpy's.

    Raises ValueError, naming what the file asks for, where that is anything else. This is Python's own
    unpickler, not the faster one in C, because a file can make that one fill the memory.
    """
    try:
        return _with_arrays(_Reader(io.BytesIO(content), encoding="latin1").load())
    except _Refused as refused:
        raise ValueError(f"loading it would run {refused}, not only read arrays") from None
    except Exception as error:  # a damaged file can raise anything
        raise ValueError(f"it is no pickle of arrays, or it is damaged ({error})") from error


def _with_arrays(content: Any) -> Any:
    """Return `content` with the arrays in the places of their stand-ins, at any depth of dictionaries."""
    if isinstance(content, _Array):
        return content.value
    if isinstance(content, dict):
        return {name: _with_arrays(value) for name, value in content.items()}
    return content


class _Refused(Exception):
    """What the file asked for: module.name."""


class _Dtype:
    """Stands for numpy.dtype: a code as "f4", and a byte order set afterwards."""

    def __init__(self, code: str | bytes, *_: object) -> None:
        self.code = code.decode("ascii") if isinstance(code, bytes) else code
        self.order: Literal["<", ">"] = "<"

    def __setstate__(self, state: tuple) -> None:
        self.order = ">" if state[1] == ">" else "<"

    def real(self) -> np.dtype:
        """Return the dtype. Raises ValueError for one that holds no plain numbers."""
        dtype = np.dtype(self.code).newbyteorder(self.order)
        if dtype.kind not in _KINDS or dtype.shape or dtype.fields:
            raise ValueError(f"arrays of {self.code!r} are no weights")
        return dtype


class _Array:
    """Stands for numpy.ndarray, which a pickle makes empty first and fills afterwards."""

    value: np.ndarray

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, is_fortran, content = state
        if isinstance(content, str):  # protocol 2 of Python 2 wrote bytes as text
            content = content.encode("latin1")
        self.value = _array(content, dtype, shape, "F" if is_fortran else "C")


def _array(content: Any, dtype: Any, shape: Any, order: str) -> np.ndarray:
    real = dtype.real()
    if len(content) != real.itemsize * math.prod(shape):
        raise ValueError(f"an array of shape {shape} has {len(content)} bytes")
    flat = np.frombuffer(bytes(content), real).astype(real.newbyteorder("="))
    return flat.reshape(shape, order="F" if order == "F" else "C")


def _empty(*_: object) -> _Array:
    return _Array()


def _scalar(dtype: _Dtype, content: Any) -> Any:
    content = content.encode("latin1") if isinstance(content, str) else content
    return _array(content, dtype, (), "C").item()


def _no_bytes(*content: object) -> bytes:
    """Stand for bytes(), which is how old protocols write none at all."""
    if content:
        raise ValueError("bytes made of something")
    return b""


def _encode(text: str, encoding: str) -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise ValueError(f"bytes in {encoding}")
    return text.encode("latin1")


_STAND_INS: dict[str, Callable[..., Any]] = {"dtype": _Dtype, "ndarray": _Array}
_STAND_INS |= {"multiarray._reconstruct": _empty, "multiarray.scalar": _scalar, "numeric._frombuffer": _array}
_KNOWN = {
    f"{package}.{name}": stand_in
    for name, stand_in in _STAND_INS.items()
    for package in ("numpy", "numpy.core", "numpy._core")
} | {
    "collections.OrderedDict": OrderedDict,
    "_codecs.encode": _encode,
    "__builtin__.bytes": _no_bytes,
}


class _Reader(pickle._Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" not in _KNOWN:
            raise _Refused(f"{module}.{name}")
        return _KNOWN[f"{module}.{name}"]

    def persistent_load(self, pid: object) -> Any:
        raise _Refused(f"persistent_load({pid!r})")

    def get_extension(self, code: int) -> Any:
        raise _Refused(f"extension {code}")
