"""Whole networks as files: what they hold, what they answer, and what happens when they answer wrongly."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from jaxtyping import config

import maskrcnn
import networks
from maskrcnn import cli
from maskrcnn.export import run
from maskrcnn.export.graph import INPUTS
from maskrcnn.export.program import read_package
from maskrcnn.runtimes.network import ExportedNetwork
from maskrcnn.runtimes.read import read_exported
from maskrcnn.weights.model_checkpoint import read_model

PICTURE = run.drawn(3).permute(1, 2, 0).contiguous().numpy()[:200, :310]


def same(one, other):
    assert len(one) == len(other) > 0
    np.testing.assert_allclose(one.boxes, other.boxes, atol=0.05)
    np.testing.assert_allclose(one.scores, other.scores, atol=1e-3)
    np.testing.assert_array_equal(one.labels, other.labels)
    assert one.class_names == other.class_names and one.category_ids == other.category_ids
    if one.mask_probs is not None:
        np.testing.assert_allclose(one.mask_probs, other.mask_probs, atol=1e-3)
    if one.keypoints is not None:
        np.testing.assert_allclose(one.keypoints, other.keypoints, atol=0.1)


@pytest.fixture(scope="module", autouse=True)
def _unchecked():
    """Leave shapes unchecked here: the sizes of a network that is being traced are symbols, not ints."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    trained = networks.small(keypoints=2, keypoint_channels=8)
    return networks.saved(trained, tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def dynamic(weights):
    pytest.importorskip("onnxscript", reason="onnxscript writes ONNX files")
    pytest.importorskip("onnxruntime", reason="ONNX Runtime runs them")
    return run.export(weights)


@pytest.mark.slow
def test_an_onnx_file_holds_all_and_asks_for_nothing(dynamic, weights):
    import onnx

    assert dynamic.path == weights.with_suffix(".onnx")
    assert sorted(path.name for path in dynamic.path.parent.iterdir()) == ["network.onnx", "network.pt"]
    assert [figure.case for figure in dynamic.figures] == ["picture", "blank", "odd size", "batch of 3"]
    assert min(figure.detections for figure in dynamic.figures) > 0
    model = onnx.load(dynamic.path)
    onnx.checker.check_model(model)
    assert [(one.domain, one.version) for one in model.opset_import] == [("", 18)] and not model.functions
    assert {node.domain for node in model.graph.node} == {""}
    assert [value.name for value in model.graph.input] == INPUTS
    names = ["boxes", "scores", "labels", "masks", "keypoint_heatmaps", "count"]
    assert [value.name for value in model.graph.output] == names


@pytest.mark.slow
def test_an_onnx_file_predicts_as_the_checkpoint_does(dynamic, weights):
    exported, original = maskrcnn.load(dynamic.path, "cpu"), maskrcnn.load(weights, "cpu")
    for picture in (PICTURE, PICTURE[:60, :40]):
        same(exported.predict(picture, 0.1), original.predict(picture, 0.1))


@pytest.mark.slow
def test_an_input_of_one_size(tmp_path, capsys):
    pytest.importorskip("onnxscript", reason="onnxscript writes ONNX files")
    pytest.importorskip("onnxruntime", reason="ONNX Runtime runs them")
    weights = networks.saved(networks.small("resnet18_c4", proposals=20), tmp_path)
    words = ["export", str(weights), "--size", "96x160", "--batch", "2", "--output", str(tmp_path / "a.onnx")]
    assert cli.main(words) == 0
    said = capsys.readouterr().out
    assert "picture" in said and "batch of 3" not in said and str(tmp_path / "a.onnx") in said
    predictor = maskrcnn.load(str(tmp_path / "a.onnx"))
    pictures = [PICTURE[:186], PICTURE[:, :100], PICTURE[:90]]
    (_, wide), (_, upright), _ = predictor.predict_many(pictures, score=0.0, batch_size=3)
    assert upright.size_hw == (200, 100) and upright.boxes[:, 2].max() <= 100
    original = maskrcnn.load(weights, "cpu")
    original.resize = predictor.resize
    same(wide, original.predict(PICTURE[:186], 0.0))  # 186 × 310 fill 96 × 160; others are padded to it


@pytest.mark.slow
def test_an_exported_program(weights, tmp_path):
    written = run.export(weights, "torch", output=tmp_path / "network.pt2")
    assert [figure.case for figure in written.figures] == ["picture", "blank", "odd size", "batch of 3"]
    assert max(figure.boxes for figure in written.figures) < 1e-3


@pytest.mark.slow
def test_native_code(tmp_path):
    if not any(map(shutil.which, ("g++", "clang++"))):
        pytest.skip("there is no C++ compiler")
    weights = networks.saved(networks.small(proposals=20), tmp_path)
    path = tmp_path / "network.pt2"
    written = run.export(weights, "aotinductor", size_hw=(128, 160), batch=1, output=path)
    assert [figure.case for figure in written.figures] == ["picture", "blank"]
    assert max(figure.boxes for figure in written.figures) < 1e-3
    assert read_package(path).description.class_names == ("cat", "dog", "hen")


@pytest.mark.slow
def test_openvino(weights, tmp_path):
    pytest.importorskip("openvino", reason="OpenVINO runs its own files")
    pytest.importorskip("onnxscript", reason="by way of ONNX")
    written = run.export(weights, "openvino", output=tmp_path / "network.xml")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["network.bin", "network.xml"]
    found, expected = read_exported(written.path), read_model(weights)
    assert found.description.class_names == expected.class_names


def fake(answer):
    """A format whose files hold nothing and whose networks give `answer(model, batch)`."""
    kept = {}

    def write(model, description, path):
        path.write_text("a network")
        kept.update(model=model, description=description)

    def read(path):
        network = ExportedNetwork(kept["description"], lambda images, sizes_hw: {})
        object.__setattr__(network, "detect", lambda batch: answer(kept["model"], batch))
        return network

    return run.Format(".fake", write, read)


def test_a_file_that_answers_wrongly_is_not_kept(tmp_path, monkeypatch):
    weights = networks.saved(networks.small(), tmp_path)
    right = fake(lambda model, batch: model.detect(batch))
    wrong = fake(lambda model, batch: model.detect(batch)._replace(boxes=model.detect(batch).boxes + 1))
    monkeypatch.setattr(run, "FORMATS", {"right": right, "wrong": wrong})
    with pytest.raises(ValueError, match=r"case 'picture' \(1x3x160x160\), boxes differ by 1,.*no file"):
        run.export(weights, "wrong")
    assert [path.name for path in tmp_path.iterdir()] == ["network.pt"]
    written = run.export(weights, "right")
    assert written.path.read_text() == "a network" and written.metrics == {}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["network.fake", "network.pt"]


def test_half_precision_finds_the_same(tmp_path, monkeypatch):
    weights = networks.saved(networks.small(), tmp_path)
    dtypes = []

    def answer(model, batch):
        dtypes.extend({parameter.dtype for parameter in model.parameters()})
        return model.detect(batch)

    monkeypatch.setattr(run, "FORMATS", {"right": fake(answer)})
    run.export(weights, "right", half=True)
    assert set(dtypes) == {torch.float16}


def test_what_is_asked_for_wrongly(tmp_path, capsys):
    weights = networks.saved(networks.small(), tmp_path)
    for words, sentence in (
        (["--size", "100x96"], "multiples of 32 px, not 100x96"),
        (["--output", "a.xml"], "ends in .onnx, not as a.xml"),
        (["--int8", str(tmp_path)], "only the format openvino is quantised, not onnx"),
    ):
        assert cli.main(["export", str(weights), *words]) == 2
        assert sentence in capsys.readouterr().err


def test_metadata_tells_what_the_network_was(weights):
    trained = read_model(weights)
    model = trained.build()
    about = run.describe(trained, model, (64, 96), 1)
    assert about.pixel_mean == pytest.approx((123.675, 116.28, 103.53))
    assert about.pixel_std == pytest.approx((58.395, 57.12, 57.375))
    assert (about.stride, about.channels, about.max_detections, about.bgr) == (32, 3, 12, False)
    assert replace(about, size_hw=None, batch=None) == run.describe(trained, model, None, None)
