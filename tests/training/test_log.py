import torch

from maskrcnn.training.log import TrainingLog
from maskrcnn.training.settings import Settings


def lines(tmp_path, capsys, seconds, log_every=20):
    """Return the steps of the console's lines for steps that end after the given seconds."""
    settings = Settings.of(log_every=log_every)
    with TrainingLog(tmp_path, settings, torch.device("cpu"), 0) as log:
        for step, now in enumerate(seconds, start=1):
            log.step({"step": step, "loss": 1.0, "lr": 0.1, "seconds": now}, progress=step / 1000)
    text = capsys.readouterr().out
    assert all(" left " in line for line in text.splitlines())
    return [int(line.split()[1]) for line in text.splitlines()]


def test_slow_steps_are_shown_every_15_seconds_from_the_first_on(tmp_path, capsys):
    assert lines(tmp_path, capsys, [4 * n for n in range(1, 13)]) == [1, 5, 9]


def test_fast_steps_are_shown_at_the_first_and_every_log_every(tmp_path, capsys):
    assert lines(tmp_path, capsys, [0.1 * n for n in range(1, 46)]) == [1, 20, 40]


def test_a_long_training_of_slow_steps_is_shown_every_2_percent_of_its_time(tmp_path, capsys):
    assert lines(tmp_path, capsys, [1000, 1016, 1020, 1021, 1042], log_every=100) == [1, 4, 5]
