import dataclasses
import pickle
import resource

import pytest
import torch

from maskrcnn import recipes
from maskrcnn.plain import to_plain
from maskrcnn.predict.load import load as load_predictor
from maskrcnn.training.checkpoint import Checkpoint, load, save
from maskrcnn.training.plateau import Plateau
from maskrcnn.training.settings import Settings
from maskrcnn.types import Metadata
from maskrcnn.weights.model_checkpoint import ModelCheckpoint

TINY = {"pyramid.channels": 16, "masks.channels": 16, "boxes.hidden": 16, "body.frozen": ()}


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    torch.manual_seed(0)
    model = recipes.build("resnet18_fpn", 2, {**TINY})
    return Checkpoint(
        ModelCheckpoint(
            recipe="resnet18_fpn",
            arguments=TINY,
            class_names=("cat", "dog"),
            category_ids=(17, 18),
            keypoint_names=(),
            skeleton=(),
            short_side=64,
            long_side=96,
            weights=model.state_dict(),
        ),
        settings=Settings.of(short_sides=(64,), test_long_side=96),
        optimiser={},
        scaler={},
        step=7,
        elapsed=1.5,
        metrics={"bbox": {"AP": 1.0, "APl": None}},
        best_ap=1.0,
        average={"weights": {"scale": torch.tensor(2.0)}, "updates": 3},
        evaluated=6,
        plateau=Plateau(ap=1.0, evaluations=2, begins=0.75),
        setbacks=1,
    )


@pytest.fixture(scope="module")
def file(checkpoint, tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "deep" / "last.pt"
    save(path, checkpoint)
    return path


def test_what_is_saved_is_loaded(checkpoint, file):
    loaded = load(file)
    for field in dataclasses.fields(Checkpoint):
        if field.name != "trained":
            assert getattr(loaded, field.name) == getattr(checkpoint, field.name)
    ours, theirs = loaded.trained.weights, checkpoint.trained.weights
    assert dataclasses.replace(loaded.trained, weights={}) == dataclasses.replace(
        checkpoint.trained, weights={}
    )
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())
    assert [path.name for path in file.parent.iterdir()] == ["last.pt"]  # nothing unfinished stays


def test_a_plan_is_kept_and_older_files_have_none(checkpoint, file, tmp_path):
    lines = (("recipe", "resnet18_fpn", "small"), ("optimiser.lr", "0.002", "from drawn weights"))
    save(tmp_path / "planned.pt", dataclasses.replace(checkpoint, plan=lines))
    assert load(tmp_path / "planned.pt").plan == lines
    content = torch.load(file, weights_only=True)
    assert content.pop("plan") == ()
    torch.save(content, tmp_path / "older.pt")
    assert load(tmp_path / "older.pt").plan == ()
    torch.save({**content, "plan": "mine"}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="plan is a str, not a tuple"):
        load(tmp_path / "other.pt")


def test_files_of_older_versions_are_loaded(checkpoint, tmp_path):
    """They lack the newer fields and settings; what was due after their step was done."""
    values = {f.name: getattr(checkpoint, f.name) for f in dataclasses.fields(Checkpoint)}
    settings = to_plain(checkpoint.settings)
    for name in ("plan", "average", "evaluated", "plateau", "setbacks"):
        del values[name]
    for group, name in (("optimiser", "ema"), ("optimiser", "retries"), ("length", "patience")):
        del settings[group][name]
    trained = checkpoint.trained.plain()
    torch.save({**values, "trained": trained, "settings": settings, "format": 2}, tmp_path / "old.pt")
    loaded = load(tmp_path / "old.pt")
    assert loaded.settings == checkpoint.settings
    assert (loaded.evaluated, loaded.average, loaded.plateau, loaded.setbacks) == (7, {}, Plateau(), 0)


def test_a_damaged_plateau_is_refused(checkpoint, tmp_path):
    values = {f.name: getattr(checkpoint, f.name) for f in dataclasses.fields(Checkpoint)}
    plain = {"trained": checkpoint.trained.plain(), "settings": to_plain(checkpoint.settings)}
    torch.save({**values, **plain, "plateau": {"ap": "high"}, "format": 2}, tmp_path / "x.pt")
    with pytest.raises(ValueError, match=r"x\.pt is not a checkpoint .*: ap must be a number"):
        load(tmp_path / "x.pt")


def test_a_disk_that_takes_no_more_leaves_the_file_before(checkpoint, file):
    """A limit on the size of files stands for a full disk: both fail in the middle of a write."""
    before = file.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
    try:
        with pytest.raises(OSError, match=f"File too large: '{file}'"):
            save(file, checkpoint)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == ["last.pt"]


def test_the_network_is_rebuilt_from_the_file_alone(checkpoint, file):
    model, weights = load(file).trained.build(), checkpoint.trained.weights
    assert model.num_classes == 2
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())


def test_a_predictor_knows_the_data_sets_own_ids(file):
    predictor = load_predictor(file, "cpu")
    assert predictor.metadata == Metadata(("cat", "dog"), (17, 18))
    result = predictor.predict(torch.zeros(3, 40, 60, dtype=torch.uint8), score=0.0)
    assert result.size_hw == (40, 60)


def test_other_files_are_refused_in_a_sentence(checkpoint, tmp_path):
    with pytest.raises(FileNotFoundError, match="no weights file"):
        load(tmp_path / "none.pt")
    path = tmp_path / "x.pt"
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match="is not a checkpoint of torch or a pickle of arrays"):
        load(path)
    torch.save(checkpoint.trained.weights, path)
    with pytest.raises(ValueError, match="--init"):
        load(path)
    torch.save({"format": 99}, path)
    with pytest.raises(ValueError, match="its format is 99, not 2"):
        load(path)
    torch.save({"format": 2, "step": 3}, path)
    with pytest.raises(ValueError, match="should hold trained"):
        load(path)
    values = {f.name: getattr(checkpoint, f.name) for f in dataclasses.fields(Checkpoint)}
    plain = {"trained": {}, "settings": {}, "plateau": {}}
    torch.save({**values, **plain, "step": "3", "format": 2}, path)
    with pytest.raises(ValueError, match="step is a str, not a int"):
        load(path)


class _Hostile:
    def __reduce__(self):
        return print, ("executed",)


def test_code_in_a_file_is_not_run(tmp_path, capsys):
    path = tmp_path / "evil.pt"
    torch.save({"format": 2, "recipe": _Hostile()}, path)
    with pytest.raises(ValueError, match=r"refused: loading it would run|is not a checkpoint that torch"):
        load(path)
    path.write_bytes(pickle.dumps(_Hostile(), protocol=2))
    with pytest.raises(ValueError, match=r"refused: loading it would run|is not a checkpoint that torch"):
        load(path)
    assert "executed" not in capsys.readouterr().out
