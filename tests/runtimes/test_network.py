"""Exported networks whose runtime is a function: what it is given, what is made of its answers."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from maskrcnn.predict.load import load
from maskrcnn.predict.predictor import Predictor
from maskrcnn.runtimes.description import Description, read_description
from maskrcnn.runtimes.network import ExportedNetwork
from maskrcnn.runtimes.read import is_exported, read_exported
from maskrcnn.types import Batch

ABOUT = Description(
    recipe="resnet18_fpn",
    class_names=("cat", "dog"),
    category_ids=(3, 17),
    keypoint_names=("head", "tail"),
    skeleton=((0, 1),),
    short_side=None,
    long_side=400,
    size_hw=None,
    least_side=96,
    stride=32,
    batch=None,
    channels=3,
    pixel_mean=(1.0, 2.0, 3.0),
    pixel_std=(1.0, 1.0, 1.5),
    bgr=False,
    max_detections=2,
    score_threshold=0.05,
)


def network(**changes):
    """A network that finds a dog as large as the picture, its first pixel as the score; what it was given."""
    seen = []

    def run(images, sizes_hw):
        seen.append((images.shape, sizes_hw.tolist()))
        boxes = np.zeros((len(images), 2, 4), np.float32)
        boxes[:, 0, 2:] = sizes_hw[:, ::-1]
        scores = np.zeros((len(images), 2), np.float32)
        scores[:, 0] = images[:, 0, 0, 0] / 255
        return {
            "boxes": boxes,
            "scores": scores,
            "labels": np.array([[1, 0]] * len(images)),
            "masks": np.ones((len(images), 2, 4, 4), np.float32),
            "count": np.array([1] * len(images)),
        }

    return ExportedNetwork(replace(ABOUT, **changes), run), seen


def batch(*sizes_hw, padded=(64, 128)):
    images = torch.zeros(len(sizes_hw), 3, *padded, dtype=torch.uint8)
    images[:, 0, 0, 0] = torch.arange(len(sizes_hw)) + 100
    return Batch(images, torch.tensor(sizes_hw))


def test_any_size_is_padded_to_the_least():
    exported, seen = network()
    found = exported.detect(batch((60, 120)))
    assert seen == [((1, 3, 96, 128), [[60, 120]])]
    assert found.boxes[0, 0].tolist() == [0, 0, 120, 60] and found.valid.tolist() == [[True, False]]
    assert found.mask_probs.shape == (1, 2, 4, 4) and found.keypoint_heatmaps is None


def test_a_fixed_input_is_filled_and_emptied():
    exported, seen = network(size_hw=(64, 160), batch=2)
    found = exported.detect(batch((60, 120), (64, 128), (10, 20)))
    assert seen == [
        ((2, 3, 64, 160), [[60, 120], [64, 128]]),
        ((2, 3, 64, 160), [[10, 20], [1, 1]]),
    ]
    assert found.boxes[:, 0, 2:].tolist() == [[120, 60], [128, 64], [20, 10]]
    torch.testing.assert_close(found.scores[:, 0] * 255, torch.tensor([100.0, 101, 102]))
    with pytest.raises(ValueError, match="64 rows of 160 pixels, not 96 of 128"):
        exported.detect(batch((60, 120), padded=(96, 128)))


@pytest.mark.parametrize("size_hw", [(200, 400), (400, 200), (30, 40)])
def test_pictures_are_made_to_fit(size_hw):
    exported, seen = network(size_hw=(64, 160))
    pixels = np.full((*size_hw, 3), 255, np.uint8)
    result = Predictor.from_exported(exported).predict(pixels, 0.5)
    assert result.names == ["dog"] and result.masks.mean() > 0.97  # its corners are round
    np.testing.assert_allclose(result.boxes, [[0, 0, size_hw[1], size_hw[0]]], rtol=1e-5)
    [(shape, [inside])] = seen
    assert shape == (1, 3, 64, 160) and (inside[0] == 64 or inside[1] == 160)


def test_a_description_survives(tmp_path):
    for about in (ABOUT, replace(ABOUT, size_hw=(64, 96), batch=2, short_side=800, skeleton=())):
        assert read_description(about.to_json(), tmp_path) == about


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (None, "was not written by maskrcnn export"),
        ("{", "was not written by maskrcnn export"),
        ("[1]", "another version"),
        (json.dumps({**asdict(ABOUT), "more": 1}), "another version"),
        (json.dumps({**asdict(ABOUT), "stride": "32"}), "stride is '32'"),
        (json.dumps({**asdict(ABOUT), "stride": True}), "stride is True"),
        (json.dumps({**asdict(ABOUT), "size_hw": [1, 2, 3]}), "size_hw is"),
        (json.dumps({**asdict(ABOUT), "class_names": ["a", 2]}), "class_names is"),
        (json.dumps({**asdict(ABOUT), "class_names": ["a"]}), "as many category ids as class names"),
    ],
)
def test_a_foreign_description_is_refused(text, sentence, tmp_path):
    with pytest.raises(ValueError, match=sentence):
        read_description(text, tmp_path / "a.onnx")


def test_files_by_their_names(tmp_path):
    assert is_exported("a/b.onnx") and is_exported(tmp_path / "b.xml") and not is_exported("b.pt")
    with pytest.raises(FileNotFoundError, match=r"there is no file .*b\.onnx"):
        read_exported(tmp_path / "b.onnx")
    with pytest.raises(ValueError, match="export it again"):
        load("b.onnx", class_names=["a"])


def test_no_onnx_file(tmp_path):
    pytest.importorskip("onnxruntime", reason="ONNX Runtime reads them")
    (tmp_path / "b.onnx").write_text("hello")
    with pytest.raises(ValueError, match="cannot be read as an ONNX file"):
        read_exported(tmp_path / "b.onnx")
    with pytest.raises(ValueError, match="has no device 'abacus'"):
        read_exported(tmp_path / "b.onnx", "abacus")
