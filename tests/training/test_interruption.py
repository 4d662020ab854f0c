"""Whatever ends a training, its last good step is saved; resumed, it equals an uninterrupted one."""

import itertools
import math
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from errno import ENOSPC

import pytest
import torch

from maskrcnn.data.synthetic import synthetic_dataset
from maskrcnn.network.model import MaskRCNN
from maskrcnn.training import loop, saver
from maskrcnn.training.checkpoint import load
from maskrcnn.training.loop import resume_training
from trainings import TINY_RECIPE, assert_same_training, losses, records, run, tiny


def before_step(monkeypatch, number, action):
    """Call `action` once, at the start of a step."""
    train_step = loop.train_step

    def step(state, *rest):
        if state.step + 1 == number:
            action()
        return train_step(state, *rest)

    monkeypatch.setattr(loop, "train_step", step)


def send(number):
    return lambda: os.kill(os.getpid(), number)


@pytest.mark.parametrize(
    ("number", "error"),
    [
        (signal.SIGINT, KeyboardInterrupt),
        (signal.SIGTERM, SystemExit),
        (signal.SIGHUP, SystemExit),
        (signal.SIGUSR1, SystemExit),
    ],
)
def test_a_signal_stops_after_the_step(drawn, whole, tmp_path, monkeypatch, capsys, number, error):
    handler = signal.getsignal(number)
    output = tmp_path / "a b"
    with monkeypatch.context() as patch, pytest.raises(error) as caught:
        before_step(patch, 3, send(number))
        run(drawn, output, tiny())
    assert error is KeyboardInterrupt or caught.value.code == 128 + number
    assert signal.getsignal(number) is handler
    assert load(output / "last.pt").step == 3 and not (output / "best.pt").exists()
    command = f"maskrcnn train {drawn} --output '{output}' --resume --device cpu"
    assert f"stopped after step 3; last.pt holds step 3; to resume: {command}" in capsys.readouterr().out
    assert "75% of the planned length" in (output / "report.html").read_text()

    resume_training(drawn, output=output, device="cpu")  # recipe and settings are the file's
    assert_same_training(output, whole)


def fail_once(monkeypatch):
    """Let the next forward pass of more than one picture run out of memory."""
    forward = MaskRCNN.forward

    def fails(model, batch, targets):
        if len(batch.images) > 1:
            monkeypatch.setattr(MaskRCNN, "forward", forward)
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return forward(model, batch, targets)

    monkeypatch.setattr(MaskRCNN, "forward", fails)


def test_what_ran_out_of_memory_goes_on_and_resumes_with_fewer_pictures_at_a_time(
    drawn, whole, tmp_path, monkeypatch
):
    sentence = "^out of memory at step 2 with 2 pictures at a time: 1 at a time from here on, still 2 a step$"
    for output, stop in (("one", None), ("two", 3)):
        with monkeypatch.context() as patch, pytest.warns(UserWarning, match=sentence):
            before_step(patch, 2, lambda patch=patch: fail_once(patch))
            if stop is None:
                run(drawn, tmp_path / output, tiny())
                continue
            before_step(patch, stop, send(signal.SIGTERM))
            with pytest.raises(SystemExit):
                run(drawn, tmp_path / output, tiny())
    assert load(tmp_path / "two" / "last.pt").at_a_time == 1
    resume_training(drawn, output=tmp_path / "two", device="cpu")
    assert_same_training(tmp_path / "two", tmp_path / "one")
    ours, theirs = losses(tmp_path / "one"), losses(whole)
    assert len(ours) == 4 and ours[0] == theirs[0] and ours[1] != theirs[1]


def test_a_second_signal_stops_within_the_step(drawn, whole, tmp_path, monkeypatch):
    def send_twice():
        send(signal.SIGTERM)()
        send(signal.SIGINT)()

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        before_step(patch, 3, send_twice)
        run(drawn, tmp_path, tiny())
    assert load(tmp_path / "last.pt").step == 2
    resume_training(drawn, output=tmp_path, device="cpu")
    assert_same_training(tmp_path, whole)


