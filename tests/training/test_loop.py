import itertools
import json
import math
import os
import re
import shutil
import signal

import pytest
import torch

from maskrcnn.data.synthetic import synthetic_dataset
from maskrcnn.network.model import MaskRCNN
from maskrcnn.training import log as log
from maskrcnn.training import loop
from maskrcnn.training.checkpoint import load
from maskrcnn.training.loop import train
from maskrcnn.training.settings import Settings

TINY_RECIPE = {"channels": 16, "hidden": 16, "norm": "group", "frozen": (), "budget": 16, "max_detections": 5}


@pytest.fixture(autouse=True)
def _no_tensorboard(monkeypatch):
    monkeypatch.setattr(log, "_board", lambda _output: None)


def run(data, output, settings, **more):
    more = {"recipe": "resnet18_fpn", "recipe_arguments": TINY_RECIPE, "device": "cpu", **more}
    return train(data, output=output, settings=settings, **more)


def records(output):
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


def losses(output):
    return [{k: v for k, v in r.items() if k != "seconds"} for r in records(output) if "loss" in r]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return synthetic_dataset(tmp_path_factory.mktemp("drawn"), train=6, val=2, size=64)


@pytest.fixture(scope="module")
def whole(drawn, tmp_path_factory):
    """A training of four steps from end to end."""
    return run(drawn, tmp_path_factory.mktemp("whole"), _tiny()).parent


def _tiny(**changes):
    numbers = {"steps": 4, "batch_size": 2, "warmup_steps": 2, "short_sides": (48, 64), "long_side": 64}
    numbers |= {
        "jitter": (0.2, 0.2, 0.2),
        "workers": 0,
        "log_every": 1,
        "save_every": 100,
        "eval_every": None,
    }
    return Settings.of(**{**numbers, **changes})


def test_a_training_leaves_all_that_it_should(whole):
    assert {path.name for path in whole.iterdir()} >= {"last.pt", "best.pt", "metrics.jsonl"}
    steps, evaluation = records(whole)[:4], records(whole)[4]
    assert [r["step"] for r in steps] == [1, 2, 3, 4]
    assert all(
        math.isclose(r["loss"], sum(v for k, v in r.items() if k.startswith("loss_")), rel_tol=1e-5)
        for r in steps
    )
    assert evaluation["step"] == 4 and {"bbox", "segm"} < evaluation.keys()
    best = load(whole / "best.pt")
    assert best.step == 4 and best.metrics == {k: v for k, v in evaluation.items() if k != "step"}
    assert best.best_ap == best.metrics["segm"]["AP"]
    assert best.trained.class_names[:2] == ("disk", "square")
    # nobody chose norms for a training from scratch: they learn
    assert best.trained.arguments == {"norm": "group", "head_norm": "group", **TINY_RECIPE}


def test_the_rate_in_the_log_is_the_schedules(whole):
    rates = [r["lr"] for r in records(whole)[:4]]
    assert rates == pytest.approx(
        [0.0025 * 0.001, 0.0025 * 0.5005, 0.0025, 0.00025]
    )  # warm-up, then past 2/3


def test_the_same_seed_gives_the_same_losses_to_the_bit(drawn, whole, tmp_path):
    run(drawn, tmp_path, _tiny())
    assert losses(tmp_path) == losses(whole)
    other = tmp_path / "other"
    run(drawn, other, _tiny(seed=1, steps=1))
    assert losses(other)[0]["loss"] != losses(whole)[0]["loss"]


