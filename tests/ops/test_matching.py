import pytest
import torch

from maskrcnn.ops import matching as sampling
from maskrcnn.ops.matching import IGNORED, NEGATIVE

OBJECTS = torch.tensor([[[0.0, 0, 10, 10], [20, 0, 30, 10]]])


def _match(candidates, valid=None, low_quality=False, objects=OBJECTS):
    valid = torch.ones(objects.shape[:2], dtype=torch.bool) if valid is None else valid
    candidates = torch.tensor([candidates], dtype=torch.float32)
    matches = sampling.match(
        candidates, objects, valid, negative_below=0.3, positive_from=0.7, low_quality=low_quality
    )
    return matches[0].tolist()


def test_bands_by_hand():
    candidates = [[0, 0, 10, 8], [0, 0, 10, 5], [0, 0, 10, 2], [21, 0, 30, 10]]  # IoU .8, .5, .2, .9
    assert _match(candidates) == [0, IGNORED, NEGATIVE, 1]


def test_the_bounds_belong_to_the_upper_band():
    objects = torch.tensor([[[0.0, 0, 10, 10]]])
    candidates = torch.tensor([[[0.0, 0, 10, 5]]])  # IoU exactly 0.5
    ones = torch.ones(1, 1, dtype=torch.bool)
    positive = sampling.match(
        candidates, objects, ones, negative_below=0.5, positive_from=0.5, low_quality=False
    )
    assert positive.item() == 0


def test_low_quality_takes_every_tied_best():
    # both candidates have IoU 0.2 with object 0, none is better; object 1 has none that touches it
    candidates = [[0, 0, 10, 2], [0, 8, 10, 10], [0, 0, 10, 1], [50, 50, 60, 60]]
    assert _match(candidates, low_quality=True) == [0, 0, NEGATIVE, NEGATIVE]


def test_low_quality_answers_for_the_object_that_it_overlaps_most():
    # the candidate is object 1's best (0.25), but overlaps object 0 more
    objects = torch.tensor([[[0.0, 0, 10, 10], [10, 0, 14, 10]]])
    candidates = [[4, 0, 14, 10], [0, 0, 10, 10]]
    assert _match(candidates, objects=objects, low_quality=True) == [0, 0]


def test_invalid_objects_match_nothing():
    assert _match([[0, 0, 10, 10]], valid=torch.tensor([[False, True]]), low_quality=True) == [NEGATIVE]


def test_many_objects_are_matched_as_few_are():
    """More objects than are compared at a time, against one dense comparison."""
    torch.manual_seed(1)
    corner = torch.rand(1, 100, 2) * 100
    objects = torch.cat((corner, corner + 5 + torch.rand(1, 100, 2) * 20), -1)
    candidates = objects[:, torch.randperm(100)] + torch.randn(1, 100, 4)
    valid = torch.rand(1, 100) > 0.2
    matches = sampling.match(
        candidates, objects, valid, negative_below=0.3, positive_from=0.7, low_quality=True
    )
    from maskrcnn.ops.overlaps import iou

    dense = iou(candidates, objects)[0] * valid[0]
    overlap, nearest = dense.max(1)
    best = ((dense == dense.amax(0)) & (dense.amax(0) > 0)).any(1)
    expected = torch.where(overlap < 0.3, NEGATIVE, IGNORED)
    expected = torch.where((overlap >= 0.7) | best, nearest, expected)
    assert torch.equal(matches[0], expected)


def test_negatives_inside_a_crowd_are_ignored_and_nothing_else():
    crowd = torch.tensor([[[0.0, 0, 100, 100]]])
    candidates = torch.tensor([[[10.0, 10, 20, 20], [90, 0, 110, 10], [10, 10, 20, 20], [-1, 0, 2, 3]]])
    matched = torch.tensor([[NEGATIVE, NEGATIVE, 0, NEGATIVE]])
    ignored = sampling.ignore_crowds(matched, candidates, crowd, torch.tensor([[True]]))
    assert ignored.tolist() == [[IGNORED, NEGATIVE, 0, NEGATIVE]]
    untouched = sampling.ignore_crowds(matched, candidates, crowd, torch.tensor([[False]]))
    assert torch.equal(untouched, matched)


@pytest.mark.parametrize(
    ("positives", "negatives", "drawn_positives", "drawn_negatives"),
    [(100, 100, 2, 6), (1, 100, 1, 7), (100, 3, 2, 3), (0, 100, 0, 8), (0, 0, 0, 0)],
)
def test_budget_and_fraction(positives, negatives, drawn_positives, drawn_negatives):
    matched = torch.tensor([[5] * positives + [NEGATIVE] * negatives + [IGNORED] * 50])
    sample = sampling.sample(matched, torch.rand(matched.shape), samples_per_image=8, positive_fraction=0.25)
    assert sample.candidates.shape == (1, 8)
    assert sample.positive.sum() == drawn_positives
    assert (sample.valid & ~sample.positive).sum() == drawn_negatives
    kinds = matched.gather(1, sample.candidates)
    assert (kinds[sample.positive] == 5).all()
    assert (kinds[sample.valid & ~sample.positive] == NEGATIVE).all()
    assert sample.positive[0].tolist() == sorted(sample.positive[0].tolist(), reverse=True)
    assert len(set(sample.candidates[sample.valid].tolist())) == sample.valid.sum()


def test_draws_follow_the_keys():
    matched = torch.tensor([[0, 0, 0, NEGATIVE, NEGATIVE, NEGATIVE]])
    keys = torch.tensor([[0.9, 0.1, 0.5, 0.9, 0.5, 0.1]])
    sample = sampling.sample(matched, keys, samples_per_image=3, positive_fraction=1 / 3)
    assert sample.candidates.tolist() == [[1, 5, 4]]


def test_every_candidate_is_equally_likely():
    matched = torch.tensor([[NEGATIVE] * 10])
    counts = torch.zeros(10)
    for _ in range(2000):
        drawn = sampling.sample(matched, torch.rand(1, 10), samples_per_image=3, positive_fraction=0.5)
        counts[drawn.candidates[0]] += 1
    assert (counts / 2000 - 0.3).abs().max() < 0.05


def test_a_budget_beyond_the_candidates_takes_them_all():
    matched = torch.tensor([[0, 1, NEGATIVE, IGNORED]])
    sample = sampling.sample(matched, torch.rand(1, 4), samples_per_image=10**7, positive_fraction=0.25)
    assert sample.valid.sum() == 3 and sample.positive.sum() == 2
    assert sampling.positive_capacity(4, samples_per_image=10**7, positive_fraction=0.25) == 4
