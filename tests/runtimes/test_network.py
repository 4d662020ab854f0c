"""Exported networks whose runtime is a function: the inputs it gets, and what becomes of its outputs."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from maskrcnn.predict.predictor import Predictor
from maskrcnn.runtimes.description import Description, InputFormat
from maskrcnn.runtimes.network import ExportedNetwork
from maskrcnn.types import Batch, Metadata

DESCRIPTION = Description(
    recipe="resnet18_fpn",
    metadata=Metadata(("cat", "dog"), (3, 17), (), ()),
    input=InputFormat(None, None, 3, stride=32, min_side=96, mean=(1.0,), std=(1.5,), bgr=False),
    short_side=None,
    long_side=400,
    white=None,
    max_detections=2,
    score_threshold=0.05,
)


def network(**input_changes):
    """A network that detects a dog as large as the picture, with its first pixel as the score; its inputs."""
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

    changed = replace(DESCRIPTION, input=replace(DESCRIPTION.input, **input_changes))
    return ExportedNetwork(changed, run), seen


def batch(*sizes_hw, padded=(64, 128)):
    images = torch.zeros(len(sizes_hw), 3, *padded, dtype=torch.uint8)
    images[:, 0, 0, 0] = torch.arange(len(sizes_hw)) + 100
    return Batch(images, torch.tensor(sizes_hw))


def test_pictures_are_padded_to_the_smallest_side():
    exported, seen = network()
    detections = exported.detect(batch((60, 120)))
    assert seen == [((1, 3, 96, 128), [[60, 120]])]
    assert detections.boxes[0, 0].tolist() == [0, 0, 120, 60]
    assert detections.valid.tolist() == [[True, False]]
    assert detections.mask_probs.shape == (1, 2, 4, 4) and detections.keypoint_heatmaps is None


def test_a_fixed_input_is_padded_in_size_and_number():
    exported, seen = network(size_hw=(64, 160), batch=2)
    detections = exported.detect(batch((60, 120), (64, 128), (10, 20)))
    assert seen == [
        ((2, 3, 64, 160), [[60, 120], [64, 128]]),
        ((2, 3, 64, 160), [[10, 20], [1, 1]]),
    ]
    assert detections.boxes[:, 0, 2:].tolist() == [[120, 60], [128, 64], [20, 10]]
    torch.testing.assert_close(detections.scores[:, 0] * 255, torch.tensor([100.0, 101, 102]))
    with pytest.raises(ValueError, match=r"at most 64x160 pixels .*, not 96x128"):
        exported.detect(batch((60, 120), padded=(96, 128)))


@pytest.mark.parametrize("size_hw", [(200, 400), (400, 200), (30, 40)])
def test_pictures_are_resized_to_a_fixed_input(size_hw):
    exported, seen = network(size_hw=(64, 160))
    pixels = np.full((*size_hw, 3), 255, np.uint8)
    result = Predictor.from_exported(exported).predict(pixels, 0.5)
    assert result.names == ["dog"] and result.masks.mean() > 0.97  # the mask's corners are round
    np.testing.assert_allclose(result.boxes, [[0, 0, size_hw[1], size_hw[0]]], rtol=1e-5)
    [(shape, [inside])] = seen
    assert shape == (1, 3, 64, 160) and (inside[0] == 64 or inside[1] == 160)
