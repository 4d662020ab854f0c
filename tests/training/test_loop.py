import itertools
import json
import math
import re
import shutil
from dataclasses import replace

import pytest
import torch

from maskrcnn.data.folder import read_split
from maskrcnn.data.synthetic import synthetic_dataset
from maskrcnn.training import evaluation as evaluation_of_run
from maskrcnn.training import log, loop, saver, setup
from maskrcnn.training.checkpoint import load, save
from maskrcnn.training.judged import Judged
from maskrcnn.training.loop import resume_training
from maskrcnn.training.plateau import Plateau
from trainings import TINY_RECIPE, losses, records, run, tiny


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
    assert best.trained.arguments == {
        "body.norm": "group",
        "pyramid.norm": "group",
        "boxes.norm": "group",
        "masks.norm": "group",
        **TINY_RECIPE,
    }


def test_checkpoints_hold_the_thresholds_of_their_evaluation(drawn, tmp_path, monkeypatch):
    """They are empty where they could not be measured."""
    measured = iter([(0.1,) * 5, (), (0.3,) * 5])
    monkeypatch.setattr(evaluation_of_run, "score_thresholds", lambda evaluation, ids: next(measured))
    aps, evaluate = iter([2.0, 1.0, 3.0]), evaluation_of_run.evaluate

    def with_ap(*arguments, **options):
        evaluation, value = evaluate(*arguments, **options), next(aps)
        for numbers in evaluation.metrics.values():
            numbers["AP"] = value
        return evaluation

    monkeypatch.setattr(evaluation_of_run, "evaluate", with_ap)
    run(drawn, tmp_path, tiny(steps=2, eval_every=1))
    thresholds = [load(tmp_path / name).trained.score_thresholds for name in ("best.pt", "last.pt")]
    assert thresholds == [(0.1,) * 5, ()]
    report = tmp_path / "evaluation" / "report.html"
    assert "Evaluation after step 1<" in report.read_text()
    resume_training(drawn, output=tmp_path, device="cpu", settings={"length.steps": 3})
    assert load(tmp_path / "best.pt").trained.metadata.score_thresholds == (0.3,) * 5
    assert "Evaluation after step 3<" in report.read_text()


def test_the_rate_in_the_log_is_the_schedules(whole):
    rates = [r["lr"] for r in records(whole)[:4]]
    assert rates == pytest.approx(
        [0.0025 * 0.001, 0.0025 * 0.5005, 0.0025, 0.00025]
    )  # warm-up, then past 2/3


def test_the_same_seed_gives_the_same_losses_to_the_bit(drawn, whole, tmp_path):
    run(drawn, tmp_path, tiny())
    assert losses(tmp_path) == losses(whole)
    other = tmp_path / "other"
    run(drawn, other, tiny(seed=1, steps=1))
    assert losses(other)[0]["loss"] != losses(whole)[0]["loss"]


def test_records_of_steps_after_the_checkpoint_are_removed(drawn, whole, tmp_path):
    """A killed training has logged steps that its last checkpoint does not have."""
    shutil.copytree(whole, tmp_path / "run")
    file = tmp_path / "run" / "metrics.jsonl"
    file.write_text(file.read_text() + '{"step": 5, "loss": 1.0}\n{"step": 6, "lo')
    later = tmp_path / "run" / "pictures" / "0-6.jpg"
    shutil.copy(later.with_name("0-4.jpg"), later)
    resume_training(drawn, output=tmp_path / "run", device="cpu", settings={"length.steps": 5})
    assert not later.exists() and later.with_name("0-5.jpg").exists()
    assert [r["step"] for r in records(tmp_path / "run") if "loss" in r] == [1, 2, 3, 4, 5]


