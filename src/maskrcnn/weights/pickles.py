"""A pickle reader for files from outside: it runs nothing that a file names, and bounds what a file costs.

A pickle is a program for a small stack machine. `PickleReader` executes only the instructions that build
plain values, and calls only the constructors that it is given. A few bytes can still ask for much time or
memory, so the number of instructions is limited, the keys of dictionaries are plain (the hash of a tuple
that holds one tuple twice, which holds another twice, takes exponential time; so does its repr, and no
message shows a value of the file), and constructors charge what they copy to a budget in proportion to the
file.
"""

from __future__ import annotations

import math
import pickle
import re
from collections.abc import Callable, Mapping
from io import BufferedIOBase
from struct import unpack
from typing import Any, Literal

import numpy as np

MAX_INSTRUCTIONS = 1_000_000  # a published file has about 40 for each of at most 700 arrays
_INSTRUCTIONS = """
PROTO FRAME STOP MARK POP POP_MARK DUP NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT
BINFLOAT STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINBYTES
SHORT_BINBYTES BINBYTES8 BYTEARRAY8 EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST LIST APPEND APPENDS
EMPTY_DICT DICT SETITEM SETITEMS GET BINGET LONG_BINGET PUT BINPUT LONG_BINPUT MEMOIZE GLOBAL STACK_GLOBAL
REDUCE BUILD BINPERSID
"""
_ALLOWED = {getattr(pickle, name)[0] for name in _INSTRUCTIONS.split()}
_DTYPE = re.compile(r"f[248]|[iu][1248]|b1")  # what torch has too


class RefusedGlobal(Exception):
    """A file names something that is not among the constructors: ``module.name``."""


class StandIn:
    """Stands for an object of another library inside a pickle."""

    def set_state(self, state: Any) -> None:
        """Receive the argument of ``__setstate__``. Raises ValueError where the object has no state."""
        raise ValueError("an object without a state receives one")