def test_nohup_is_respected(monkeypatch):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with loop.stop_signals() as stop_signal:
            send(signal.SIGHUP)()
            assert stop_signal() == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_an_unreadable_picture(whole, tmp_path, monkeypatch, capsys):
    data = synthetic_dataset(tmp_path / "data", train=6, val=2, size=64)
    pictures = {path: path.read_bytes() for path in (data / "train").iterdir()}
    output = tmp_path / "run"
    with (
        monkeypatch.context() as patch,
        pytest.raises(ValueError, match=r"\.jpg: cannot be read as a picture"),
    ):
        before_step(patch, 3, lambda: [path.write_bytes(b"broken") for path in pictures])
        run(data, output, tiny())
    assert load(output / "last.pt").step == 2
    assert "stopped after step 2; last.pt holds step 2; to resume: " in capsys.readouterr().out

    for path, content in pictures.items():
        path.write_bytes(content)
    resume_training(data, output=output, device="cpu")
    assert_same_training(output, whole)


def test_a_killed_worker(drawn, whole, tmp_path, monkeypatch):
    def kill_workers():
        for worker in multiprocessing.active_children():
            os.kill(worker.pid, signal.SIGKILL)
        time.sleep(5)  # within which torch raises

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="worker"):
        before_step(patch, 3, kill_workers)
        run(drawn, tmp_path, tiny(workers=1))
    assert load(tmp_path / "last.pt").step == 2
    resume_training(drawn, output=tmp_path, device="cpu")
    assert_same_training(tmp_path, whole)


def test_a_signal_to_all_processes(drawn, whole, tmp_path, monkeypatch):
    """As `timeout` and batch systems send it: the reading processes end first."""

    def send_to_all():
        for worker in multiprocessing.active_children():
            os.kill(worker.pid, signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)  # within which torch raises

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stop:
        before_step(patch, 3, send_to_all)
        run(drawn, tmp_path, tiny(workers=1))
    assert stop.value.code == 143
    assert load(tmp_path / "last.pt").step == 2
    resume_training(drawn, output=tmp_path, device="cpu")
    assert_same_training(tmp_path, whole)


def test_an_error_between_the_batches_of_a_step_with_batch_norm(drawn, tmp_path, monkeypatch):
    settings = tiny(accumulate=2, batch_size=1, eval_every=0)
    recipe = {"recipe_arguments": {**TINY_RECIPE, "body.norm": "batch"}}
    run(drawn, tmp_path / "whole", settings, **recipe)
    forward, calls = MaskRCNN.forward, []

    def fail(self, batch, targets):
        calls.append(batch)
        if len(calls) == 6:  # the second batch of the third step
            raise RuntimeError("the device is lost")
        return forward(self, batch, targets)

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="the device is lost"):
        patch.setattr(MaskRCNN, "forward", fail)
        run(drawn, tmp_path / "run", settings, **recipe)
    resume_training(drawn, output=tmp_path / "run", device="cpu")
    assert_same_training(tmp_path / "run", tmp_path / "whole")


def test_a_loss_that_is_not_finite_replaces_no_good_weights(drawn, whole, tmp_path, monkeypatch, capsys):
    forward = MaskRCNN.forward

    def explode(self, batch, targets):
        given = forward(self, batch, targets)
        return {**given, "loss_box": given["loss_box"] * math.nan} if len(records(tmp_path)) == 3 else given

    sentence = r"not finite at step 4, learning rate 0\.00025 .*loss_box nan"
    with monkeypatch.context() as patch, pytest.raises(FloatingPointError, match=sentence):
        patch.setattr(MaskRCNN, "forward", explode)
        run(drawn, tmp_path, tiny(save_every=2))
    assert load(tmp_path / "last.pt").step == 2
    before = load(tmp_path / "diverged.pt")
    assert before.step == 3 and all(tensor.isfinite().all() for tensor in before.trained.weights.values())
    assert (
        "diverged.pt holds the state before the failed step; last.pt holds step 2" in capsys.readouterr().out
    )

    resume_training(drawn, output=tmp_path, device="cpu")
    assert_same_training(tmp_path, whole)


