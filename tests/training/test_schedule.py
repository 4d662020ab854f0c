import pytest

from maskrcnn.training.schedule import cosine, learning_rate, steps_down, warm_up
from maskrcnn.training.settings import Settings


def test_warm_up_is_a_line_that_ends_at_one():
    assert [warm_up(step, 4, 0.2) for step in range(6)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])
    assert warm_up(0, 0, 0.2) == 1.0


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
