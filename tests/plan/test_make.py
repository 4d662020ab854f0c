"""A plan from Python, with and without a network, and what is measured for it."""

import json
from unittest.mock import Mock

import pytest
import torch

import maskrcnn
from maskrcnn import recipes
from maskrcnn.data import synthetic
from maskrcnn.plan import make
from maskrcnn.plan.machine import Machine
from maskrcnn.plan.make import describe_length, download, look_for, make_plan, plan_from_file
from maskrcnn.plan.view import View
from maskrcnn.training.checkpoint import Checkpoint, load
from maskrcnn.weights import download as downloads
from maskrcnn.weights.describe import describe
from maskrcnn.weights.published import PUBLISHED
from trainings import TINY_RECIPE

MOBILENET = PUBLISHED["torchvision/mobilenet_v2"]
SMALL = {
    "step.batch_size": 2,
    "pictures.workers": 0,
    "pictures.long_side": 64,
    "pictures.short_sides": (64,),
    "pictures.test_short_side": 64,
    "augmentation.crop": None,
}
TINY = {name: value for name, value in TINY_RECIPE.items() if not name.startswith("body.")}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return synthetic.synthetic_dataset(tmp_path_factory.mktemp("synthetic"), train=4, val=2, size=64)


@pytest.fixture
def measured(monkeypatch):
    """Replace all measurements: a step takes a second; return recipes and settings that were measured."""
    settings = []

    def one_second(state, dataset, of):
        settings.append((state.recipe, of))
        return 1.0

    def run(dataset, settings, recipe, arguments, origin):
        return Mock(Checkpoint, recipe=recipe)

    monkeypatch.setattr(make, "trial_run", run)
    monkeypatch.setattr(make, "make_train_state", lambda run, device: run)
    monkeypatch.setattr(make, "step_seconds", one_second)
    monkeypatch.setattr(make, "probe_machine", lambda device: Machine("cpu", 1, None, "float32"))
    return settings


@pytest.fixture
def mobilenet():
    """Put the body of a MobileNetV2 into the cache, as its published file; return it."""
    torch.manual_seed(1)
    body = recipes.build("mobilenet_v2_fpn", 1).backbone.body.state_dict()
    path = downloads.cache_folder() / MOBILENET.file_name
    path.parent.mkdir(parents=True)
    torch.save(body, path)
    path.with_name(f".{path.name}.size").write_text(str(path.stat().st_size))
    return body


