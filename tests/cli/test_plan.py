import json

import pytest

from cli.conftest import TINY_RECIPE
from maskrcnn.cli import main
from maskrcnn.data import synthetic
from maskrcnn.training import folds
from maskrcnn.training.checkpoint import load
from maskrcnn.weights.published import PUBLISHED

MOBILENET = PUBLISHED["torchvision/mobilenet_v2"]
SMALL = ["batch_size=2", "workers=0", "long_side=64", "short_sides=64", "test_short_side=64", "crop=none"]


def single(table):
    """Return a printed table with every space once."""
    return " ".join(table.split())


def test_the_plan_is_shown_written_trained_and_kept(data, tmp_path, capsys, offline, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.setattr("rich._console", None)  # which kept the width before
    file, output = tmp_path / "plans" / "mine.json", tmp_path / "run"
    words = ["--device", "cpu", "--set", *SMALL, *TINY_RECIPE]
    assert main(["plan", str(data), "--minutes", "0.02", "--output", str(file), *words]) == 0
    shown = capsys.readouterr().out
    assert "0.02 minutes" in shown and "optimiser.lr" in shown and "set by --set" in shown
    assert f"init │ none │ drawn weights: {MOBILENET.name} cannot be had (no connection" in single(shown)
    assert f"or put {MOBILENET.url} into" in single(shown)
    content = json.loads(file.read_text())
    by_name = {line["name"]: line for line in content["settings"]}
    assert by_name["step.batch_size"] == {"name": "step.batch_size", "value": "2", "reason": "set by --set"}
    by_name["optimiser.lr"]["value"] = "0.00123"
    file.write_text(json.dumps(content))
    assert main(["train", str(data), "--plan", str(file), "--output", str(output), "--device", "cpu"]) == 0
    run = load(output / "last.pt")
    assert run.settings.optimiser.lr == 0.00123 and run.settings.length.steps is None
    assert ("optimiser.lr", "0.00123", by_name["optimiser.lr"]["reason"]) in run.plan
    assert offline == [MOBILENET.url]  # by the plan, not by the training
    assert run.trained.arguments["pyramid.channels"] == 16 and run.trained.recipe == "resnet18_fpn"
    kept = json.loads((output / "plan.json").read_text())
    assert {line["name"]: line["value"] for line in kept["settings"]}["optimiser.lr"] == "0.00123"


def test_train_plans_the_minutes_that_it_is_given(data, tmp_path, capsys, offline):
    words = ["--minutes", "0.02", "--output", str(tmp_path / "run"), "--device", "cpu"]
    assert main(["train", str(data), *words, "--set", *SMALL, *TINY_RECIPE]) == 0
    assert "0.02 minutes of steps of 2 pictures" in capsys.readouterr().out
    assert (tmp_path / "run" / "plan.json").is_file() and (tmp_path / "run" / "best.pt").is_file()
    assert offline == [MOBILENET.url]
    assert main(["train", str(data), *words[2:], "--resume"]) == 0
    assert main(["weights", "info", str(tmp_path / "run" / "best.pt")]) == 0
    assert "plan        step.batch_size=2  set by --set" in capsys.readouterr().out
    assert offline == [MOBILENET.url]  # a training that is resumed looks for no weights
    assert main(["train", str(data), *words]) == 2  # before a new plan
    assert "holds a training" in capsys.readouterr().err


def test_the_words_of_init(data, tmp_path, capsys, offline, weights, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.setattr("rich._console", None)  # which kept the width before
    plan = ["plan", str(data), "--minutes", "0.02", "--device", "cpu", "--init"]
    assert main([*plan, "none"]) == 0
    assert "init │ none │ drawn weights, as asked for" in single(capsys.readouterr().out)
    assert main([*plan, str(weights)]) == 0
    assert f"init │ {weights} │ as asked for" in single(capsys.readouterr().out)
    assert main([*plan, "torchvison/resnet18"]) == 2
    assert "did you mean torchvision/resnet18" in capsys.readouterr().err
    train = ["train", str(data), "--output", str(tmp_path / "run"), "--device", "cpu", "--init"]
    assert main([*train, "auto", "--set", "steps=1"]) == 2
    assert "--init auto is a choice of the plan" in capsys.readouterr().err
    tiny = ["steps=1", *SMALL[:3], "eval_every=0", *TINY_RECIPE]
    assert main([*train, "none", "--recipe", "resnet18_fpn", "--set", *tiny]) == 0
    assert load(tmp_path / "run" / "last.pt").plan == () and offline == []


def test_init_replaces_that_of_a_plan(data, tmp_path, capsys, weights):
    file = tmp_path / "plan.json"
    words = ["--device", "cpu", "--set", *SMALL, *TINY_RECIPE]
    assert main(["plan", str(data), "--minutes", "0.01", "--output", str(file), *words]) == 0
    words = ["--plan", str(file), "--init", str(weights), "--output", str(tmp_path / "run"), *words]
    assert main(["train", str(data), *words]) == 0
    assert ("init", str(weights), "set by --init") in load(tmp_path / "run" / "last.pt").plan
    assert str(weights) in capsys.readouterr().out


def test_without_minutes_the_time_is_measured(data, capsys):
    assert main(["plan", str(data), "--device", "cpu", "--set", *SMALL, *TINY_RECIPE]) == 0
    assert "the training takes about" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[]", "not a plan"),
        ('{"settings": [{"name": "x.y", "value": "1"}]}', "no setting 'x.y'"),
        ('{"settings": [{"name": "optimiser.lr", "value": "fast"}]}', "optimiser.lr"),
        ('{"settings": [{"name": "recipe", "value": "resnet19_fpn"}]}', "resnet19_fpn"),
        ('{"recipe": "resnet18_fpn"}', "not a plan"),
    ],
)
def test_a_plan_that_cannot_be_read_is_a_sentence(data, tmp_path, capsys, text, sentence):
    (tmp_path / "plan.json").write_text(text)
    words = ["train", str(data), "--plan", str(tmp_path / "plan.json"), "--output", str(tmp_path / "run")]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert sentence in error and "plan.json" in error and not (tmp_path / "run" / "last.pt").exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--minutes", "0"], "must be more than 0"),
        (["--minutes", "3", "--set", "steps=4"], "contradicts"),
        (["--plan", "x.json", "--minutes", "4"], "edit the file"),
        (["--folds", "0"], "--folds must be at least 2, not 0"),
        (["--folds", "2"], "--folds is for data without validation pictures"),
    ],
)
def test_contradictions_are_sentences(data, tmp_path, capsys, words, sentence):
    assert main(["train", str(data), "--output", str(tmp_path / "run"), "--device", "cpu", *words]) == 2
    assert sentence in capsys.readouterr().err