class PickleReader(pickle._Unpickler):
    """Reads one pickle from `file`. `constructors` are what it may name, by ``module.name``.

    This is Python's own unpickler, not the faster one in C, which allocates memory for the highest memo index
    that a file names. `load` raises `RefusedGlobal` for any other name, and any exception at all for a
    damaged file.
    """

    stack: list[Any]  # these four are of the base class
    append: Callable[[Any], None]
    pop_mark: Callable[[], list[Any]]
    read: Callable[[int], bytes]

    def __init__(self, file: BufferedIOBase, constructors: Mapping[str, Any]) -> None:
        super().__init__(file, encoding="latin1")
        self.constructors = constructors
        own = {pickle.SETITEM: "setitem", pickle.SETITEMS: "setitems", pickle.DICT: "dict"}
        own |= {pickle.BUILD: "build", pickle.BYTEARRAY8: "bytearray8"}
        handlers = {code: handler for code, handler in pickle._Unpickler.dispatch.items() if code in _ALLOWED}
        handlers |= {code[0]: getattr(type(self), f"load_{name}") for code, name in own.items()}
        self.dispatch = _Instructions(handlers)  # type: ignore[misc]  # counts those of this reader

    def find_class(self, module: str, name: str) -> Any:
        """Return the constructor of a name. Raises `RefusedGlobal` where there is none."""
        path = f"{module}.{name}"
        if path not in self.constructors:
            raise RefusedGlobal(path[:100].encode("unicode_escape").decode())
        return self.constructors[path]

    def persistent_load(self, pid: object) -> Any:
        """Raise ValueError: a pickle of arrays refers to nothing outside itself."""
        raise ValueError("it refers to objects outside the pickle")

    def load_setitem(self) -> None:
        """Set one item of a dictionary."""
        value, key = self.stack.pop(), self.stack.pop()
        self._fill([key, value])

    def load_setitems(self) -> None:
        """Set many items of a dictionary."""
        self._fill(self.pop_mark())

    def load_dict(self) -> None:
        """Build a dictionary from the items since the last mark."""
        items = self.pop_mark()
        self.append({})
        self._fill(items)

    def _fill(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not dict:
            raise ValueError(f"items are set on a value of type {type(self.stack[-1]).__name__}")
        for key, value in zip(items[::2], items[1::2], strict=True):
            check_key(key)
            self.stack[-1][key] = value

    def load_build(self) -> None:
        """Set the state of a stand-in. Attributes of an OrderedDict are ignored."""
        state = self.stack.pop()
        if isinstance(self.stack[-1], StandIn):
            self.stack[-1].set_state(state)
        elif type(self.stack[-1]) is not dict:
            raise ValueError(f"a state is set on a value of type {type(self.stack[-1]).__name__}")

    def load_bytearray8(self) -> None:
        """Read a bytearray; the original allocates the length that the file claims."""
        (size,) = unpack("<Q", self.read(8))
        self.append(bytearray(self.read(size)))


class _Instructions(dict[int, Callable[[Any], None]]):
    """The functions of a reader by their instruction's code; counts the instructions executed."""

    executed = 0

    def __getitem__(self, code: int) -> Callable[[Any], None]:
        self.executed += 1
        if self.executed > MAX_INSTRUCTIONS:
            raise ValueError(f"it has more than {MAX_INSTRUCTIONS} instructions")
        return super().__getitem__(code)

    def __missing__(self, code: int) -> Callable[[Any], None]:
        raise ValueError(f"its instruction {code:#04x} builds no plain value")


def check_key(key: Any) -> None:
    """Raise ValueError for a key of a dictionary, or a member of a set, whose hash may be expensive."""
    is_small = isinstance(key, int) and key.bit_length() <= 64
    if not (is_small or isinstance(key, (str, bytes, float))):
        raise ValueError(f"a key of a dictionary is of type {type(key).__name__}")


class Budget:
    """What the constructors of a reader may still copy: bytes, or items of a container."""

    def __init__(self, size: int) -> None:
        self.left = size

    def charge(self, size: int) -> None:
        """Take `size` from the budget. Raises ValueError where less is left."""
        self.left -= size
        if self.left < 0:
            raise ValueError("it builds more from its bytes than it holds")


def encode(text: Any, encoding: Any, budget: Budget) -> bytes:
    """Stand for ``codecs.encode``, by which old protocols write bytes. Raises ValueError for other texts."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise ValueError("bytes in an encoding other than latin1")
    budget.charge(len(text))
    return text.encode("latin1")


def ordered_dict(pairs: Any, budget: Budget) -> dict[Any, Any]:
    """Stand for ``collections.OrderedDict``, empty or of pairs. Raises ValueError for an expensive key."""
    budget.charge(len(pairs))
    for key, _ in pairs:
        check_key(key)
    return dict(pairs)


def read_pickle(file: BufferedIOBase, size: int) -> Any:
    """Return the content of a pickle of `size` bytes, as Detectron2 publishes them, arrays as numpy's.

    Raises ValueError, naming what the file asks for, where that is anything but arrays and plain values.
    """
    try:
        return _resolve(_ArrayReader(file, size).load(), {})
    except RefusedGlobal as refused:
        raise ValueError(f"loading it would run {refused}, not only read arrays") from None
    except Exception as error:  # a damaged or hostile file can raise anything
        raise ValueError(
            f"it is not a checkpoint of torch or a pickle of arrays, or it is damaged ({str(error)[:200]})"
        ) from error


class _Dtype(StandIn):
    """Stands for ``numpy.dtype``: a code as "f4", and a byte order that is set afterwards."""

    def __init__(self, code: Any, *_: object) -> None:
        text = code.decode("latin1") if isinstance(code, bytes) and len(code) == 2 else code
        if not isinstance(text, str) or not _DTYPE.fullmatch(text):
            raise ValueError("an array is not of plain numbers")
        self.code = text
        self.order: Literal["<", ">"] = "<"

    def set_state(self, state: Any) -> None:
        self.order = ">" if state[1] in (">", b">") else "<"

    def real(self) -> np.dtype:
        return np.dtype(self.code).newbyteorder(self.order)


class _Array(StandIn):
    """Stands for ``numpy.ndarray``, which a pickle creates empty and fills afterwards."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.value: np.ndarray | None = None

    def set_state(self, state: Any) -> None:
        _, shape, dtype, is_fortran, content = state
        self.fill(content, dtype, shape, "F" if is_fortran else "C")

    def fill(self, content: Any, dtype: Any, shape: Any, order: Any) -> _Array:
        """Set the value. Raises ValueError where the content's length does not equal the shape's."""
        real = dtype.real()
        if len(shape) > 32 or not all(type(side) is int and 0 <= side < 1 << 40 for side in shape):
            raise ValueError("the shape of an array is not a few whole numbers")
        if len(content) != real.itemsize * math.prod(shape):
            raise ValueError(f"an array of shape {tuple(shape)} has {len(content)} bytes")
        self.budget.charge(len(content))
        if isinstance(content, str):  # protocol 2 of Python 2 wrote bytes as text
            content = content.encode("latin1")
        flat = np.frombuffer(content, real).astype(real.newbyteorder("="))
        self.value = flat.reshape(shape, order="F" if order == "F" else "C")
        return self


class _ArrayReader(PickleReader):
    """Reads arrays through stand-ins, so that the file does not call numpy's own constructors either."""

    def __init__(self, file: BufferedIOBase, size: int) -> None:
        self.budget = Budget(2 * size)  # each byte once as encoded text, once in an array
        constructors: dict[str, Any] = {
            "collections.OrderedDict": lambda pairs=(): ordered_dict(pairs, self.budget),
            "_codecs.encode": lambda text, encoding: encode(text, encoding, self.budget),
            "__builtin__.bytes": lambda: b"",  # how old protocols write no bytes at all
        }
        for package in ("numpy", "numpy.core", "numpy._core"):
            constructors |= {
                f"{package}.dtype": _Dtype,
                f"{package}.ndarray": self._empty,
                f"{package}.multiarray._reconstruct": self._empty,
                f"{package}.multiarray.scalar": self._scalar,
                f"{package}.numeric._frombuffer": lambda *parts: _Array(self.budget).fill(*parts),
            }
        super().__init__(file, constructors)

    def _empty(self, *_: object) -> _Array:
        return _Array(self.budget)

    def _scalar(self, dtype: Any, content: Any) -> Any:
        value = _Array(self.budget).fill(content, dtype, (), "C").value
        assert value is not None
        return value.item()


def _resolve(value: Any, resolved: dict[int, Any]) -> Any:
    """Return `value` with arrays in place of their stand-ins; what is shared in it is shared in the result.

    `resolved` has the result of each container by its id, None while it is under way. Raises ValueError for
    a container that holds itself.
    """
    if isinstance(value, StandIn):
        if not isinstance(value, _Array) or value.value is None:
            raise ValueError("an array is left empty")
        return value.value
    if type(value) not in (dict, list, tuple):
        return value
    if id(value) not in resolved:
        resolved[id(value)] = None
        children = value.values() if isinstance(value, dict) else value
        parts = [_resolve(child, resolved) for child in children]
        resolved[id(value)] = (
            dict(zip(value, parts, strict=True)) if isinstance(value, dict) else type(value)(parts)
        )
    elif resolved[id(value)] is None:
        raise ValueError("a container holds itself")
    return resolved[id(value)]
