"""COCO's matching by hand."""

import numpy as np

from maskrcnn.evaluation.matching import NOTHING, match


def matched(ious: list[list[float]], *thresholds: float, crowd=(), optional=()) -> list[list[int]]:
    """Match; `crowd` and `optional` are the numbers of such objects, and crowds are optional too."""
    numbers = range(len(ious[0]))
    crowds, others = (np.array([i in chosen for i in numbers]) for chosen in (crowd, {*crowd, *optional}))
    return match(np.array(ious), crowds, others, np.array(thresholds)).tolist()


def test_each_takes_the_best_that_is_free():
    assert matched([[0.8, 0.7], [0.9, 0.6], [0.9, 0.6]], 0.5) == [[0, 1, NOTHING]]


def test_each_threshold_has_a_matching_of_its_own():
    # At 0.75 the first one takes nothing, and so leaves the object to the second.
    assert matched([[0.7], [0.9]], 0.5, 0.75) == [[0, NOTHING], [NOTHING, 0]]


def test_an_overlap_of_the_threshold_is_enough_and_the_last_of_equals_is_taken():
    assert matched([[0.5, 0.5], [0.49, 0.5]], 0.5) == [[1, NOTHING]]


def test_what_is_asked_for_comes_first_and_a_crowd_stays_free():
    assert matched([[0.6, 1.0], [0.6, 1.0], [0.6, 1.0]], 0.5, crowd=[1]) == [[0, 1, 1]]
    assert matched([[0.6, 1.0], [0.6, 1.0], [0.6, 1.0]], 0.5, optional=[1]) == [[0, 1, NOTHING]]


def test_nothing_to_match():
    empty = np.zeros(0, bool)
    assert match(np.zeros((2, 0)), empty, empty, np.array([0.5])).tolist() == [[NOTHING] * 2]
    assert match(np.zeros((0, 0)), empty, empty, np.array([0.5])).shape == (1, 0)