def test_a_resumed_training_equals_one_that_never_stopped(drawn, whole, tmp_path, monkeypatch):
    """Ctrl-C comes in the third step, which is finished first."""
    before = signal.getsignal(signal.SIGINT)  # a shell in the background has it ignored
    train_step = loop.train_step

    def interrupt_in_third(learner, batches, settings, rate):
        if len(records(tmp_path)) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return train_step(learner, batches, settings, rate)

    monkeypatch.setattr(loop, "train_step", interrupt_in_third)
    with pytest.raises(KeyboardInterrupt):
        run(drawn, tmp_path, _tiny())
    assert load(tmp_path / "last.pt").step == 3
    assert not (tmp_path / "best.pt").exists()
    assert signal.getsignal(signal.SIGINT) is before
    monkeypatch.undo()

    train(drawn, output=tmp_path, resume=True, device="cpu")  # recipe and settings are the file's
    assert losses(tmp_path) == losses(whole)
    ours, theirs = (load(f / "last.pt").trained.weights for f in (tmp_path, whole))
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())


def test_ctrl_c_says_how_to_go_on(drawn, tmp_path, monkeypatch, capsys):
    fetched = loop.to_floats
    monkeypatch.setattr(
        loop, "to_floats", lambda values: os.kill(os.getpid(), signal.SIGINT) or fetched(values)
    )
    with pytest.raises(KeyboardInterrupt):
        run(drawn, tmp_path / "a b", _tiny())
    assert (
        f"maskrcnn train {drawn} --output '{tmp_path}/a b' --resume --device cpu" in capsys.readouterr().out
    )


def test_steps_after_the_checkpoint_are_taken_back(drawn, whole, tmp_path):
    """A training that was killed has told of steps that its last checkpoint does not have."""
    shutil.copytree(whole, tmp_path / "run")
    file = tmp_path / "run" / "metrics.jsonl"
    file.write_text(file.read_text() + '{"step": 5, "loss": 1.0}\n{"step": 6, "lo')
    run(drawn, tmp_path / "run", _tiny(steps=5), resume=True)
    assert [r["step"] for r in records(tmp_path / "run") if "loss" in r] == [1, 2, 3, 4, 5]


