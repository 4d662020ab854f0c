"""A small data set and a checkpoint trained on it for two steps, for all tests of the commands."""

import pytest

from maskrcnn.cli import main
from maskrcnn.data import synthetic
from offline import offline as offline

TINY = [
    "steps=2",
    "batch_size=2",
    "short_sides=64",
    "long_side=64",
    "workers=0",
    "log_every=1",
    "eval_every=none",
]
TINY_RECIPE = [
    "pyramid.channels=16",
    "masks.channels=16",
    "boxes.hidden=16",
    "body.norm=group",
    "body.frozen=",
    "boxes.samples_per_image=16",
    "boxes.max_detections=5",
]


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    return synthetic.synthetic_dataset(tmp_path_factory.mktemp("synthetic"), train=4, val=2, size=64)


@pytest.fixture(scope="session")
def weights(data, tmp_path_factory):
    output = tmp_path_factory.mktemp("run")
    words = ["train", str(data), "--recipe", "resnet18_fpn", "--output", str(output), "--device", "cpu"]
    assert main([*words, "--set", *TINY, *TINY_RECIPE]) == 0
    return output / "best.pt"
