"""Pickles of arrays are read; anything else in a pickle is refused by name, does not run and costs little."""

import io
import os
import pickle
from collections import OrderedDict

import numpy as np
import pytest

from maskrcnn.weights import pickles
from maskrcnn.weights.pickles import PickleReader


def read_pickle(content: bytes):
    return pickles.read_pickle(io.BytesIO(content), len(content))


ARRAYS = {
    "rows": np.arange(6, dtype=np.float32).reshape(2, 3),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "big_endian": np.arange(3, dtype=">i4"),
    "half": np.float16([1.5]),
    "truth": np.array([True, False]),
    "no_axes": np.array(7),
    "empty": np.zeros((0, 3), np.float32),
    "negative": np.array([-(2**40)]),
}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_are_read_with_value_shape_and_type(protocol):
    content = OrderedDict(model=ARRAYS, note="by hand", numbers=[1, 2.5, None, np.float32(0.25)])
    read = read_pickle(pickle.dumps(content, protocol=protocol))
    assert list(read) == ["model", "note", "numbers"]
    assert read["numbers"] == [1, 2.5, None, 0.25]
    for name, array in ARRAYS.items():
        assert np.array_equal(read["model"][name], array), name
        assert read["model"][name].shape == array.shape
        assert read["model"][name].dtype == array.dtype.newbyteorder("=")


def test_a_pickle_of_python_2_is_read():
    # protocol 2 as Python 2 wrote it: bytes are text, and numpy's module is numpy.core
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntU\x01btR"
        b"(I1\n(I2\ntcnumpy\ndtype\n(U\x02f4I0\nI1\ntR(I3\nU\x01<NNNI-1\nI-1\nI0\ntbI00\n"
        b"U\x08\x00\x00\x80?\x00\x00\x00\xc0tb"
    )
    assert read_pickle(b"\x80\x02" + array + b".").tolist() == [1.0, -2.0]


class Hostile:
    def __init__(self, call, *arguments):
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return self.call, self.arguments


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize(
    ("call", "arguments", "name"),
    [
        (os.mkdir, ("was_run",), r"\w+\.mkdir"),
        (eval, ("1 + 1",), r"builtins\.eval|__builtin__\.eval"),
        (getattr, ("a", "b"), r"builtins\.getattr|__builtin__\.getattr"),
        (np.load, ("a",), r"numpy\S*\.load"),
        (np.fromfile, ("a",), r"numpy\S*\.fromfile"),
    ],
)
def test_code_is_refused_by_name_and_not_run(tmp_path, monkeypatch, protocol, call, arguments, name):
    monkeypatch.chdir(tmp_path)
    content = pickle.dumps({"model": {"a": Hostile(call, *arguments)}}, protocol=protocol)
    with pytest.raises(ValueError, match=f"loading it would run ({name}), not only read arrays"):
        read_pickle(content)
    assert not (tmp_path / "was_run").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello",
        pickle.dumps(ARRAYS)[:-20],
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",  # bytes of 2**63
        b"\x80\x02]r\xff\xff\xff\xff.",  # memo index 2**32 - 1, which fills the memory of the unpickler in C
        pickle.dumps(np.array([{}], dtype=object)),
        pickle.dumps(np.array(["a"])),
        pickle.dumps(np.zeros(2, [("a", "f4")])),
    ],
)
def test_damaged_pickles_are_refused(content):
    if content.startswith(b"\x80\x02]r"):
        assert read_pickle(content) == []
        return
    with pytest.raises(ValueError, match="not a checkpoint of torch or a pickle of arrays, or it is damaged"):
        read_pickle(content)


def test_an_array_larger_than_its_bytes_is_refused():
    content = pickle.dumps(np.zeros(3, np.float32), protocol=2).replace(b"K\x03\x85", b"M\xff\xff\x85")
    with pytest.raises(ValueError, match="has 12 bytes"):
        read_pickle(content)


def test_a_dictionary_that_holds_itself_is_refused():
    endless: dict = {}
    endless["self"] = endless
    with pytest.raises(ValueError, match="a container holds itself"):
        read_pickle(pickle.dumps(endless))


