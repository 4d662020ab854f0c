"""Every setting that --resume changes takes effect, or is refused in a sentence."""

import shutil

import pytest
import torch

from maskrcnn.network.model import MaskRCNN
from maskrcnn.plain import options_of
from maskrcnn.training import batches, evaluation, saver, step
from maskrcnn.training.checkpoint import load
from maskrcnn.training.loop import resume_training
from maskrcnn.training.settings import Settings
from trainings import TINY_RECIPE, losses, records, run, tiny

BEFORE = {
    "steps": 2,
    "warmup_steps": 4,
    "decay_at": (0.5,),
    "jitter": None,
    "scale": None,
    "crop": (60, 60),
    "object_crops": 0.0,
    "quarter_turns": 0.0,
    "copy_paste": 0.0,
    "repeat_threshold": 0.0,
    "log_every": 100,
    "eval_every": 0,
}

# Settings that change what the next step computes: its losses, its rate or the weights after it
COMPUTED = {
    "step.batch_size": 3,
    "step.accumulate": 2,
    "step.precision": "bf16",
    "optimiser.lr": 0.1,
    "optimiser.momentum": 0.1,
    "optimiser.weight_decay": 0.5,
    "optimiser.decay_norms_and_biases": False,
    "optimiser.gradient_clip": 0.01,
    "schedule.warmup_steps": 10,
    "schedule.warmup_factor": 0.5,
    "schedule.decay": "cosine",
    "schedule.decay_at": (0.9,),
    "schedule.decay_factor": 0.5,
    "pictures.short_sides": (32,),
    "pictures.long_side": 40,
    "pictures.repeat_threshold": 1.0,
    "augmentation.scale": (0.5, 0.6),
    "augmentation.crop": (32, 32),
    "augmentation.object_crops": 1.0,
    "augmentation.flip_horizontal": 1.0,
    "augmentation.flip_vertical": 1.0,
    "augmentation.quarter_turns": 1.0,
    "augmentation.jitter": (0.5, 0.5, 0.5),
    "augmentation.copy_paste": 1.0,
    "seed": 1,
}
REFUSED = {"optimiser.algorithm": "adamw"}
# What the others change is observed one by one
OBSERVED = {
    "length.steps": (4, lambda seen: seen["steps"] == [1, 2, 3, 4]),
    "length.time_limit": (1e-6, lambda seen: seen["steps"] == [1, 2]),
    "length.patience": (1, lambda seen: "evaluations did not gain" in seen["output"]),
    "optimiser.ema": (0.9, lambda seen: seen["averaged"]),
    "optimiser.retries": (1, lambda seen: seen["copies"]),
    "step.compiled": (True, lambda seen: seen["compiled"]),
    "step.recompute": (True, lambda seen: seen["recomputed"]),
    "pictures.test_short_side": (56, lambda seen: seen["trained"].short_side == 56),
    "pictures.test_long_side": (57, lambda seen: seen["trained"].long_side == 57),
    "pictures.workers": (1, lambda seen: seen["workers"] == 1),
    "logging.log_every": (1, lambda seen: "step 3 (100%)" in seen["output"]),
    "logging.save_every": (1, lambda seen: seen["saved"] == [3, 4]),
    "logging.eval_every": (None, lambda seen: seen["evaluations"] == 1),
    "logging.validation_loss": (True, lambda seen: seen["validation_losses"]),
}
# What some of them need to have an effect
TOGETHER = {
    "length.patience": {"length.steps": 6, "logging.eval_every": 1},
    "logging.save_every": {"length.steps": 4},
    "logging.validation_loss": {"logging.eval_every": None},
}


@pytest.fixture(scope="module")
def stopped(drawn, tmp_path_factory):
    """A training of two steps."""
    recipe = {"recipe": "mobilenet_v2_fpn", "recipe_arguments": TINY_RECIPE}
    return run(drawn, tmp_path_factory.mktemp("stopped"), tiny(**BEFORE), **recipe).parent


def resumed(drawn, stopped, folder, **settings):
    """Resume a copy of the training; return what was computed: the records, and the weights."""
    shutil.copytree(stopped, folder)
    try:
        resume_training(drawn, output=folder, device="cpu", settings=settings)
        return losses(folder), load(folder / "last.pt").trained
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def unchanged(drawn, stopped, tmp_path_factory):
    return resumed(drawn, stopped, tmp_path_factory.mktemp("resumed") / "run", **{"length.steps": 3})


