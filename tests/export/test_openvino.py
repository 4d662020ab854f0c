"""The data of a quantization, read without NNCF."""

import sys
from types import ModuleType

import pytest

import networks
from maskrcnn.cli import main
from maskrcnn.data.synthetic import synthetic_dataset
from maskrcnn.export import run
from maskrcnn.export.openvino import read_calibration


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return synthetic_dataset(tmp_path_factory.mktemp("synthetic"), train=3, val=2, size=64)


@pytest.fixture
def _nncf(monkeypatch):
    monkeypatch.setitem(sys.modules, "nncf", ModuleType("nncf"))


@pytest.mark.usefixtures("_nncf")
def test_a_data_set_calibrates_on_one_split_and_evaluates_on_the_other(data):
    calibration = read_calibration(data)
    assert {path.parent.name for path in calibration.pictures} == {"train"}
    assert len(calibration.pictures) == 3 and len(calibration.evaluated_on) == 2


@pytest.mark.usefixtures("_nncf")
def test_a_folder_calibrates_without_an_evaluation(data):
    calibration = read_calibration(data / "val")
    assert len(calibration.pictures) == 2 and calibration.evaluated_on is None


def never(*arguments):
    pytest.fail("a file was written before the data were read")


@pytest.mark.usefixtures("_nncf")
def test_a_missing_folder_is_reported_before_anything_is_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(run.FORMATS, "openvino", run.Format(".xml", never, never))
    weights = networks.saved(networks.small(), tmp_path)
    words = ["--format", "openvino", "--int8", str(tmp_path / "nothing")]
    assert main(["export", str(weights), *words]) == 2
    assert "nothing" in capsys.readouterr().err


def test_a_missing_package_is_named_with_its_extra(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "nncf", None)  # importing it raises ImportError
    monkeypatch.setitem(run.FORMATS, "openvino", run.Format(".xml", never, never))
    weights = networks.saved(networks.small(), tmp_path)
    assert main(["export", str(weights), "--format", "openvino", "--int8", str(data)]) == 2
    assert "pip install 'maskrcnn[openvino]'" in capsys.readouterr().err
