"""Cross-validation: a training for each fold, a final one, and what they reach together."""

import json

import pytest

from maskrcnn.data.folder import read_split
from maskrcnn.data.split import Subset
from maskrcnn.data.synthetic import synthetic_dataset
from maskrcnn.evaluation.run import evaluate
from maskrcnn.predict.predictor import Predictor
from maskrcnn.training import folds, loop
from maskrcnn.training.checkpoint import load
from maskrcnn.training.folds import TrainArguments, resume_folds, summary_of, train_folds
from maskrcnn.weights.model_checkpoint import read_model
from trainings import TINY_RECIPE, assert_same_training, records, tiny


def arguments(**changes):
    settings = tiny(**{"steps": 2, "eval_every": 0, **changes})
    return TrainArguments(settings, "resnet18_fpn", TINY_RECIPE)


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """Five pictures without a validation split."""
    data = synthetic_dataset(tmp_path_factory.mktemp("few"), train=5, val=1, size=64)
    (data / "annotations" / "instances_val.json").unlink()
    return data


@pytest.fixture(scope="module")
def crossed(few, tmp_path_factory):
    """A cross-validation of two folds without interruption."""
    output = tmp_path_factory.mktemp("crossed") / "run"
    assert train_folds(few, 2, arguments(), output=output, device="cpu") == output / "last.pt"
    return output


def test_each_picture_is_held_back_once_and_the_final_network_sees_all(few, crossed):
    held_back = [
        json.loads((crossed / f"fold{number}" / "split.json").read_text())["validation"] for number in (1, 2)
    ]
    assert sorted(id_ for fold in held_back for id_ in fold) == read_split(few, "train").image_ids.tolist()
    assert sorted(map(len, held_back)) == [2, 3]
    assert not (crossed / "fold3").exists() and not (crossed / "split.json").exists()
    for folder in (crossed / "fold1", crossed / "fold2", crossed):
        run = load(folder / "last.pt")
        assert run.step == 2 and run.trained.arguments["pyramid.channels"] == 16


def test_the_summary_is_that_of_separate_evaluations(few, crossed):
    summary = json.loads((crossed / "cross_validation.json").read_text())
    dataset = read_split(few, "train")
    for number, pictures in enumerate(summary["pictures"]):
        trained = read_model(crossed / f"fold{number + 1}" / "last.pt")
        ids = json.loads((crossed / f"fold{number + 1}" / "split.json").read_text())["validation"]
        fold = Subset(dataset, [dataset.image_ids.tolist().index(id_) for id_ in ids])
        predictor = Predictor.from_checkpoint(trained, device="cpu")
        metrics = evaluate(predictor, fold, max_detections=trained.max_detections).metrics
        assert len(fold) == pictures
        assert [summary["folds"][kind][number] for kind in ("bbox", "segm")] == [
            metrics["bbox"]["AP"],
            metrics["segm"]["AP"],
        ]
    assert set(summary["pooled"]["segm"]["per_class"]) == set(dataset.class_names)


def test_mean_and_spread_by_hand(few, crossed, monkeypatch):
    metrics = iter([10.0, 30.0, 17.0, None, 40.0, 20.0])

    class Evaluated:
        def __init__(self):
            self.metrics = {"bbox": {"AP": next(metrics)}, "segm": {"AP": next(metrics)}}

    monkeypatch.setattr(folds, "evaluate", lambda *_, **__: Evaluated())
    summary = summary_of(read_split(few, "train"), [crossed / "fold1", crossed / "fold2"], "cpu")
    assert summary["folds"] == {"bbox": [10, 17], "segm": [30, None]}
    assert summary["mean"] == {"bbox": 13.5, "segm": 30}
    assert summary["spread"]["bbox"] == pytest.approx(24.5**0.5) and summary["spread"]["segm"] is None
    assert summary["pooled"]["segm"]["AP"] == 20


def test_an_interrupted_cross_validation_resumes_to_the_bit(few, crossed, tmp_path, monkeypatch, capsys):
    output, begun, train_step = tmp_path / "run", [], loop.train_step

    def step(state, *rest):
        begun.append(state.step)
        if len(begun) == 4:  # the second step of the second fold
            raise KeyboardInterrupt
        return train_step(state, *rest)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop, "train_step", step)
        train_folds(few, 2, arguments(), output=output, device="cpu")
    command = f"maskrcnn train {few} --output {output} --resume"
    assert f"to resume the cross-validation: {command}\n" in capsys.readouterr().out
    untouched = (output / "fold1" / "last.pt").stat().st_mtime_ns
    assert not (output / "cross_validation.json").exists()

    resume_folds(few, output=output, device="cpu")
    assert (output / "fold1" / "last.pt").stat().st_mtime_ns == untouched
    for name in ("fold1", "fold2", "."):
        assert_same_training(output / name, crossed / name)
    summaries = [(folder / "cross_validation.json").read_text() for folder in (output, crossed)]
    assert summaries[0] == summaries[1]
    assert [r["step"] for r in records(output) if "loss" in r] == [1, 2]


def test_what_cannot_be_cross_validated_is_a_sentence(few, drawn, crossed, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="--folds is for data without validation pictures"):
        train_folds(drawn, 2, arguments(), output=tmp_path / "run")
    with pytest.raises(ValueError, match=r"--folds 9: expected from 2 to 5"):
        train_folds(few, 9, arguments(), output=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    (crossed / "last.pt").rename(crossed / "other.pt")
    with pytest.raises(ValueError, match="holds a cross-validation: resume it with --resume"):
        train_folds(few, 2, arguments(), output=crossed)
    (crossed / "other.pt").rename(crossed / "last.pt")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="in one process"):
        train_folds(few, 2, arguments(), output=tmp_path / "run")
    (tmp_path / "folds.json").write_text('{"folds": []}')
    with pytest.raises(ValueError, match=r"folds\.json: not the folds"):
        resume_folds(few, output=tmp_path)
