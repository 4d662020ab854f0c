"""COCO's matching by hand."""

import numpy as np

from maskrcnn.evaluation.matching import IGNORED, UNMATCHED, match


def matched(ious: list[list[float]], *thresholds: float, crowd=(), ignored=()) -> list[list[int]]:
    """Match; `crowd` and `ignored` are the indices of such objects, and crowds are ignored too."""
    numbers = range(len(ious[0]))
    crowds, others = (np.array([i in chosen for i in numbers]) for chosen in (crowd, {*crowd, *ignored}))
    return match(np.array(ious), crowds, others, np.array(thresholds)).tolist()


def test_a_detection_takes_the_free_object_with_the_highest_iou():
    assert matched([[0.8, 0.7], [0.9, 0.6], [0.9, 0.6]], 0.5) == [[0, 1, UNMATCHED]]


def test_each_threshold_has_a_matching_of_its_own():
    # At 0.75 the first detection matches nothing, so the object is free for the second.
    assert matched([[0.7], [0.9]], 0.5, 0.75) == [[0, UNMATCHED], [UNMATCHED, 0]]


def test_an_iou_equal_to_the_threshold_matches_and_a_tie_goes_to_the_last_object():
    assert matched([[0.5, 0.5], [0.49, 0.5]], 0.5) == [[1, UNMATCHED]]


def test_objects_that_count_come_first_and_a_crowd_stays_free():
    assert matched([[0.6, 1.0], [0.6, 1.0], [0.6, 1.0]], 0.5, crowd=[1]) == [[0, IGNORED, IGNORED]]
    assert matched([[0.6, 1.0], [0.6, 1.0], [0.6, 1.0]], 0.5, ignored=[1]) == [[0, IGNORED, UNMATCHED]]


def test_nothing_to_match():
    empty = np.zeros(0, bool)
    assert match(np.zeros((2, 0)), empty, empty, np.array([0.5])).tolist() == [[UNMATCHED] * 2]
    assert match(np.zeros((0, 0)), empty, empty, np.array([0.5])).shape == (1, 0)
