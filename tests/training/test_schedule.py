import math

import pytest

from maskrcnn.training.schedule import cosine, learning_rate, steps_down, warm_up, warmup_progress
from maskrcnn.training.settings import Settings


def test_warm_up_is_a_line_that_ends_at_one():
    rates = [warm_up(warmup_progress(4, step, 0.9), 0.2) for step in range(6)]
    assert rates == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])
    assert warm_up(warmup_progress(0, 0, 0.0), 0.2) == 1.0


@pytest.mark.parametrize(
    ("step", "progress", "expected"),
    [
        (0, 0.0, 0.0),
        (10, 10 / 1000, 0.2),  # of 1,000 steps, 50 are warm-up
        (50, 50 / 1000, 1.0),
        (500, 500 / 90_000, 0.5),  # of 90,000 steps, 1,000 are
        (1000, 1000 / 90_000, 1.0),
        (3, 0.9 / 60, 0.3),  # 0.9 of 60 minutes: 3 minutes are, in whatever number of steps
        (400, 2.4 / 60, 0.8),
        (1000, 2.4 / 60, 1.0),  # but never more than 1,000 steps
    ],
)
def test_warm_up_is_a_share_of_the_training(step, progress, expected):
    assert min(warmup_progress(None, step, progress), 1.0) == pytest.approx(expected)


def test_a_short_training_runs_at_nearly_its_full_rate():
    """With 1,000 steps of warm-up, these would have run at a quarter of it, on average."""
    settings = Settings.of(steps=1000, lr=1.0)
    rates = [learning_rate(settings, step, step / 1000) for step in range(1000)]
    constant = Settings.of(steps=1000, lr=1.0, warmup_steps=0)
    most = sum(learning_rate(constant, step, step / 1000) for step in range(1000))
    assert sum(rates) / most == pytest.approx(1 - 25 / 690, rel=0.01)


def test_a_time_limit_drives_warm_up_and_decay():
    """A rate by hand: 1.5 of 60 minutes are half the warm-up, 30 are half the cosine."""
    settings = Settings.of(steps=100_000, time_limit=60.0, lr=1.0, decay="cosine", warmup_factor=0.0)
    half_warm = 0.5 * (0.5 + 0.5 * math.cos(math.pi * 0.025))
    assert learning_rate(settings, 7, 1.5 / 60) == pytest.approx(half_warm)
    assert learning_rate(settings, 140, 0.5) == pytest.approx(0.5)


def test_steps_fall_at_their_shares():
    rates = [steps_down(progress, (0.5, 0.75), 0.1) for progress in (0.0, 0.49, 0.5, 0.74, 0.75, 1.0)]
    assert rates == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_cosine_falls_from_one_over_a_half_to_nothing():
    assert [cosine(progress) for progress in (0.0, 1 / 3, 0.5, 1.0, 1.2)] == pytest.approx(
        [1, 0.75, 0.5, 0, 0], abs=1e-12
    )


def test_the_papers_schedule():
    settings = Settings()
    rates = [
        learning_rate(settings, step, step / settings.length.steps)
        for step in (0, 1000, 59_999, 60_000, 80_000)
    ]
    assert rates == pytest.approx([2e-5, 0.02, 0.02, 0.002, 0.0002])


def test_cosine_by_name():
    settings = Settings.of(decay="cosine", warmup_steps=0, lr=2.0)
    assert learning_rate(settings, 5, 0.5) == pytest.approx(1.0)