def test_saving_and_evaluating_happen_when_they_are_due(drawn, tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(loop, "save", lambda path, checkpoint: saved.append((path.name, checkpoint.step)))
    aps = iter([10.0, 5.0, 7.0])
    monkeypatch.setattr(loop, "evaluate_run", lambda *_: {"bbox": {"AP": 90.0}, "segm": {"AP": next(aps)}})
    run(drawn, tmp_path, _tiny(save_every=3, eval_every=2, steps=5))
    at_two = [("last.pt", 2), ("last.pt", 2), ("best.pt", 2)]
    assert saved == [*at_two, ("last.pt", 3), ("last.pt", 4), ("last.pt", 4), ("last.pt", 5), ("last.pt", 5)]


def test_a_time_limit_ends_the_training_and_drives_the_schedule(drawn, tmp_path, monkeypatch):
    clock = itertools.count(100.0, 15.0)  # a step every 15 seconds
    monkeypatch.setattr(loop.time, "monotonic", lambda: next(clock))
    settings = _tiny(steps=10_000, time_limit=1.0, decay="cosine", warmup_steps=0)
    run(drawn, tmp_path, settings)
    told = [r for r in records(tmp_path) if "loss" in r]
    assert [r["seconds"] for r in told] == [15, 30, 45, 60]
    peak = settings.peak_lr
    assert [r["lr"] for r in told] == pytest.approx(
        [peak, 0.85355 * peak, 0.5 * peak, 0.14645 * peak], rel=1e-4
    )


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_good_state(drawn, tmp_path, monkeypatch):
    forward = MaskRCNN.forward

    def break_down(self, batch, targets):
        given = forward(self, batch, targets)
        return {**given, "loss_box": given["loss_box"] * math.nan} if len(records(tmp_path)) == 2 else given

    monkeypatch.setattr(MaskRCNN, "forward", break_down)
    with pytest.raises(
        FloatingPointError, match=r"not finite at step 3, learning rate 0\.0025 .*loss_box nan"
    ):
        run(drawn, tmp_path, _tiny(save_every=1))
    kept = load(tmp_path / "last.pt")
    assert kept.step == 2 and all(tensor.isfinite().all() for tensor in kept.trained.weights.values())


def test_without_validation_pictures_the_last_is_the_best(drawn, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(drawn, data)
    (data / "annotations" / "instances_val.json").unlink()
    assert run(data, tmp_path / "run", _tiny(steps=1)) == tmp_path / "run" / "last.pt"


def test_evaluation_every_0_steps_is_never(drawn, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "evaluate_run", lambda *_: pytest.fail("evaluated"))
    assert run(drawn, tmp_path, _tiny(steps=1, eval_every=0)).name == "last.pt"


def test_a_training_is_never_overwritten(drawn, whole):
    with pytest.raises(ValueError, match="--resume"):
        run(drawn, whole, _tiny())


def test_resume_goes_on_with_the_same_network_only(drawn, whole, tmp_path):
    with pytest.raises(FileNotFoundError, match=re.escape("last.pt")):
        run(drawn, tmp_path / "none", _tiny(), resume=True)
    for other in ({"recipe": "resnet50_fpn"}, {"recipe_arguments": {"channels": 8}}):
        with pytest.raises(ValueError, match="is a training of resnet18_fpn"):
            run(drawn, whole, _tiny(), resume=True, **other)
    with pytest.raises(ValueError, match="--init"):
        run(drawn, whole, _tiny(), resume=True, init=whole / "best.pt")


def test_other_classes_are_refused(drawn, whole, tmp_path):
    data = synthetic_dataset(tmp_path / "data", train=2, val=1, size=64)
    file = data / "annotations" / "instances_val.json"
    file.write_text(file.read_text().replace('"ring"', '"doughnut"'))
    with pytest.raises(ValueError, match="doughnut"):
        run(data, tmp_path / "run", _tiny())


def test_keypoints_must_be_as_many_as_the_data_sets(drawn, tmp_path):
    with pytest.raises(ValueError, match="finds 17 keypoints"):
        run(drawn, tmp_path, _tiny(), recipe="resnet18_fpn_keypoint")


def test_weights_to_start_from_are_taken_with_an_account(drawn, whole, tmp_path, capsys):
    run(drawn, tmp_path, _tiny(steps=1, lr=1e-12), init=whole / "best.pt")
    assert "taken" in capsys.readouterr().out
    ours = load(tmp_path / "last.pt").trained.build()
    theirs = load(whole / "best.pt").trained.build()
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())


def test_tensorboard_gets_scalars_and_pictures(drawn, tmp_path, monkeypatch):
    told = []

    class Board:
        def add_scalar(self, name, value, step):
            told.append((name, step))

        def add_image(self, name, picture, step, dataformats):
            assert dataformats == "HWC" and picture.dtype == "uint8" and picture.shape[2] == 3
            told.append((name, step))

        def close(self):
            told.append("closed")

    monkeypatch.setattr(log, "_board", lambda _output: Board())
    run(drawn, tmp_path, _tiny(steps=2, log_every=2))
    assert {
        ("train/loss", 2),
        ("train/lr", 2),
        ("segm/AP", 2),
        ("validation/0", 2),
        ("validation/1", 2),
    } <= set(told)
    assert ("train/loss", 1) not in told and told[-1] == "closed"


def test_bf16_and_accumulation_and_adamw_train(drawn, tmp_path):
    settings = _tiny(
        precision="bf16", accumulate=2, batch_size=1, algorithm="adamw", gradient_clip=1.0, steps=2
    )
    run(drawn, tmp_path, settings)
    assert all(math.isfinite(r["loss"]) for r in losses(tmp_path)) and len(losses(tmp_path)) == 2


def test_fp16_needs_a_gpu(drawn, tmp_path):
    with pytest.raises(ValueError, match="precision=fp16 needs a CUDA device"):
        run(drawn, tmp_path, _tiny(precision="fp16"))
