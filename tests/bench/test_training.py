"""`maskrcnn bench --train` on a small network."""

import json

import pytest
from rich.console import Console

from maskrcnn.bench.training import StepSpec, bench_training, make_step, training_table
from maskrcnn.cli import main

SPEC = StepSpec("resnet18_fpn", "cpu", "float32", 1, (96, 128), 5, 1)


def test_the_command_prints_and_writes(tmp_path, capsys):
    file = tmp_path / "figures.json"
    words = ["bench", "--train", "--recipe", "resnet18_fpn", "--size", "64x96", "--objects", "3"]
    assert main([*words, "--device", "cpu", "--repeats", "1", "--json", str(file)]) == 0
    assert "training resnet18_fpn, 1 of 64x96, 3 objects each" in capsys.readouterr().out
    figures = json.loads(file.read_text())
    assert figures["milliseconds"]["ours"]["median"] > 0
    assert figures["peak_bytes"]["ours"] is None or figures["peak_bytes"]["ours"] > 50e6  # 12 M weights


def test_every_step_does_the_same_work():
    step = make_step(SPEC)
    first, second = step(), step()
    assert first["loss_rpn_objectness"] == pytest.approx(second["loss_rpn_objectness"], rel=0.3)
    assert first["loss_mask"] > 0


def constant_step(spec):
    """A contestant whose step returns a loss and does nothing."""
    return lambda: {"loss_a": 1.5, "loss_b": float(spec.objects)}


def test_contestants_are_compared_in_turns():
    makers = {"one": constant_step, "other": constant_step}
    figures = bench_training(SPEC, makers, repeats=1)
    assert figures["losses"] == {
        "one": {"loss_a": 1.5, "loss_b": 5.0},
        "other": {"loss_a": 1.5, "loss_b": 5.0},
    }
    assert figures["work"] == SPEC._asdict()
    assert figures.keys() == {"machine", "work", "losses", "milliseconds", "peak_bytes"}
    figures["milliseconds"] = {"one": {"median": 10.0}, "other": {"median": 40.0}}
    console = Console(width=120)
    with console.capture() as capture:
        console.print(training_table(figures))
    assert "one takes 0.25 of the time of other" in capture.get() and "6.500" in capture.get()