DTYPE = b"cnumpy\ndtype\nU\x02f4\x85R"
NESTED_TUPLE = b")\x85" + b"q\x01h\x01\x86" * 60  # a tuple of twice the same tuple, 60 levels: 2**60 to hash
MEGABYTE = b"T" + (1 << 20).to_bytes(4, "little") + b"a" * (1 << 20) + b"q\x01"
ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n)R"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"}" + NESTED_TUPLE + b"K\x01s.", "is of type tuple"),
        (b"}(" + NESTED_TUPLE + b"K\x01u.", "is of type tuple"),
        (b"(" + NESTED_TUPLE + b"K\x01d.", "is of type tuple"),
        (b"ccollections\nOrderedDict\n](" + NESTED_TUPLE + b"K\x01\x86e\x85R.", "is of type tuple"),
        (b"(" + NESTED_TUPLE + b"\x91.", "instruction 0x91 builds no plain value"),  # a frozen set
        (b"}\x8a\xff" + b"\x7f" * 255 + b"K\x01s.", "is of type int"),  # an integer of 2040 bits
        (NESTED_TUPLE + b"cnumpy\ndtype\nh\x01\x85R.", "an array is not of plain numbers"),
        # An array without content: of 2**63 rows, of 64 axes, of an axis of 2**2039, of text
        (
            ARRAY + b"(K\x01\x8a\x08" + b"\xff" * 7 + b"\x7f\x85" + DTYPE + b"\x89U\x00tb.",
            "shape of an array",
        ),
        (ARRAY + b"(K\x01(" + b"K\x01" * 64 + b"t" + DTYPE + b"\x89U\x04aaaatb.", "shape of an array"),
        (ARRAY + b"(K\x01U\x04aaaa" + DTYPE + b"\x89U\x04aaaatb.", "shape of an array"),
        (ARRAY + b".", "an array is left empty"),
        # One megabyte, from which many arrays or bytes are built
        (
            MEGABYTE + (ARRAY + b"(K\x01J\x00\x00\x04\x00\x85" + DTYPE + b"\x89h\x01tb") * 3 + b".",
            "builds more",
        ),
        (MEGABYTE + b"c_codecs\nencode\nh\x01U\x06latin1\x86R" * 3 + b".", "builds more"),
        (
            b"]("
            + b"K\x01K\x01\x86" * 200
            + b"eq\x01"
            + b"ccollections\nOrderedDict\nh\x01\x85R" * 99
            + b".",
            "builds more",
        ),
        (b"c_codecs\nencode\nU\x01aU\x08punycode\x86R.", "an encoding other than latin1"),
        (b"\x80\x05\x96" + b"\xff" * 7 + b"\x00.", "damaged"),  # a bytearray of 2**56
        (b"]0" * 6000 + b"N.", "more than 10000 instructions"),
        (b"\x82\x01.", "instruction 0x82 builds no plain value"),  # an extension
        (
            b"cnumpy\nndarray\n(K\x01tb.",
            "a state is set on a value of type method",
        ),  # the state of a constructor, which would stay
        (b"U\x04weigQ.", "refers to objects outside"),
        (b"cnumpy\n" + b"n" * 10**6 + b"\n.", "loading it would run numpy.n{94},"),
        (b"cos\nsys\x1b[2Jtem\n.", r"run os.sys\\x1b\[2Jtem,"),
    ],
)
def test_a_small_pickle_that_costs_much_is_refused(monkeypatch, content, sentence):
    monkeypatch.setattr(pickles, "MAX_INSTRUCTIONS", 10_000)
    with pytest.raises(ValueError, match=sentence) as raised:
        read_pickle(content)
    assert len(str(raised.value)) < 400


def instructions_of(content: bytes) -> int:
    reader = PickleReader(io.BytesIO(content), {})
    reader.load()
    return reader.dispatch.executed


def test_shared_values_are_resolved_once(monkeypatch):
    """A dictionary that holds another twice, which holds another twice, and so on: 2**60 values."""
    shared: dict = {"x": 1.0}
    for _ in range(60):
        shared = {"a": shared, "b": shared}
    content, calls, resolve = pickle.dumps(shared), [], pickles._resolve
    monkeypatch.setattr(pickles, "_resolve", lambda *arguments: calls.append(1) or resolve(*arguments))
    read = read_pickle(content)
    assert len(calls) < 200 < len(content) < 1000
    assert read["a"] is read["b"] and read["a"]["a"] is read["b"]["b"]
    assert instructions_of(content) < 600


def test_arrays_in_lists_and_tuples_are_read():
    read = read_pickle(pickle.dumps({"a": [np.ones(2)], "b": (np.zeros(1), "text")}))
    assert read["a"][0].tolist() == [1, 1] and read["b"][0].tolist() == [0] and read["b"][1] == "text"


def test_an_array_that_is_shared_is_one_array():
    array = np.ones(2)
    read = read_pickle(pickle.dumps([array, array]))
    assert read[0] is read[1]


def test_attributes_of_a_dictionary_are_ignored():
    content = OrderedDict(a=1)
    content._metadata = {"version": 1}
    assert read_pickle(pickle.dumps(content, protocol=2)) == {"a": 1}


def test_an_ordered_dictionary_of_python_2_is_read():
    content = b"\x80\x02ccollections\nOrderedDict\n](](U\x01aK\x01ee\x85R."
    assert read_pickle(content) == {"a": 1}