def test_saving_and_evaluating_happen_when_they_are_due(drawn, tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(saver, "save", lambda path, checkpoint: saved.append((path.name, checkpoint.step)))
    aps = iter([10.0, 5.0, 7.0])
    judge = lambda *_: [Judged({}, {"bbox": {"AP": 90.0}, "segm": {"AP": next(aps)}})]  # noqa: E731
    monkeypatch.setattr(loop, "evaluate_run", judge)
    run(drawn, tmp_path, tiny(save_every=3, eval_every=2, steps=5))
    at_two = [("last.pt", 2), ("best.pt", 2), ("last.pt", 2)]
    assert saved == [*at_two, ("last.pt", 3), ("last.pt", 4), ("last.pt", 4), ("last.pt", 5), ("last.pt", 5)]


def test_a_time_limit_ends_the_training_and_drives_the_schedule(drawn, tmp_path, monkeypatch):
    clock = itertools.count(100.0, 15.0)  # a step every 15 seconds
    monkeypatch.setattr(saver.time, "monotonic", lambda: next(clock))
    settings = tiny(steps=10_000, time_limit=1.0, decay="cosine", warmup_steps=0)
    run(drawn, tmp_path, settings)
    steps = [r for r in records(tmp_path) if "loss" in r]
    assert [r["seconds"] for r in steps] == [15, 30, 45, 60]
    peak = settings.peak_lr
    assert [r["lr"] for r in steps] == pytest.approx(
        [peak, 0.85355 * peak, 0.5 * peak, 0.14645 * peak], rel=1e-4
    )


def test_without_validation_pictures_some_are_held_back(drawn, tmp_path, capsys):
    """They are the same when the training is resumed, even with another seed, and in an evaluation."""
    data, output = tmp_path / "data", tmp_path / "run"
    shutil.copytree(drawn, data)
    (data / "annotations" / "instances_val.json").unlink()
    assert run(data, output, tiny(steps=1)).name == "best.pt"
    pictures = len(read_split(data, "train"))
    assert re.search(rf"\d of {pictures} are held back \(.*split\.json\)", capsys.readouterr().out)
    held_back = json.loads((output / "split.json").read_text())["validation"]
    resume_training(data, output=output, device="cpu", settings={"length.steps": 2, "seed": 9})
    assert json.loads((output / "split.json").read_text())["validation"] == held_back
    trained = load(output / "last.pt").trained
    parts = [setup.open_evaluated(data, split, trained, output) for split in ("train", "val")]
    assert held_back and parts[1].image_ids.tolist() == held_back
    assert len(parts[0]) == pictures - len(held_back)
    (output / "split.json").write_text('{"validation": [12345]}')
    with pytest.raises(ValueError, match=r"split\.json: holds back pictures .* such as that of id 12345"):
        resume_training(data, output=output, device="cpu", settings={"length.steps": 3})
    (output / "split.json").write_text("[]")
    with pytest.raises(ValueError, match=r"split\.json: not a split"):
        resume_training(data, output=output, device="cpu", settings={"length.steps": 3})


def test_one_picture_is_not_held_back_and_the_last_checkpoint_is_the_best(tmp_path):
    data = synthetic_dataset(tmp_path / "data", train=1, val=1, size=64)
    (data / "annotations" / "instances_val.json").unlink()
    assert run(data, tmp_path / "run", tiny(steps=1)) == tmp_path / "run" / "last.pt"


def test_evaluation_every_0_steps_is_never(drawn, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "evaluate_run", lambda *_: pytest.fail("evaluated"))
    assert run(drawn, tmp_path, tiny(steps=1, eval_every=0)).name == "last.pt"


def test_a_training_is_never_overwritten(drawn, whole):
    with pytest.raises(ValueError, match="--resume"):
        run(drawn, whole, tiny())


def test_resume_keeps_the_network(drawn, whole, tmp_path):
    with pytest.raises(FileNotFoundError, match=re.escape("last.pt")):
        resume_training(drawn, output=tmp_path / "none")
    assert not (tmp_path / "none").exists()
    for other in (
        {"recipe": "resnet50_fpn"},
        {"recipe_arguments": {"pyramid.channels": 8, "masks.channels": 8}},
    ):
        with pytest.raises(ValueError, match="is a training of resnet18_fpn"):
            resume_training(drawn, output=whole, **other)


def test_other_classes_are_refused(drawn, whole, tmp_path):
    data = synthetic_dataset(tmp_path / "data", train=2, val=1, size=64)
    file = data / "annotations" / "instances_val.json"
    file.write_text(file.read_text().replace('"ring"', '"doughnut"'))
    with pytest.raises(ValueError, match="doughnut"):
        run(data, tmp_path / "run", tiny())


def test_the_network_must_have_the_keypoints_of_the_data(drawn, tmp_path):
    with pytest.raises(ValueError, match="predicts 17 keypoints"):
        run(drawn, tmp_path, tiny(), recipe="resnet18_fpn_keypoint")


def test_initial_weights_are_copied_with_an_account(drawn, whole, tmp_path, capsys):
    run(drawn, tmp_path, tiny(steps=1, lr=1e-12), init=whole / "best.pt")
    assert "loaded" in capsys.readouterr().out
    ours = load(tmp_path / "last.pt").trained.build()
    theirs = load(whole / "best.pt").trained.build()
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())


def test_tensorboard_gets_scalars_and_pictures(drawn, tmp_path, monkeypatch):
    written = []

    class Board:
        def add_scalar(self, name, value, step):
            written.append((name, step))

        def add_image(self, name, picture, step, dataformats):
            assert dataformats == "HWC" and picture.dtype == "uint8" and picture.shape[2] == 3
            written.append((name, step))

        def close(self):
            written.append("closed")

    monkeypatch.setattr(log, "_board", lambda _output: Board())
    run(drawn, tmp_path, tiny(steps=2, log_every=2))
    assert {
        ("train/loss", 2),
        ("train/lr", 2),
        ("segm/AP", 2),
        ("validation/0", 2),
        ("validation/1", 2),
    } <= set(written)
    assert ("train/loss", 1) not in written and written[-1] == "closed"


def test_bf16_and_accumulation_and_adamw_train(drawn, tmp_path):
    settings = tiny(
        precision="bf16", accumulate=2, batch_size=1, algorithm="adamw", gradient_clip=1.0, steps=2
    )
    run(drawn, tmp_path, settings)
    assert all(math.isfinite(r["loss"]) for r in losses(tmp_path)) and len(losses(tmp_path)) == 2