def test_weights_that_are_not_finite_are_not_saved(drawn, tmp_path, capsys):
    settings = tiny(lr=1e300, warmup_steps=0, save_every=1)
    with pytest.raises(FloatingPointError, match="the weights are not finite after step 1"):
        run(drawn, tmp_path, settings)
    assert not list(tmp_path.glob("*.pt"))
    assert "nothing is saved" in capsys.readouterr().out


def test_an_interrupted_update_is_not_saved(drawn, whole, tmp_path, monkeypatch, capsys):
    step = torch.optim.SGD.step

    def interrupt(self, *arguments):
        if len(records(tmp_path)) == 3:
            raise KeyboardInterrupt
        return step(self, *arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(torch.optim.SGD, "step", interrupt)
        run(drawn, tmp_path, tiny(save_every=2))
    assert load(tmp_path / "last.pt").step == 2
    assert "the update of the weights was interrupted; last.pt holds step 2" in capsys.readouterr().out
    resume_training(drawn, output=tmp_path, device="cpu")
    assert_same_training(tmp_path, whole)


def test_a_full_disk_keeps_the_checkpoint_before(drawn, whole, tmp_path, monkeypatch, capsys):
    torch_save = torch.save

    def fill(values, file):
        if values["step"] > 2:
            raise OSError(ENOSPC, "No space left on device")
        torch_save(values, file)

    full = pytest.raises(OSError, match=re.escape(f"No space left on device: '{tmp_path / 'last.pt'}'"))
    with monkeypatch.context() as patch, full:
        patch.setattr(torch, "save", fill)
        run(drawn, tmp_path, tiny(save_every=1))
    assert load(tmp_path / "last.pt").step == 2
    output = capsys.readouterr().out
    assert "stopped after step 3; that step could not be saved ([Errno 28] No space left" in output
    assert "last.pt holds step 2" in output
    resume_training(drawn, output=tmp_path, device="cpu")
    assert_same_training(tmp_path, whole)


def test_an_error_of_saving_does_not_hide_the_first(drawn, tmp_path, monkeypatch, capsys):
    def fail(*_):
        raise PermissionError("read-only")

    monkeypatch.setattr(saver, "save", fail)
    before_step(monkeypatch, 3, lambda: (_ for _ in ()).throw(ValueError("the first")))
    with pytest.raises(ValueError, match="the first"):
        run(drawn, tmp_path, tiny())
    assert "that step could not be saved (read-only); nothing is saved" in capsys.readouterr().out


def test_nothing_is_saved_before_the_first_step(drawn, tmp_path, monkeypatch):
    """A mistake that shows at once can be corrected, and the same command given again."""
    with monkeypatch.context() as patch, pytest.raises(ValueError, match="at once"):
        before_step(patch, 1, lambda: (_ for _ in ()).throw(ValueError("at once")))
        run(drawn, tmp_path, tiny())
    assert not list(tmp_path.glob("*.pt"))
    run(drawn, tmp_path, tiny(steps=1, eval_every=0))


def test_an_error_in_an_evaluation_loses_no_training(drawn, whole, tmp_path, monkeypatch):
    def fail(*_):
        raise ValueError("validation picture")

    with monkeypatch.context() as patch, pytest.raises(ValueError, match="validation picture"):
        patch.setattr(loop, "evaluate_run", fail)
        run(drawn, tmp_path, tiny())
    assert load(tmp_path / "last.pt").step == 4
    resume_training(drawn, output=tmp_path, device="cpu")
    assert_same_training(tmp_path, whole)


EVERYTHING = {
    "steps": 20,
    "eval_every": 5,
    "save_every": 7,
    "patience": 1,
    "ema": 0.99,
    "validation_loss": True,
    "retries": 3,
    "decay": "cosine",
}
# Small files, and statistics of norms
SMALL = {"recipe": "mobilenet_v2_fpn", "recipe_arguments": {**TINY_RECIPE, "body.norm": "batch"}}


@pytest.fixture(scope="module")
def everything(drawn, tmp_path_factory):
    """A training with all that evaluations and updates leave, whose patience is over at step 10."""
    folder = tmp_path_factory.mktemp("everything")
    run(drawn, folder, tiny(**EVERYTHING), **SMALL)
    return folder


class Killed(BaseException):
    """Stands for kill -9: nothing is done after it."""


def kill_at(patch, owner, name, number, after=False):
    """Kill the training at call `number`, from 1, of a function."""
    function, calls = getattr(owner, name), itertools.count(1)

    def killing(*arguments):
        is_last = next(calls) == number
        if is_last and not after:
            raise Killed
        result = function(*arguments)
        if is_last:
            raise Killed
        return result

    patch.setattr(owner, name, killing)
    patch.setattr(saver.Saver, "__exit__", lambda *_: None)


def evaluations(output):
    return [record for record in records(output) if "bbox" in record]


def test_everything_ends_early_with_the_last_decay(everything):
    steps = losses(everything)
    assert [record["step"] for record in steps] == list(range(1, 13))
    shares = [0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.75]
    expected = [0.0025 * (0.5 + 0.5 * math.cos(math.pi * share)) for share in shares]
    assert [record["lr"] for record in steps[2:]] == pytest.approx(expected)
    assert [record["step"] for record in evaluations(everything)] == [5, 10, 12]
    last = load(everything / "last.pt")
    assert (last.evaluated, last.plateau.begins, last.average["updates"]) == (12, 0.5, 12)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("owner", "name", "number", "after"),
    [
        (loop, "train_step", 9, True),  # between saves
        (loop, "evaluate_run", 2, False),  # before the evaluation with which patience is over
        (loop, "evaluate_run", 2, True),  # after it, before its save
        (saver, "save", 2, True),  # between best.pt and last.pt
    ],
)
def test_a_kill_with_everything_on(drawn, everything, tmp_path, monkeypatch, owner, name, number, after):
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, owner, name, number, after)
        run(drawn, tmp_path, tiny(**EVERYTHING), **SMALL)
    resume_training(drawn, output=tmp_path, device="cpu")
    assert_same_training(tmp_path, everything)
    assert evaluations(tmp_path) == evaluations(everything)
    for file in ("last.pt", "best.pt"):
        ours, theirs = load(tmp_path / file), load(everything / file)
        assert ours.plateau == theirs.plateau
        for field in ("step", "metrics", "best_ap", "evaluated", "setbacks"):
            assert getattr(ours, field) == getattr(theirs, field), field
        assert all(torch.equal(ours.trained.weights[n], t) for n, t in theirs.trained.weights.items())
    ours, theirs = (load(folder / "last.pt").average for folder in (tmp_path, everything))
    assert ours["updates"] == theirs["updates"]
    assert all(torch.equal(ours["weights"][name], tensor) for name, tensor in theirs["weights"].items())


