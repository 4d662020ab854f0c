"""Files of torch.save: nothing in them runs, and none costs more than its size."""

import os
import pickle
import struct
import zipfile
from collections import Counter, OrderedDict

import pytest
import torch
from torch import nn

from maskrcnn.weights import pickles, torch_files
from maskrcnn.weights.torch_files import load_torch


class Hostile:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def rewrite(path, change, compression=zipfile.ZIP_STORED):
    """Change the entries of an archive: `change` gets them by name."""
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in change(entries).items():
            archive.writestr(name, content)


def with_pickle(path, content: bytes):
    """Write an archive of torch whose pickle is `content`."""
    torch.save({"a": torch.arange(4.0)}, path)
    rewrite(path, lambda entries: entries | {f"{path.stem}/data.pkl": content})
    return path


@pytest.mark.parametrize("legacy", [True, False])
def test_training_checkpoints_of_other_libraries_are_read(tmp_path, legacy):
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    model(torch.zeros(2, 3, 2, 2)).sum().backward()
    optimiser = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    optimiser.step()
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimiser, [5, 8])
    content = {
        "model": model.state_dict(),
        "parameter": nn.Parameter(torch.ones(2)),
        "optimizer": optimiser.state_dict(),
        "scheduler": scheduler.state_dict(),
        "shape": torch.Size((2, 3)),
        "dtype": torch.float16,
        "device": torch.device("cpu"),
        "names": {"a", "b"},
        "raw": b"\x00\xff",
        "half": torch.ones(3, dtype=torch.bfloat16),
        "transposed": torch.arange(6.0).reshape(2, 3).T[1:],
        "empty": torch.zeros(0, 4),
    }
    torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=not legacy)
    loaded = load_torch(tmp_path / "w.pth")
    assert loaded["scheduler"]["milestones"] == Counter([5, 8]) and loaded["names"] == {"a", "b"}
    assert isinstance(loaded["model"], OrderedDict)
    assert torch.equal(loaded["transposed"], content["transposed"])
    assert torch.equal(loaded["model"]["0.weight"], model[0].weight)


@pytest.mark.parametrize("new", [True, False])
def test_code_in_a_checkpoint_is_refused_by_name_and_not_run(tmp_path, new):
    path, marker = tmp_path / "w.pth", tmp_path / "was_run"
    torch.save({"a": Hostile(marker)}, path, _use_new_zipfile_serialization=new)
    with pytest.raises(ValueError, match=r"refused: loading it would run \w+\.mkdir, not only read tensors$"):
        load_torch(path)
    path.write_bytes(pickle.dumps(Hostile(marker), protocol=2))
    with pytest.raises(ValueError, match=r"w\.pth"):
        load_torch(path)
    assert not marker.exists()


FLOATS = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu%btQ"
TENSOR = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(" + FLOATS + b"%b%b%b\x89)tR."


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"\x80\x02cbuiltins\nbytearray\nJ\x00\x00\x00\x40\x85R.", "would run builtins.bytearray"),
        (b"\x80\x02ctorch\nTensor\nJ\x00\x00\x00\x40\x85R.", "would run torch.Tensor"),
        # A tuple of twice the same tuple, 60 levels, as a key: its hash takes 2**60 steps
        (b"\x80\x02})\x85" + b"q\x01h\x01\x86" * 60 + b"K\x01s.", "key of a dictionary is of type tuple"),
        (b"\x80\x02c__builtin__\nset\n])\x85" + b"q\x01h\x01\x86" * 60 + b"a\x85R.", "is of type tuple"),
        (b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x08\x00\x00\x00punycode\x86R.", "other than latin1"),
        (b"\x80\x02" + b"]0" * 600 + b"N.", "more than 1000 instructions"),
        (TENSOR % (b"J\x00\x00\x00\x40", b"K\x00", b"K\x04\x85", b"K\x01\x85"), "a storage of .* has 16 in"),
        (TENSOR % (b"K\x04", b"K\x00", b"J\x00\x00\x00\x40\x85", b"K\x01\x85"), "larger than its storage"),
        (TENSOR % (b"K\x04", b"K\x04", b"K\x01\x85", b"K\x01\x85"), "larger than its storage"),
        (TENSOR % (b"K\x04", b"K\x00", b"K\x02\x85", b"J\xff\xff\xff\xff\x85"), "no plain shape"),
    ],
)
def test_a_small_file_that_costs_much_is_refused(tmp_path, monkeypatch, content, sentence):
    monkeypatch.setattr(pickles, "MAX_INSTRUCTIONS", 1000)
    path = with_pickle(tmp_path / "w.pth", content)
    with pytest.raises(ValueError, match=rf"w\.pth is .*{sentence}"):
        load_torch(path)


