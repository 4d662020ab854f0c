"""Differences between detections that are made by hand."""

import pytest
import torch

import networks
from maskrcnn.export.check import HALF, SINGLE, Case, check_cases, compare, differences_table
from maskrcnn.export.graph import InputShape, min_side
from maskrcnn.export.run import describe
from maskrcnn.types import Batch, Detections

CHECKPOINT = networks.small(**{"boxes.max_detections": 4})
MODEL = CHECKPOINT.build()
DYNAMIC = describe(CHECKPOINT, MODEL)
CASE = Case("one", Batch(torch.zeros(1, 3, 96, 96, dtype=torch.uint8), torch.tensor([[96, 96]])))


def detections(*objects, masks=None):
    """Detections of one picture in four slots: (x1, score, label) each."""
    boxes = torch.zeros(1, 4, 4)
    scores, labels, valid = torch.zeros(1, 4), torch.zeros(1, 4, dtype=torch.int64), torch.zeros(1, 4)
    for slot, (x, score, label) in enumerate(objects):
        boxes[0, slot] = torch.tensor([x, 10.0, 60, 60])
        scores[0, slot], labels[0, slot], valid[0, slot] = score, label, 1
    probs = torch.zeros(1, 4, 2, 2) if masks is None else masks
    return Detections(boxes, scores, labels, valid.bool(), probs)


def difference(one, other, tolerance=SINGLE):
    [result] = compare(lambda _: one, lambda _: other, [CASE], DYNAMIC, tolerance)
    return result


def test_small_differences_are_reported():
    masks = torch.zeros(1, 4, 2, 2)
    masks[0, 1, 0, 0] = 0.005
    result = difference(
        detections((10, 0.9, 0), (20, 0.8, 1)), detections((10.03125, 0.9, 0), (20, 0.8005, 1), masks=masks)
    )
    assert result[:3] == ("one", "1x3x96x96", 2)
    assert result.boxes == 0.03125 and abs(result.scores - 0.0005) < 1e-6 and abs(result.masks - 0.005) < 1e-6


def test_another_order_is_no_difference():
    result = difference(detections((10, 0.9, 0), (20, 0.9, 1)), detections((20, 0.9, 1), (10, 0.9, 0)))
    assert result.boxes == result.scores == 0


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        (detections((10.1, 0.9, 0)), "case 'one' .*boxes differ by 0.1, and at most 0.05"),
        (detections((10, 0.898, 0)), "scores differ by 0.002"),
        (detections((10, 0.9, 1)), "boxes differ by inf"),  # another class
        (detections(), "boxes differ by inf"),
        (detections((10, 0.9, 0), (30, 0.7, 2)), "boxes differ by inf"),  # one too many
        (detections((10, 0.9, 0), masks=torch.full((1, 4, 2, 2), 0.02)), "masks differ by 0.02"),
        (detections((float("nan"), 0.9, 0)), "boxes differ by nan"),
    ],
)
def test_large_differences_are_rejected(other, sentence):
    with pytest.raises(ValueError, match=sentence):
        difference(detections((10, 0.9, 0)), other)


def test_detections_at_the_threshold_or_in_the_last_slot_may_be_missing():
    difference(detections((10, 0.9, 0), (30, 0.0501, 2)), detections((10, 0.9, 0)))
    with pytest.raises(ValueError, match="boxes"):
        difference(detections((10, 0.9, 0), (30, 0.06, 2)), detections((10, 0.9, 0)))
    four = [(10, 0.9, 0), (15, 0.8, 0), (20, 0.7, 1)]
    difference(detections(*four, (30, 0.6, 2)), detections(*four, (35, 0.6, 2)))
    difference(detections((10, 0.9, 0), (30, 0.4, 2)), detections((11.5, 0.87, 0)), HALF)


def test_a_check_that_compared_nothing_says_so():
    some, none = (
        difference(detections((10, 0.9, 0)), detections((10, 0.9, 0))),
        difference(detections(), detections()),
    )
    assert "no detections were compared" in differences_table([none, none]).caption
    assert differences_table([none, some]).caption is None


def test_cases_depend_on_the_dynamic_dimensions():
    picture = torch.zeros(3, 120, 200, dtype=torch.uint8)
    cases = check_cases(DYNAMIC, picture)
    assert [(case.name, tuple(case.batch.images.shape)) for case in cases] == [
        ("picture", (1, 3, 128, 224)),  # 120 × 200 fits into 160 × 200 as it is
        ("blank", (1, 3, 128, 224)),
        ("odd size", (1, 3, 96, 160)),
        ("batch of 3", (3, 3, 96, 160)),
    ]
    assert cases[2].batch.sizes_hw.tolist() == [[85, 143]]
    fixed = describe(CHECKPOINT, MODEL, InputShape((64, 96), 2))
    assert [case.name for case in check_cases(fixed, picture)] == ["picture", "blank"]
    assert check_cases(fixed, picture)[0].batch.sizes_hw.tolist() == [[57, 96]]
    assert check_cases(fixed, picture)[0].batch.images.shape == (1, 3, 64, 96)


def test_impossible_inputs_are_rejected():
    with pytest.raises(ValueError, match="multiples of 32 px, not 100x96"):
        describe(CHECKPOINT, MODEL, InputShape((100, 96)))
    with pytest.raises(ValueError, match="at least 1 picture, not 0"):
        describe(CHECKPOINT, MODEL, InputShape(batch=0))


def test_min_side():
    # 60 proposals: at 32 px P2 has 8 × 8 × 3 anchors, enough, but P6 has two cells from 65 px on alone
    assert min_side(MODEL) == 96
    # 1000 proposals of 1000 a level at most: 96 px have 1000 + 432 + 108 + 27 + 12 anchors
    assert min_side(networks.small(**{"proposals.post_nms": 1000}).build()) == 96
    # one level of 15 anchors a cell, at most 4000 of them, 1000 wanted: 9 × 9 × 15 = 1215, from 129 px on
    assert min_side(networks.small("resnet18_c4", **{"proposals.post_nms": 1000}).build()) == 129