def test_several_processes_need_one_plan(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["train", str(data), "--minutes", "1", "--output", str(tmp_path / "run")]) == 2
    assert "several processes need one plan" in capsys.readouterr().err


def test_folds_share_the_minutes_and_resume_with_the_same_words(tmp_path, monkeypatch, capsys):
    data, output, resumed = tmp_path / "data", tmp_path / "run", []
    synthetic.synthetic_dataset(data, train=3, val=1, size=64)
    (data / "annotations" / "instances_val.json").unlink()
    monkeypatch.setattr(folds, "resume_folds", lambda *_, output, **__: resumed.append(output) or output)
    words = ["train", str(data), "--output", str(output), "--device", "cpu", "--folds", "2"]
    words += ["--minutes", "0.3", "--set", *SMALL, *TINY_RECIPE]
    assert main(words) == 0
    assert folds.read_folds(output).arguments.settings.length.time_limit == pytest.approx(0.1)
    assert main([*words, "--resume"]) == 0
    assert main(["train", str(data), "--output", str(output), "--resume"]) == 0
    assert resumed == [output] * 3
    assert main(["train", str(data), "--output", str(output), "--resume", "--minutes", "9"]) == 2
    assert "--minutes 9.0 is for a new training" in capsys.readouterr().err
    assert main(["plan", str(data), "--device", "cpu", *words[words.index("--minutes") :]]) == 0
    assert "3 pictures are few: --folds 3 validates" in capsys.readouterr().out
