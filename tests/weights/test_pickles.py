"""Pickles of arrays are read; whatever else a pickle asks for is refused by name and does not run."""

import os
import pickle
from collections import OrderedDict

import numpy as np
import pytest

from maskrcnn.weights.pickles import read_pickle

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
def test_arrays_come_back_as_they_were(protocol):
    content = OrderedDict(model=ARRAYS, note="by hand", numbers=[1, 2.5, None, np.float32(0.25)])
    read = read_pickle(pickle.dumps(content, protocol=protocol))
    assert list(read) == ["model", "note", "numbers"]
    assert read["numbers"] == [1, 2.5, None, 0.25]
    for name, array in ARRAYS.items():
        assert np.array_equal(read["model"][name], array), name
        assert read["model"][name].shape == array.shape
        assert read["model"][name].dtype == array.dtype.newbyteorder("=")


def test_a_pickle_of_python_2_is_read():
    # protocol 2 as Python 2 wrote it: bytes are texts, numpy lives in numpy.core
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
        b"\x80\x02]r\xff\xff\xff\xff.",  # remembered at 2**32: fills the memory of the unpickler in C
        pickle.dumps(np.array([{}], dtype=object)),
        pickle.dumps(np.array(["a"])),
        pickle.dumps(np.zeros(2, [("a", "f4")])),
    ],
)
def test_what_is_damaged_or_no_array_is_said_to_be_so(content):
    if content.startswith(b"\x80\x02]r"):
        assert read_pickle(content) == []
        return
    with pytest.raises(ValueError, match="no pickle of arrays, or it is damaged"):
        read_pickle(content)


def test_an_array_that_claims_more_than_it_has_is_refused():
    content = pickle.dumps(np.zeros(3, np.float32), protocol=2).replace(b"K\x03\x85", b"M\xff\xff\x85")
    with pytest.raises(ValueError, match="has 12 bytes"):
        read_pickle(content)


def test_a_dictionary_that_holds_itself_ends():
    endless: dict = {}
    endless["self"] = endless
    with pytest.raises(ValueError, match="no pickle of arrays"):
        read_pickle(pickle.dumps(endless))