def test_fp16_needs_a_gpu(drawn, tmp_path):
    with pytest.raises(ValueError, match="precision=fp16 needs a CUDA device"):
        run(drawn, tmp_path, tiny(precision="fp16"))


def test_the_average_is_judged_beside_the_weights_and_the_better_is_kept(
    drawn, tmp_path, monkeypatch, capsys
):
    """APs of weights and average by hand: the average is better at step 2, the weights at step 3."""
    judged, evaluation = [], evaluation_of_run.evaluate
    aps = iter([5.0, 6.0, 8.0, 7.0])

    def evaluate(predictor, dataset, **more):
        judged.append(predictor.model.state_dict())
        result = evaluation(predictor, dataset, **more)
        result.metrics["segm"]["AP"] = next(aps)
        return result

    monkeypatch.setattr(evaluation_of_run, "evaluate", evaluate)
    kept = {}
    monkeypatch.setattr(
        saver,
        "save",
        lambda path, run: save(path, run) or kept.setdefault(path.name, []).append(load(path)),
    )
    run(drawn, tmp_path, tiny(steps=3, eval_every=2, ema=0.9))
    plain, averaged = kept["best.pt"][1], kept["best.pt"][0]
    assert (averaged.step, averaged.best_ap, plain.step, plain.best_ap) == (2, 6.0, 3, 8.0)
    assert averaged.metrics["segm"]["AP"] == 6.0 and plain.metrics["segm"]["AP"] == 8.0
    at_two = next(one for one in kept["last.pt"] if one.evaluated == 2)
    assert at_two.metrics["segm"]["AP"] == 5.0  # of its own weights
    assert equal(averaged.trained.weights, at_two.average["weights"])
    assert not equal(averaged.trained.weights, at_two.trained.weights)
    assert equal(plain.trained.weights, kept["last.pt"][-1].trained.weights)
    logged = [r for r in records(tmp_path) if "bbox" in r]
    assert [(r["segm"]["AP"], r["average"]["segm"]["AP"]) for r in logged] == [(5.0, 6.0), (8.0, 7.0)]
    assert "step 2: AP 5.0, of the averaged weights 6.0\n" in capsys.readouterr().out


def equal(one, other):
    return one.keys() == other.keys() and all(
        torch.equal(one[name], tensor) for name, tensor in other.items()
    )


def test_the_average_is_that_of_the_weights_after_each_step(drawn, tmp_path, monkeypatch):
    weights = []

    def collect(_, checkpoint):
        states = checkpoint.trained.weights, checkpoint.average["weights"]
        weights.append([{name: tensor.clone() for name, tensor in state.items()} for state in states])

    monkeypatch.setattr(saver, "save", collect)
    recipe = {**TINY_RECIPE, "body.norm": "batch"}
    run(drawn, tmp_path, tiny(steps=3, eval_every=0, save_every=1, ema=0.2), recipe_arguments=recipe)
    (_, before), (now, after) = weights[1:]
    assert now.keys() == after.keys() and any(name.endswith("running_mean") for name in now)
    for name in now:
        if now[name].is_floating_point():
            expected = 0.2 * before[name] + 0.8 * now[name]
            torch.testing.assert_close(after[name], expected, rtol=1e-5, atol=1e-7)


def test_the_validation_loss_is_logged(drawn, tmp_path, capsys):
    run(drawn, tmp_path, tiny(steps=1, validation_loss=True))
    loss = records(tmp_path)[-1]["validation_loss"]
    assert loss.keys() == {name for name in records(tmp_path)[0] if name.startswith("loss")}
    assert f"step 1: validation loss {loss['loss']:.3f}\n" in capsys.readouterr().out


def test_the_best_checkpoint_has_no_state_of_the_optimiser(drawn, whole, tmp_path, capsys):
    """It can be used as a network, and resumed, although without momentum, in place of last.pt."""
    best, last = whole / "best.pt", whole / "last.pt"
    assert best.stat().st_size < 0.51 * last.stat().st_size
    assert not load(best).optimiser and load(last).optimiser
    shutil.copytree(whole, tmp_path / "run")
    shutil.copy(best, tmp_path / "run" / "last.pt")
    resume_training(drawn, output=tmp_path / "run", device="cpu", settings={"length.steps": 5})
    assert "; resumes after step 4 without momentum, which last.pt does not hold\n" in capsys.readouterr().out
    assert load(tmp_path / "run" / "last.pt").step == 5


def test_another_length_begins_a_new_plateau(drawn, whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    last = tmp_path / "run" / "last.pt"
    save(last, replace(load(last), plateau=Plateau(begins=0.6)))
    for name, value, begins in (
        ("logging.save_every", 7, 0.6),
        ("length.steps", 8, 1.0),
        ("length.patience", 3, 1.0),
    ):
        assert setup.resumed_run(tmp_path / "run", None, {}, {name: value}).plateau.begins == begins