def test_a_plan_from_python_is_shown_trained_and_kept(data, tmp_path, offline, measured, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")  # what a terminal has
    output = tmp_path / "run"
    plan = maskrcnn.make_plan(data, minutes=0.02, device="cpu", values={**SMALL, **TINY})
    assert offline == [MOBILENET.url]  # asked once
    for text in (
        "recipe",
        "resnet18_fpn",
        "torchvision/mobilenet_v2 cannot",
        "set by --set",
        "length.time_limit",
    ):
        assert text in plan.table()
    weights = plan.train(output)
    run = load(output / "last.pt")
    assert run.plan == plan.plan.texts() and ("step.batch_size", "2", "set by --set") in run.plan
    assert run.settings == plan.settings and weights == output / "best.pt"
    kept = json.loads((output / "plan.json").read_text())["settings"]
    assert [tuple(line.values()) for line in kept] == list(run.plan)
    shown = describe(weights)
    assert "plan        recipe=resnet18_fpn  small enough" in shown
    assert "plan        step.batch_size=2  set by --set" in shown
    assert offline == [MOBILENET.url]  # nor by the training


def test_the_cache_is_used_without_a_network(data, tmp_path, offline, measured, mobilenet):
    planned = make_plan(data, minutes=0.02, device="cpu", values={**SMALL, **TINY}, reach=download)
    assert offline == [] and planned.plan.init == MOBILENET.name
    assert planned.plan.recipe == "mobilenet_v2_fpn"
    planned.train(tmp_path / "run")
    trained = load(tmp_path / "run" / "last.pt").trained
    mean = trained.weights["backbone.body.features.0.1.running_mean"]
    assert offline == [] and torch.equal(mean, mobilenet["features.0.1.running_mean"])


def test_a_plan_downloads_nothing(data, monkeypatch, measured):
    planned = make_plan(data, minutes=0.02, device="cpu", reach=lambda published: "")
    assert planned.plan.init == MOBILENET.name and not downloads.cache_folder().exists()
    [line] = [line for line in planned.plan.lines if line.name == "init"]
    assert "14 MB, BSD-3-Clause" in line.reason and line.reason.endswith("will be downloaded")


def test_a_training_downloads_before_it_plans(monkeypatch, mobilenet):
    path = downloads.cache_folder() / MOBILENET.file_name
    content = path.read_bytes()
    path.unlink()
    monkeypatch.setattr(make, "why_unreachable", lambda published: "")
    monkeypatch.setattr(make, "fetch", lambda published: path.write_bytes(content))
    names = (MOBILENET.name, "torchvision/resnet18")
    assert look_for(names, download)._replace(folder="") == (frozenset({MOBILENET.name}), "", "")


def test_a_download_that_breaks_is_an_obstacle(monkeypatch):
    def broken(published):
        raise ValueError("the connection ended after 5 of 9 bytes")

    monkeypatch.setattr(make, "why_unreachable", lambda published: "")
    monkeypatch.setattr(make, "fetch", broken)
    available = look_for((MOBILENET.name,), download)
    assert (available.cached, available.obstacle) == (frozenset(), "the connection ended after 5 of 9 bytes")


def test_no_weights_are_looked_for_where_none_suit_or_are_wanted(data, offline, measured):
    assert look_for((), download).obstacle == ""
    planned = make_plan(data, minutes=1.0, init=None, device="cpu")
    [line] = [line for line in planned.plan.lines if line.name == "init"]
    assert offline == [] and (line.value, line.reason) == (None, "drawn weights, as asked for")


def test_the_time_of_a_step_is_measured_again_where_it_changed_the_plan(data, monkeypatch, measured):
    monkeypatch.setattr("maskrcnn.plan.rules.choose_view", lambda about, is_gpu: View(512, 8.0, None))
    planned = make_plan(data, minutes=0.5, init=None, device="cpu")
    # 2 pictures a second: of 4 pictures 13.8 passes of the 40; 288 px are 0.32 of the pixels
    assert [settings.pictures.test_short_side for _, settings in measured] == [512, 288]
    assert planned.settings.pictures.test_short_side == 288 and planned.step_seconds == 1.0
    assert describe_length(planned) == (
        "the training takes 0.5 minutes, and two evaluations at the end: about 30 steps of 1.00 s, 15.0 "
        "passes over 4 pictures; 40 passes or more would be better"
    )


def test_the_length_of_a_plan_without_minutes(data, measured):
    planned = make_plan(data, init=None, device="cpu", values={"length.steps": 90})
    assert planned.step_seconds is None and measured == []
    assert describe_length(planned) == (
        "the training takes about 0:01:30 here: 90 steps of 1.00 s, 45.0 passes over 4 pictures; "
        "--minutes T plans for another time"
    )
    assert describe_length(replace_recipe(planned)) == "the training takes 90 steps"


def replace_recipe(planned):
    """Return the plan as one of a file has it, whose recipe is that of unread weights."""
    return planned._replace(plan=planned.plan.replaced({"recipe": None}, "unknown"))


def test_a_recipe_of_the_user_is_named_as_such(data, measured):
    planned = make_plan(data, minutes=1.0, recipe="resnet34_fpn", init=None, device="cpu")
    [line] = [line for line in planned.plan.lines if line.name == "recipe"]
    assert (line.value, line.reason) == ("resnet34_fpn", "set by --recipe")
    assert measured[0][0] == "resnet34_fpn"


def test_a_plan_of_a_file_keeps_recipe_and_weights(data, tmp_path, measured):
    planned = make_plan(data, minutes=1.0, device="cpu", reach=lambda published: "")
    file = tmp_path / "plan.json"
    make.write_plan(file, planned.plan, planned.fingerprint)
    read = plan_from_file(data, file, {"init": None})
    assert read.plan.recipe == "mobilenet_v2_fpn" and read.plan.init is None
    assert plan_from_file(data, file, {}).plan.texts() == planned.plan.texts()
    assert read.fingerprint == planned.fingerprint
