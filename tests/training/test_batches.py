"""The batches of a training are a function of the seed and their number, whatever the settings switch on."""

from itertools import islice

import numpy as np
import pytest
import torch

from maskrcnn.data import transforms
from maskrcnn.data.dataset import Objects
from maskrcnn.data.folder import read_split
from maskrcnn.data.loader import random_stream, training_batches
from maskrcnn.training.batches import augmented, augmenting, resizing
from maskrcnn.training.settings import Augmentation, Settings

EVERYTHING = {
    "short_sides": (48, 64),
    "repeat_threshold": 0.9,
    "scale": (0.5, 2.0),
    "crop": (56, 48),
    "object_crops": 0.5,
    "flip_vertical": 0.5,
    "quarter_turns": 0.5,
    "jitter": (0.2, 0.2, 0.2),
    "copy_paste": 0.6,
}


def take(data, settings, count, start=0, workers=0, share=None, seed=3):
    batches = training_batches(
        augmented(read_split(data, "train"), settings),
        batch_size=2,
        stride=32,
        workers=workers,
        seed=seed,
        start=start,
        share=share,
    )
    return list(islice(batches, count))


def tensors(batch, targets):
    return [*batch, targets.boxes, targets.labels, targets.valid, targets.crowd, *targets.masks]


def equal(ours, theirs):
    pairs = zip(ours, theirs, strict=True)
    return all(
        torch.equal(a, b) for one, other in pairs for a, b in zip(tensors(*one), tensors(*other), strict=True)
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_with_everything_on_a_batch_depends_on_seed_and_number_alone(drawn, workers):
    settings = Settings.of(**EVERYTHING)
    batches = take(drawn, settings, 12)
    assert equal(take(drawn, settings, 5, start=7, workers=workers), batches[7:])
    if workers:
        assert equal(take(drawn, settings, 12, workers=workers), batches)
    assert not equal(take(drawn, settings, 12, seed=4), batches)
    # Each process computes its own pictures as one alone does
    for slot in range(2):
        for (part, own), (whole, all_) in zip(
            take(drawn, settings, 4, share=range(slot, slot + 1)), batches, strict=False
        ):
            height, width = part.sizes_hw[0].tolist()
            assert torch.equal(part.sizes_hw[0], whole.sizes_hw[slot])
            assert torch.equal(part.images[0, :, :height, :width], whole.images[slot, :, :height, :width])
            assert torch.equal(own.boxes[0][own.valid[0]], all_.boxes[slot][all_.valid[slot]])


@pytest.mark.parametrize("name", ["quarter_turns", "copy_paste", "object_crops", "repeat_threshold"])
def test_each_changes_the_batches(drawn, name):
    base = {**EVERYTHING, name: 0.0}
    assert not equal(take(drawn, Settings.of(**EVERYTHING), 6), take(drawn, Settings.of(**base), 6))


def test_what_is_off_draws_no_random_number():
    """So that trainings of before these settings are repeated to the bit."""
    sample = transforms.Sample(torch.zeros(3, 40, 60, dtype=torch.uint8), no_objects())
    off = Augmentation(crop=(20, 20), flip_vertical=0.3, jitter=(0.1, 0.2, 0.3))
    before = transforms.compose(
        transforms.crop((20, 20)),
        transforms.flip_horizontal(0.5),
        transforms.flip_vertical(0.3),
        transforms.colour_jitter(0.1, 0.2, 0.3),
    )
    ours, theirs = random_stream(0, 1, 2), random_stream(0, 1, 2)
    assert augmenting(off)(sample, ours).affine == before(sample, theirs).affine
    assert ours.bit_generator.state == theirs.bit_generator.state
    assert resizing(Settings())((40, 60), ours) == (800, 1200)


def test_what_is_off_reads_nothing(drawn, monkeypatch):
    monkeypatch.setattr("maskrcnn.training.batches.repeat_factors", lambda *_: pytest.fail("read the data"))
    data = augmented(read_split(drawn, "train"), Settings())
    assert data.mix is None and data.factors is None
    generator = random_stream(0, 1, 2)
    data.sample(0, generator)
    flips = random_stream(0, 1, 2)
    flips.random(2)
    assert generator.bit_generator.state == flips.bit_generator.state


def no_objects():
    return Objects(
        boxes=np.zeros((0, 4), np.float32),
        labels=np.zeros(0, np.int64),
        crowd=np.zeros(0, bool),
        masks=[],
        keypoints=None,
        ids=np.zeros(0, np.int64),
    )
