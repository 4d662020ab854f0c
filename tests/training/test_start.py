import pytest

from maskrcnn.training.checkpoint import save
from maskrcnn.training.settings import Settings
from maskrcnn.training.start import fitting, planned


def a_run(tmp_path, recipe="resnet18_fpn", **arguments):
    return planned(tmp_path, recipe, arguments, Settings())


def test_from_scratch_norms_learn_unless_told(tmp_path):
    assert fitting(a_run(tmp_path), 0, None) == {"norm": "group", "head_norm": "group"}
    assert fitting(a_run(tmp_path, norm="frozen"), 0, None)["norm"] == "frozen"


def test_weights_of_other_origin_keep_the_recipes_norms(tmp_path):
    other = tmp_path / "body.pth"
    other.write_bytes(b"no checkpoint of ours")
    assert fitting(a_run(tmp_path), 0, other) == {}


def test_weights_of_a_training_bring_its_arguments(tmp_path):
    save(tmp_path / "best.pt", a_run(tmp_path, norm="batch", channels=64))
    init = tmp_path / "best.pt"
    assert fitting(a_run(tmp_path), 0, init) == {"norm": "batch", "channels": 64}
    assert fitting(a_run(tmp_path, channels=32), 0, init)["channels"] == 32


@pytest.mark.parametrize(("recipe", "expected"), [("resnet18_fpn", 2), ("resnet18_fpn_box", None)])
def test_keypoints_of_the_data_are_learnt_unless_the_form_says_otherwise(tmp_path, recipe, expected):
    assert fitting(a_run(tmp_path, recipe), 2, None).get("keypoints") == expected
    assert fitting(a_run(tmp_path, keypoints=0), 2, None)["keypoints"] == 0
