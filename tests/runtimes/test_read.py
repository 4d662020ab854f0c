"""Files by their names: which are read, which are rejected, and why."""

import zipfile

import pytest
import torch

from maskrcnn.predict.load import load
from maskrcnn.runtimes.read import is_exported, read_exported
from maskrcnn.runtimes.torch_program import read_package, read_program


def test_exported_files_are_known_by_their_suffix(tmp_path):
    assert is_exported("a/b.onnx") and is_exported(tmp_path / "b.xml") and not is_exported("b.pt")
    with pytest.raises(FileNotFoundError, match=r"there is no file .*b\.onnx"):
        read_exported(tmp_path / "b.onnx")
    with pytest.raises(ValueError, match="export"):
        load("b.onnx", class_names=["a"])


def test_files_that_are_not_onnx(tmp_path):
    pytest.importorskip("onnxruntime", reason="ONNX Runtime reads them")
    (tmp_path / "b.onnx").write_text("hello")
    with pytest.raises(ValueError, match=r"ONNX Runtime cannot read .*b\.onnx"):
        read_exported(tmp_path / "b.onnx")
    with pytest.raises(ValueError, match=r"has no device 'abacus' here; it has .*cpu, or auto"):
        read_exported(tmp_path / "b.onnx", "abacus")


def test_files_that_are_not_openvino(tmp_path):
    pytest.importorskip("openvino", reason="OpenVINO reads them")
    (tmp_path / "b.xml").write_text("<hello/>")
    with pytest.raises(ValueError, match=r"OpenVINO cannot read .*b\.xml for the device 'auto'"):
        read_exported(tmp_path / "b.xml")


def add_one_program(path):
    """A program of torch.export that no maskrcnn wrote."""

    class AddOne(torch.nn.Module):
        def forward(self, x):
            return x + 1

    torch.export.save(torch.export.export(AddOne(), (torch.zeros(2),)), path)


def test_files_that_execute_code_are_not_opened_by_name(tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr(torch.export, "load", lambda *arguments, **others: opened.append(arguments))
    add_one_program(tmp_path / "b.pt2")
    with pytest.raises(ValueError, match=r"executes code from it.* call read_program or read_package"):
        load(tmp_path / "b.pt2")
    assert not opened


@pytest.mark.parametrize("read", [read_program, read_package])
def test_files_that_pytorch_did_not_write(read, tmp_path):
    (tmp_path / "b.pt2").write_text("hello")
    with pytest.raises(ValueError, match=r"PyTorch cannot read .*b\.pt2"):
        read(tmp_path / "b.pt2")
    with zipfile.ZipFile(tmp_path / "c.pt2", "w") as archive:
        archive.writestr("c/version", "1")
    with pytest.raises(ValueError, match=r"PyTorch cannot read .*c\.pt2"):
        read(tmp_path / "c.pt2")


def test_programs_without_a_description(tmp_path):
    add_one_program(tmp_path / "b.pt2")
    with pytest.raises(ValueError, match=r"b\.pt2 has no description"):
        read_program(tmp_path / "b.pt2")