def test_the_tensor_of_these_tests_is_read_when_it_is_right(tmp_path):
    content = TENSOR % (b"K\x04", b"K\x01", b"K\x03\x85", b"K\x01\x85")
    assert load_torch(with_pickle(tmp_path / "w.pth", content)).tolist() == [1, 2, 3]


def test_a_legacy_file_has_no_more_storages_than_bytes(tmp_path):
    path = tmp_path / "w.pth"
    torch.save({"a": torch.arange(77.0)}, path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    assert content.count(b"K\x4d") == 2  # the length of the storage, and of the tensor
    path.write_bytes(content.replace(b"K\x4d", b"J" + struct.pack("<i", 1 << 30)))
    with pytest.raises(ValueError, match="builds more from its bytes than it holds"):
        load_torch(path)


def test_compressed_archives_are_refused(tmp_path):
    path = tmp_path / "w.pth"
    torch.save({"a": torch.zeros(10**6)}, path)
    rewrite(path, lambda entries: entries, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 10_000
    with pytest.raises(ValueError, match="it is a compressed archive"):
        load_torch(path)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda e: {"w/readme": b"hello"}, "an archive of something else"),
        (lambda e: e | {"v/data.pkl": b"N."}, "an archive of something else"),
        (lambda e: e | {"w/constants.pkl": b"N."}, "it is a TorchScript archive: save the state_dict"),
    ],
)
def test_archives_of_another_kind_are_refused(tmp_path, change, sentence):
    path = tmp_path / "w.pth"
    torch.save({"a": torch.zeros(3)}, path)
    rewrite(path, change)
    with pytest.raises(ValueError, match=sentence):
        load_torch(path)


def test_archives_whose_entries_overlap_are_refused(tmp_path):
    path = tmp_path / "w.pth"
    torch.save({"a": torch.zeros(1000), "b": torch.zeros(1000)}, path)
    with zipfile.ZipFile(path, "a") as archive:
        first, second = (entry for entry in archive.infolist() if "/data/" in entry.filename)
        archive._didModify = True  # writes the directory again, with
        second.header_offset = first.header_offset
        for number in range(100):
            entry = zipfile.ZipInfo(f"w/data/{number + 2}")
            entry.file_size = entry.compress_size = first.file_size
            entry.header_offset, entry.CRC = first.header_offset, first.CRC
            archive.filelist.append(entry)
    with pytest.raises(ValueError, match="its entries overlap"):
        load_torch(path)


def test_archives_without_checksums_are_read(tmp_path):
    path = tmp_path / "w.pth"
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"a": torch.arange(3.0)}, path)
    finally:
        torch.serialization.set_crc32_options(before)
    assert load_torch(path)["a"].tolist() == [0, 1, 2]


def test_a_flipped_bit_is_noticed(tmp_path):
    """torch.load alone returns the changed number."""
    path = tmp_path / "w.pth"
    torch.save({"a": torch.arange(1000.0)}, path)
    content = bytearray(path.read_bytes())
    content[content.index(struct.pack("<2f", 500, 501))] ^= 1
    path.write_bytes(content)
    assert torch.load(path)["a"][500] != 500
    with pytest.raises(ValueError, match=r"w\.pth .*damaged \(Bad CRC-32 for file 'w/data/0'\)"):
        load_torch(path)


@pytest.mark.parametrize("version", ["2.4.1", "2.5.0+cu121", "1.13.1"])
def test_a_torch_that_runs_code_of_weight_files_is_refused(tmp_path, monkeypatch, version):
    torch.save({"a": torch.zeros(3)}, tmp_path / "w.pth")
    monkeypatch.setattr(torch, "__version__", version)
    with pytest.raises(ValueError, match=rf"torch {version[:3]}.* \(CVE-2025-32434\): install torch 2\.6"):
        load_torch(tmp_path / "w.pth")


@pytest.mark.parametrize("version", ["2.6.0", "2.13.0+cpu", "3.0.0a0+git1"])
def test_a_newer_torch_is_not_refused(monkeypatch, version):
    monkeypatch.setattr(torch, "__version__", version)
    torch_files.check_torch_version()
