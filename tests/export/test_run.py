"""Whole networks as files: their contents, their detections, and wrong files, which are not kept."""

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
from maskrcnn.export.graph import INPUTS, InputShape, to_half
from maskrcnn.runtimes.network import ExportedNetwork
from maskrcnn.runtimes.read import read_exported
from maskrcnn.runtimes.torch_program import read_package
from maskrcnn.types import Batch
from maskrcnn.weights.model_checkpoint import read_model

PICTURE = run.synthetic_example(3).permute(1, 2, 0).contiguous().numpy()[:200, :310]


def assert_same(one, other):
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
    trained = networks.small(**{"keypoints.count": 2, "keypoints.channels": 8})
    trained = replace(trained, score_thresholds=(0.1, 0.2, 0.3))
    return networks.saved(trained, tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def dynamic(weights):
    pytest.importorskip("onnxscript", reason="onnxscript writes ONNX files")
    pytest.importorskip("onnxruntime", reason="ONNX Runtime runs them")
    return run.export(weights)


@pytest.mark.slow
def test_an_onnx_file_is_complete_and_uses_standard_operators(dynamic, weights):
    import onnx

    assert dynamic.path == weights.with_suffix(".onnx")
    assert sorted(path.name for path in dynamic.path.parent.iterdir()) == ["network.onnx", "network.pt"]
    assert [difference.case for difference in dynamic.differences] == [
        "picture",
        "blank",
        "odd size",
        "batch of 3",
    ]
    assert min(difference.detections for difference in dynamic.differences) > 0
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
        assert_same(exported.predict(picture, 0.1), original.predict(picture, 0.1))
    assert exported.metadata == original.metadata and exported.metadata.score_thresholds == (0.1, 0.2, 0.3)


@pytest.mark.slow
def test_an_input_of_one_size(tmp_path, capsys):
    pytest.importorskip("onnxscript", reason="onnxscript writes ONNX files")
    pytest.importorskip("onnxruntime", reason="ONNX Runtime runs them")
    weights = networks.saved(networks.small("resnet18_c4", **{"proposals.post_nms": 20}), tmp_path)
    words = ["export", str(weights), "--size", "96x160", "--batch", "2", "--output", str(tmp_path / "a.onnx")]
    assert cli.main(words) == 0
    output = capsys.readouterr().out
    assert "picture" in output and "batch of 3" not in output and str(tmp_path / "a.onnx") in output
    predictor = maskrcnn.load(str(tmp_path / "a.onnx"))
    pictures = [PICTURE[:186], PICTURE[:, :100], PICTURE[:90]]
    (_, wide), (_, upright), _ = predictor.predict_many(pictures, score=0.0, batch_size=3)
    assert upright.size_hw == (200, 100) and upright.boxes[:, 2].max() <= 100
    original = maskrcnn.load(weights, "cpu")
    original.resize = predictor.resize
    assert_same(
        wide, original.predict(PICTURE[:186], 0.0)
    )  # 186 × 310 fill 96 × 160; others are padded to it


@pytest.mark.slow
def test_an_exported_program(weights, tmp_path):
    written = run.export(weights, "torch", output=tmp_path / "network.pt2")
    assert [difference.case for difference in written.differences] == [
        "picture",
        "blank",
        "odd size",
        "batch of 3",
    ]
    assert max(difference.boxes for difference in written.differences) < 1e-3


@pytest.mark.slow
def test_native_code(tmp_path):
    if not any(map(shutil.which, ("g++", "clang++"))):
        pytest.skip("there is no C++ compiler")
    weights = networks.saved(networks.small(**{"proposals.post_nms": 20}), tmp_path)
    path = tmp_path / "network.pt2"
    written = run.export(weights, "aotinductor", shape=InputShape((128, 160), 1), output=path)
    assert [difference.case for difference in written.differences] == ["picture", "blank"]
    assert max(difference.boxes for difference in written.differences) < 1e-3
    assert read_package(path).description.metadata.class_names == ("cat", "dog", "hen")


@pytest.mark.slow
def test_openvino(weights, tmp_path):
    pytest.importorskip("openvino", reason="OpenVINO runs its own files")
    pytest.importorskip("onnxscript", reason="by way of ONNX")
    written = run.export(weights, "openvino", output=tmp_path / "network.xml")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["network.bin", "network.xml"]
    exported, expected = read_exported(written.path), read_model(weights)
    assert exported.description.metadata.class_names == expected.class_names


def fake(detect):
    """A format whose files are empty and whose networks return `detect(model, batch)`."""
    kept = {}

    def write(model, description, path):
        path.write_text("a network")
        kept.update(model=model, description=description)

    def read(path):
        network = ExportedNetwork(kept["description"], lambda images, sizes_hw: {})
        object.__setattr__(network, "detect", lambda batch: detect(kept["model"], batch))
        return network

    return run.Format(".fake", write, read)


def test_a_file_with_other_detections_is_not_kept(tmp_path, monkeypatch):
    weights = networks.saved(networks.small(), tmp_path)
    right = fake(lambda model, batch: model.detect(batch))
    wrong = fake(lambda model, batch: model.detect(batch)._replace(boxes=model.detect(batch).boxes + 1))
    monkeypatch.setattr(run, "FORMATS", {"right": right, "wrong": wrong})
    with pytest.raises(
        ValueError, match=r"case 'picture' \(1x3x160x160\), boxes differ by 1,.*no file was written"
    ):
        run.export(weights, "wrong")
    assert [path.name for path in tmp_path.iterdir()] == ["network.pt"]
    written = run.export(weights, "right")
    assert written.path.read_text() == "a network" and written.metrics == {}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["network.fake", "network.pt"]


def test_half_precision_detects_the_same(tmp_path, monkeypatch):
    weights = networks.saved(networks.small(), tmp_path)
    dtypes = []

    def detect(model, batch):
        dtypes.extend({parameter.dtype for parameter in model.parameters()})
        return model.detect(batch)

    monkeypatch.setattr(run, "FORMATS", {"right": fake(detect)})
    run.export(weights, "right", half=True)
    assert set(dtypes) == {torch.float16}


def test_impossible_exports_are_rejected(tmp_path, capsys):
    weights = networks.saved(networks.small(), tmp_path)
    for words, sentence in (
        (["--size", "100x96"], "multiples of 32 px, not 100x96"),
        (["--output", "a.xml"], "must end in .onnx, not be named a.xml"),
        (["--int8", str(tmp_path)], "int8 is supported only in the format openvino, not in onnx"),
    ):
        assert cli.main(["export", str(weights), *words]) == 2
        assert sentence in capsys.readouterr().err


def test_the_description_is_that_of_the_network(weights):
    checkpoint = read_model(weights)
    model = checkpoint.build()
    description = run.describe(checkpoint, model, InputShape((64, 96), 1))
    expected = description.input
    assert expected.mean == pytest.approx((123.675, 116.28, 103.53))
    assert expected.std == pytest.approx((58.395, 57.12, 57.375))
    assert (expected.stride, expected.channels, expected.bgr, description.max_detections) == (
        32,
        3,
        False,
        12,
    )
    dynamic = replace(description, input=replace(expected, size_hw=None, batch=None))
    assert dynamic == run.describe(checkpoint, model)


@pytest.mark.parametrize("form", ["resnet18_fpn", "resnet18_fpn_box", "resnet18_fpn_keypoint"])
def test_half_precision_keeps_boxes_and_scores_in_single(form):
    model = networks.small(form).build().eval()
    half = to_half(model)
    assert {parameter.dtype for parameter in half.parameters()} == {torch.float16}
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    image = torch.from_numpy(PICTURE[:96, :128]).permute(2, 0, 1)[None]
    with torch.inference_mode():
        detections = half.detect(Batch(image, torch.tensor([[96, 128]])))
    assert detections.boxes.dtype == detections.scores.dtype == torch.float32
