import os
import pickle
import zipfile

import numpy as np
import pytest
import torch

from maskrcnn.weights.files import description_in, read_checkpoint, tensors_in, write_state_dict


def read(path):
    return tensors_in(read_checkpoint(path))


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
        found = read(tmp_path / "w.pkl")
        assert {name: tensor.numpy().tolist() for name, tensor in found.items()} == {
            name: array.tolist() for name, array in arrays.items()
        }


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
def test_what_is_written_is_read_back(tmp_path, library, suffix):
    tensors = {"a.weight": torch.randn(2, 3), "a.num_batches_tracked": torch.tensor(5)}
    path, description = tmp_path / "deep" / f"w.{suffix}", {"names": ("a", "b"), "side": 1.5, "more": {}}
    write_state_dict(path, tensors, library, description)
    assert description_in(read_checkpoint(path)) == description
    found = read(path)
    assert list(found) == list(tensors)
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


def test_only_detectron2_reads_pickles(tmp_path):
    with pytest.raises(ValueError, match=r"choose a name that ends in \.pth"):
        write_state_dict(tmp_path / "w.pkl", {"a": torch.zeros(1)}, "torchvision", {})


@pytest.mark.parametrize("wrap", [dict, lambda s: {"model": s, "step": 3}, lambda s: {"state_dict": s}])
@pytest.mark.parametrize("new", [True, False])
def test_reads_bare_and_wrapped_tensors(tmp_path, wrap, new):
    tensors = {"a.weight": torch.randn(2, 3), "a.num_batches_tracked": torch.tensor(5)}
    torch.save(wrap(tensors), tmp_path / "w.pth", _use_new_zipfile_serialization=new)
    found = read(tmp_path / "w.pth")
    assert list(found) == list(tensors)
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no weights file at .*none\.pth$"):
        read(tmp_path / "none.pth")
    with pytest.raises(FileNotFoundError, match="is a folder"):
        read(tmp_path)


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 cut", b"\x80\x02}q\x00."])
def test_files_that_are_no_checkpoints(tmp_path, content):
    path = tmp_path / "w.pth"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"w\.pth") as raised:
        read(path)
    assert "\n" not in str(raised.value)


def test_a_truncated_checkpoint_is_damaged(tmp_path):
    path = tmp_path / "w.pth"
    torch.save({"a": torch.randn(1000)}, path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ValueError, match="damaged"):
        read(path)


@pytest.mark.parametrize("new", [True, False])
def test_code_in_a_checkpoint_is_refused_and_not_run(tmp_path, new):
    path, marker = tmp_path / "w.pth", tmp_path / "was_run"
    torch.save({"a": Hostile(marker)}, path, _use_new_zipfile_serialization=new)
    with pytest.raises(ValueError, match=r"refused: loading it would run \w+\.mkdir, not only read tensors$"):
        read(path)
    path.write_bytes(pickle.dumps(Hostile(marker), protocol=2))
    with pytest.raises(ValueError, match=r"w\.pth"):
        read(path)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ([torch.zeros(2)], "it holds a list where a dictionary of tensors was expected"),
        ({}, "holds a dict where"),
        (torch.zeros(2), "holds a Tensor where"),
        ({"a": torch.zeros(2), "epoch": 3}, "holds a int at 'epoch', not a plain dense tensor"),
        ({3: torch.zeros(2)}, "at 3"),
        ({"a": torch.zeros(1).expand(10**9)}, "at 'a', not a plain dense tensor"),
        ({"a": torch.zeros(2, device="meta")}, "at 'a', not a plain dense tensor"),
        ({"a": torch.eye(2).to_sparse()}, "at 'a', not a plain dense tensor"),
    ],
)
def test_content_that_is_not_weights_is_named(tmp_path, content, sentence):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=sentence):
        read(tmp_path / "w.pth")


def test_compressed_archives_are_refused(tmp_path):
    torch.save({"a": torch.zeros(10**6)}, tmp_path / "w.pth")
    bomb = tmp_path / "bomb.pth"
    with (
        zipfile.ZipFile(tmp_path / "w.pth") as source,
        zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry))
    with pytest.raises(ValueError, match="compressed archive"):
        read(bomb)