def test_every_setting_is_in_one_table():
    assert {*COMPUTED, *REFUSED, *OBSERVED} == set(options_of(Settings()))
    assert len(COMPUTED) + len(REFUSED) + len(OBSERVED) == len(options_of(Settings()))


@pytest.mark.parametrize("name", COMPUTED)
def test_the_next_step_changes(drawn, stopped, unchanged, tmp_path, name):
    steps, trained = resumed(drawn, stopped, tmp_path / "run", **{"length.steps": 3, name: COMPUTED[name]})
    assert [one["step"] for one in steps] == [1, 2, 3]
    weights = unchanged[1].weights
    differs = any(not torch.equal(tensor, weights[key]) for key, tensor in trained.weights.items())
    assert differs, f"{name} changes nothing"


@pytest.mark.parametrize("name", REFUSED)
def test_a_refused_setting_gets_a_sentence(drawn, stopped, tmp_path, name):
    with pytest.raises(ValueError, match=f"{name}={REFUSED[name]} cannot resume .*last.pt.* with --init"):
        resumed(drawn, stopped, tmp_path / "run", **{name: REFUSED[name]})


@pytest.mark.parametrize("name", OBSERVED)
def test_another_effect_is_observed(drawn, stopped, tmp_path, monkeypatch, capsys, name):
    seen = {"compiled": False, "recomputed": False, "saved": []}
    training_batches, save, copied = batches.training_batches, saver.save, saver._copied

    def observe_workers(*arguments, workers, **more):
        seen["workers"] = workers
        return training_batches(*arguments, workers=workers, **more)

    def observe_save(path, checkpoint):
        seen["saved"].append(checkpoint.step)
        seen["trained"], seen["averaged"] = checkpoint.trained, bool(checkpoint.average)
        save(path, checkpoint)

    monkeypatch.setattr(batches, "training_batches", observe_workers)

    def observe_copies(checkpoint):
        seen["copies"] = True
        return copied(checkpoint)

    def observe_loss(*_):
        seen["validation_losses"] = True
        return {}

    monkeypatch.setattr(saver, "save", observe_save)
    monkeypatch.setattr(saver, "_copied", observe_copies)
    monkeypatch.setattr(evaluation, "validation_loss", observe_loss)
    monkeypatch.setattr(step, "recompute_activations", lambda model: seen.update(recomputed=True))
    monkeypatch.setattr(MaskRCNN, "compile", lambda self, dynamic: seen.update(compiled=True))
    monkeypatch.setattr(saver.TrainingLog, "evaluation", lambda *_: seen.update(evaluations=1))
    value, is_observed = OBSERVED[name]
    settings = {"length.steps": 3, **TOGETHER.get(name, {}), name: value}
    steps, _ = resumed(drawn, stopped, tmp_path / "run", **settings)
    seen["steps"] = [one["step"] for one in steps]
    seen["output"] = capsys.readouterr().out
    assert is_observed(seen)


def test_without_a_change_none_of_this_is_observed(stopped):
    for name, (_, is_observed) in OBSERVED.items():
        seen = {
            "compiled": False,
            "recomputed": False,
            "saved": [3],
            "evaluations": 0,
            "output": "",
            "workers": 0,
            "steps": [1, 2, 3],
            **dict.fromkeys(("averaged", "copies", "validation_losses"), False),
        }
        seen["trained"] = load(stopped / "last.pt").trained
        assert not is_observed(seen), name


def test_recipe_and_its_options_are_refused(drawn, stopped):
    for other in (
        {"recipe": "resnet18_fpn"},
        {"recipe_arguments": {"pyramid.channels": 8, "masks.channels": 8}},
    ):
        with pytest.raises(ValueError, match="is a training of mobilenet_v2_fpn"):
            resume_training(drawn, output=stopped, **other)
    assert len(records(stopped)) == 2


@pytest.mark.gpu
def test_precision_changes_to_fp16(drawn, stopped, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(stopped, folder)
    settings = {"length.steps": 3, "step.precision": "fp16"}
    resume_training(drawn, output=folder, device="cuda", settings=settings)
    assert load(folder / "last.pt").scaler
    resume_training(
        drawn, output=folder, device="cuda", settings={"length.steps": 4, "step.precision": "float32"}
    )
    assert not load(folder / "last.pt").scaler and len(losses(folder)) == 4
