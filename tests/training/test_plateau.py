"""Patience, and the last decay that follows it, against numbers by hand."""

from functools import reduce

import pytest

from maskrcnn.training.plateau import Plateau
from maskrcnn.training.schedule import learning_rate
from maskrcnn.training.settings import Settings


def after(aps, patience, steps=10):
    """Return the state after evaluations at every step of `steps`."""
    evaluations = enumerate(aps, start=1)
    return reduce(lambda state, one: state.after(one[1], one[0] / steps, patience), evaluations, Plateau())


def test_evaluations_that_gain_less_than_a_tenth_are_counted():
    assert after([3.0, 3.05, 3.09], None) == Plateau(ap=3.0, evaluations=2)
    assert after([3.0, 3.05, 3.1], None) == Plateau(ap=3.1, evaluations=0)
    assert after([0.0], None) == Plateau(ap=0.0, evaluations=0)


def test_patience_is_over_after_as_many_evaluations_and_half_of_the_training():
    assert after([5.0, 4.0, 4.0, 4.0], 2).begins == 1.0
    assert after([5.0, 4.0, 4.0, 4.0, 4.0], 2).begins == 0.5
    assert after([5.0, 4.0, 6.0, 6.0, 7.0, 7.0], 2).begins == 1.0
    assert after([5.0, 4.0, 6.0, 6.0, 7.0, 7.0, 7.0], 2).begins == 0.7
    assert after([5.0] * 10, None).begins == 1.0


def test_the_last_tenth_is_not_made_shorter():
    assert after([0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.2, 1.2], 2).begins == 1.0


def test_the_decision_stays():
    state = after([5.0] * 6, 2)
    assert state.begins == 0.5 and state.after(50.0, 0.6, 2).begins == 0.5


def test_the_rest_of_the_schedule_takes_a_tenth_of_the_training():
    state = Plateau(begins=0.6)
    assert state.end == pytest.approx(0.7)
    shares = [state.schedule_progress(progress) for progress in (0.3, 0.6, 0.65, 0.675, state.end)]
    assert shares == pytest.approx([0.3, 0.6, 0.8, 0.9, 1.0])


def test_without_it_the_progress_is_the_same_to_the_bit():
    state = Plateau()
    assert state.end == 1.0
    assert all(state.schedule_progress(step / 977) == step / 977 for step in range(977))


@pytest.mark.parametrize(("decay", "expected"), [("cosine", [0.5, 0.14645, 0.0]), ("step", [1.0, 0.1, 0.01])])
def test_the_rate_falls_to_its_end(decay, expected):
    settings = Settings.of(steps=1000, decay=decay, warmup_steps=0, lr=1.0)
    state = Plateau(begins=0.5)
    rates = [
        learning_rate(settings, 0, state.schedule_progress(progress)) for progress in (0.5, 0.55, 0.5999999)
    ]
    assert rates == pytest.approx(expected, abs=1e-4)
