"""Weight files are read without running anything in them; other files end in one sentence."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from maskrcnn.weights import files
from maskrcnn.weights.files import (
    extract_description,
    extract_state_dict,
    read_checkpoint,
    write_state_dict,
)


def read(path):
    return extract_state_dict(read_checkpoint(path))


class Hostile:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def test_reads_the_arrays_of_detectron2s_pickles(tmp_path):
    arrays = {"a.weight": np.ones((2, 3), np.float32), "a.steps": np.array(5)}
    for content in (
        arrays,
        {"model": arrays, "__author__": "me", "matching_heuristics": True},
        {"blobs": arrays},
    ):
        (tmp_path / "w.pkl").write_bytes(pickle.dumps(content, protocol=2))
        assert {name: tensor.numpy().tolist() for name, tensor in read(tmp_path / "w.pkl").items()} == {
            name: array.tolist() for name, array in arrays.items()
        }


@pytest.mark.parametrize("suffix", ["pkl", "pth"])
def test_the_format_is_inferred_from_the_content(tmp_path, suffix):
    path = tmp_path / f"w.{suffix}"
    path.write_bytes(pickle.dumps({"a": np.ones(2, np.float32)}))
    assert torch.equal(read(path)["a"], torch.ones(2))
    torch.save({"a": torch.ones(3)}, path)
    assert torch.equal(read(path)["a"], torch.ones(3))


def test_a_hostile_pickle_is_refused_by_name(tmp_path):
    (tmp_path / "w.pkl").write_bytes(pickle.dumps({"model": Hostile(tmp_path / "was_run")}))
    with pytest.raises(
        ValueError, match=r"w\.pkl is refused: loading it would run \w+\.mkdir, not only read"
    ):
        read(tmp_path / "w.pkl")
    assert not (tmp_path / "was_run").exists()


@pytest.mark.parametrize(
    ("library", "suffix"), [("torchvision", "pth"), ("detectron2", "pth"), ("detectron2", "pkl")]
)
def test_written_tensors_and_description_are_read_back(tmp_path, library, suffix):
    tensors = {"a.weight": torch.randn(2, 3), "a.num_batches_tracked": torch.tensor(5)}
    path, description = tmp_path / "deep" / f"w.{suffix}", {"names": ("a", "b"), "side": 1.5, "more": {}}
    write_state_dict(path, tensors, library, description)
    assert extract_description(read_checkpoint(path)) == description
    state_dict = read(path)
    assert list(state_dict) == list(tensors)
    assert all(torch.equal(state_dict[name], tensor) for name, tensor in tensors.items())


def test_only_detectron2_reads_pickles(tmp_path):
    with pytest.raises(ValueError, match=r"choose a name that ends in \.pth"):
        write_state_dict(tmp_path / "w.pkl", {"a": torch.zeros(1)}, "torchvision", {})


@pytest.mark.parametrize("wrap", [dict, lambda s: {"model": s, "step": 3}, lambda s: {"state_dict": s}])
@pytest.mark.parametrize("new", [True, False])
def test_reads_bare_and_wrapped_tensors(tmp_path, wrap, new):
    tensors = {"a.weight": torch.randn(2, 3), "a.num_batches_tracked": torch.tensor(5)}
    torch.save(wrap(tensors), tmp_path / "w.pth", _use_new_zipfile_serialization=new)
    state_dict = read(tmp_path / "w.pth")
    assert list(state_dict) == list(tensors)
    assert all(torch.equal(state_dict[name], tensor) for name, tensor in tensors.items())


def test_missing_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no weights file at .*none\.pth$"):
        read(tmp_path / "none.pth")
    with pytest.raises(FileNotFoundError, match="it is a folder or a device"):
        read(tmp_path)
    with pytest.raises(FileNotFoundError, match="it is a folder or a device"):
        read(Path("/dev/null"))


def test_files_that_the_system_cannot_read(tmp_path, monkeypatch):
    (tmp_path / "loop.pth").symlink_to("loop.pth")
    for path in (tmp_path / "loop.pth", tmp_path / ("long" * 100)):
        with pytest.raises((ValueError, FileNotFoundError), match=rf"{path.name}") as raised:
            read(path)
        assert "\n" not in str(raised.value)
    (tmp_path / "w.pth").write_bytes(b"x")

    def denied(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(ValueError, match=r"w\.pth cannot be read: Permission denied"):
        read(tmp_path / "w.pth")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello",
        b"hello\nworld\n" * 1000,
        b"PK\x03\x04 cut",
        b"PK\x05\x06" + bytes(18),  # an empty archive
        b"\x89PNG\r\n\x1a\n",
        b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.",  # torch's legacy magic alone
        b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}.\x80\x02X\xff\xff\xff\xffa.",
        b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f.",  # a frame of 2**63 - 1 bytes
    ],
)
@pytest.mark.parametrize("suffix", ["pth", "pkl", "jpg"])
def test_files_of_another_kind_end_in_one_sentence(tmp_path, content, suffix):
    path = tmp_path / f"w.{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"w\.{suffix}") as raised:
        read(path)
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 500


@pytest.mark.parametrize("new", [True, False])
def test_truncated_checkpoints_are_damaged(tmp_path, new):
    path = tmp_path / "w.pth"
    torch.save({"a": torch.randn(1000)}, path, _use_new_zipfile_serialization=new)
    content = path.read_bytes()
    for size in (3, 17, 200, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(ValueError, match=r"w\.pth is .*damaged"):
            read(path)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ([torch.zeros(2)], "expected a dictionary of tensors, but the file holds a value of type list"),
        ({}, "the file holds an empty one"),
        (torch.zeros(2), "a value of type Tensor"),
        ({"model": {"state_dict": {}}}, "the file holds an empty one"),
        ({"a": torch.zeros(2), "epoch": 3}, "expected a tensor at 'epoch', but it is of type int"),
        ({3: torch.zeros(2)}, "expected text as the name of a tensor, but one is of type int"),
        ({"a": torch.zeros(1).expand(10**9)}, "the tensor at 'a' is not a dense one"),
        ({"a": torch.zeros(2, device="meta")}, "would run torch._utils._rebuild_meta_tensor"),
        ({"a": torch.eye(2).to_sparse()}, "would run torch._utils._rebuild_sparse_tensor"),
    ],
)
def test_content_that_is_not_weights_is_named(tmp_path, content, sentence):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=sentence):
        read(tmp_path / "w.pth")


def doubled(levels: int):
    """A value that holds one value twice, which holds another twice, and so on."""
    value: list = ["x"]
    for _ in range(levels):
        value = [value, value]
    return value


def nested(levels: int):
    value: dict = {}
    for _ in range(levels):
        value = {"a": value}
    return value


@pytest.mark.parametrize("suffix", ["pth", "pkl"])
@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (doubled(40), "unfolds to more than 1,000,000 values"),
        (nested(100), "nested more than 64 deep"),
        ([["x" * 10_000] * 1000] * 1000, "unfolds to more than"),
    ],
)
def test_content_that_grows_when_it_is_walked_through_is_refused(tmp_path, suffix, values, sentence):
    path, content = tmp_path / f"w.{suffix}", {"a": np.zeros(2, np.float32), "maskrcnn": {"values": values}}
    if suffix == "pkl":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save({**content, "a": torch.zeros(2)}, path)
    assert path.stat().st_size < 100_000
    with pytest.raises(ValueError, match=rf"w\.{suffix} is refused: .*{sentence}"):
        read(path)


def test_values_are_counted_once_for_each_container(monkeypatch):
    visits = []
    measure = files._measure
    monkeypatch.setattr(files, "_measure", lambda *arguments: visits.append(1) or measure(*arguments))
    count, depth = measure(doubled(15), {})
    assert count > 2**15 and depth == 16
    assert len(visits) < 100


def test_depth_counts_also_below_a_container_that_was_measured_before():
    shallow: list = []
    for _ in range(40):
        shallow = [shallow]
    deep: list = [shallow]
    for _ in range(30):
        deep = [deep]
    with pytest.raises(ValueError, match="nested more than 64 deep"):
        files._measure([shallow, deep], {})


def test_a_container_that_holds_itself_is_too_deep():
    endless: list = []
    endless += [endless, endless]
    with pytest.raises(ValueError, match="nested more than 64 deep"):
        files._measure(endless, {})


def test_shared_values_are_read(tmp_path):
    shared = np.ones(3, np.float32)
    (tmp_path / "w.pkl").write_bytes(pickle.dumps({"model": {"a": shared, "b": shared}}))
    assert torch.equal(read(tmp_path / "w.pkl")["b"], torch.ones(3))


@pytest.mark.parametrize(
    "content", [[], {"maskrcnn": "text"}, {"maskrcnn": {}}, {"model": {}}, {"maskrcnn": [("a", 1)]}]
)
def test_content_without_a_description(content):
    assert extract_description(content) is None