def test_a_finished_training_is_not_evaluated_again(drawn, everything, tmp_path):
    shutil.copytree(everything, tmp_path / "run")
    before = (tmp_path / "run" / "metrics.jsonl").read_text()
    resume_training(drawn, output=tmp_path / "run", device="cpu")
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == before


COMMAND = """
import sys
from maskrcnn.cli import main
from maskrcnn.training import loop
train_step = loop.train_step
def step(state, *rest):
    print("step", state.step, flush=True)
    return train_step(state, *rest)
loop.train_step = step
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)]
)
def test_the_command_ends_as_the_signal_says(drawn, tmp_path, number, status):
    recipe = ["pyramid.channels=16", "boxes.hidden=16", "body.norm=group", "body.frozen="]
    words = ["train", str(drawn), "--recipe", "resnet18_fpn", "--output", str(tmp_path), "--device", "cpu"]
    words += ["--set", "steps=100000", "batch_size=2", "short_sides=64", "workers=1"]
    command = [sys.executable, "-c", COMMAND, *words, *recipe]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if line == "step 2\n":
                break
        process.send_signal(number)
        output, errors = process.communicate(timeout=120)
    assert process.returncode == status, errors
    step = load(tmp_path / "last.pt").step
    assert step == len(losses(tmp_path)) >= 3 and f"stopped after step {step}" in output
    assert "Traceback" not in errors
