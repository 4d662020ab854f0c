import dataclasses
from dataclasses import dataclass
from typing import Literal

import pytest

from maskrcnn.training.settings import Settings, explain, parse_sets, settings_from


@dataclass(frozen=True)
class Options:
    masks: bool = True
    keypoints: int = 0
    norm: Literal["frozen", "group"] = "frozen"
    frozen: tuple[str, ...] | None = None
    budget: int | None = None


def parsed(*sets, base=None):
    return parse_sets(sets, Options, base)


def test_the_defaults_are_the_papers():
    settings = Settings()
    assert (settings.pictures, settings.peak_lr, settings.momentum, settings.weight_decay) == (
        16,
        0.02,
        0.9,
        1e-4,
    )
    assert settings.test_sides == (800, 1333)


def test_the_rate_follows_the_pictures_of_a_step_unless_it_is_given():
    assert Settings(batch_size=2, accumulate=2).peak_lr == 0.005
    assert Settings(batch_size=2, lr=0.3).peak_lr == 0.3


def test_every_kind_of_value_is_read():
    settings, arguments = parsed(
        "steps=5",
        "lr=1e-4",
        "decay_norms_and_biases=False",
        "schedule=cosine",
        "short_sides=640,800",
        "crop=256,128",
        "eval_every=none",
        "scale=0.5,2",
    )
    assert settings == Settings(
        steps=5,
        lr=1e-4,
        decay_norms_and_biases=False,
        schedule="cosine",
        short_sides=(640, 800),
        crop=(256, 128),
        eval_every=None,
        scale=(0.5, 2.0),
    )
    assert settings.test_sides[0] == 800
    assert arguments == {}


def test_recipe_arguments_are_read_by_their_own_kinds():
    _, arguments = parsed(
        "recipe.norm=group", "recipe.frozen=stem,res2", "recipe.budget=none", "recipe.masks=false"
    )
    assert arguments == {
        "body.norm": "group",
        "body.frozen": ("stem", "res2"),
        "boxes.samples_per_image": None,
        "masks": None,
    }
    assert parsed("recipe.frozen=")[1] == {"body.frozen": ()}


def test_later_sets_change_a_base():
    base = Settings(steps=7, lr=0.5)
    assert parsed("lr=0.1", base=base)[0] == dataclasses.replace(base, lr=0.1)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("lr", "expected field=value"),
        ("stepz=3", "did you mean steps"),
        ("recipe.nrom=group", "did you mean recipe.norm"),
        ("zzzzzz=3", "there are steps, time_limit"),
        ("steps=many", "expected whole number"),
        ("steps=1.5", "expected whole number"),
        ("lr=nan", "expected number or none"),
        ("schedule=linear", "one of step, cosine"),
        ("decay_norms_and_biases=maybe", "true or false"),
        ("crop=256", "2 of whole number"),
        ("short_sides=a,b", "whole numbers with commas"),
        ("recipe.norm=batch", "one of frozen, group"),
        ("steps=0", "steps must be at least 1, not 0"),
        ("lr=-1", "lr must be more than 0"),
        ("flip_vertical=2", "flip_vertical must be from 0 to 1"),
        ("short_sides=", "short_sides must be more than 0"),
        ("crop=0,5", "crop must be more than 0"),
        ("decay_at=2", "decay_at must be shares"),
    ],
)
def test_mistakes_are_named(text, sentence):
    with pytest.raises(ValueError, match=sentence):
        parsed(text)


def test_settings_come_back_from_plain_values():
    settings = Settings(steps=3, crop=(4, 5))
    assert settings_from(dataclasses.asdict(settings)) == settings
    with pytest.raises(ValueError, match="another version"):
        settings_from({"stepz": 3})
    with pytest.raises(ValueError, match="another version"):
        settings_from({"steps": "3"})


def test_every_setting_is_explained():
    lines = explain().splitlines()
    assert [line.split("=")[0].strip() for line in lines] == [f.name for f in dataclasses.fields(Settings)]
