"""Settings: defaults, names, ranges, the plain form of a checkpoint."""

import json
from collections import Counter
from dataclasses import fields, is_dataclass

import pytest

from maskrcnn.plain import explain, from_plain, options_of, parse_assignments, to_plain, with_values
from maskrcnn.training.settings import Settings


def parsed(*texts, base=None):
    base = base or Settings()
    return with_values(base, parse_assignments(texts, options_of(base)))


def test_the_defaults_are_the_papers():
    settings = Settings()
    assert (settings.step.pictures, settings.peak_lr) == (16, 0.02)
    assert (settings.optimiser.momentum, settings.optimiser.weight_decay) == (0.9, 1e-4)
    assert settings.pictures.test_sides == (800, 1333)
    assert (settings.optimiser.ema, settings.optimiser.retries, settings.length.patience) == (None, 0, None)
    assert not settings.logging.validation_loss


def test_the_rate_is_proportional_to_the_pictures_of_a_step_unless_it_is_given():
    assert Settings.of(batch_size=2, accumulate=2).peak_lr == 0.005
    assert Settings.of(batch_size=2, algorithm="adamw").peak_lr == 0.0002 / 8
    assert Settings.of(batch_size=2, lr=0.3).peak_lr == 0.3


def test_groups_are_small_and_short_names_are_unique():
    names = Counter(name.rpartition(".")[2] for name in options_of(Settings()))
    assert max(names.values()) == 1
    groups = [getattr(Settings(), field.name) for field in fields(Settings)]
    assert all(len(fields(group)) <= 12 for group in groups if is_dataclass(group))


def test_values_are_set_by_short_names_in_python_and_on_the_command_line():
    settings = Settings.of(
        steps=5,
        lr=1e-4,
        decay_norms_and_biases=False,
        decay="cosine",
        short_sides=[640, 800],
        crop=(256, 128),
        eval_every=None,
        scale=(0.5, 2.0),
        seed=3,
    )
    texts = ["steps=5", "optimiser.lr=1e-4", "decay_norms_and_biases=False", "schedule.decay=cosine"]
    texts += ["short_sides=640,800", "crop=256,128", "eval_every=none", "scale=0.5,2", "seed=3"]
    assert parsed(*texts) == settings
    assert settings.pictures.test_sides[0] == 800
    assert settings.replaced(lr=0.1) == parsed("lr=0.1", base=settings)
    assert settings.replaced(lr=0.1).length.steps == 5


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"stepz": 3}, "there is no setting stepz; did you mean steps"),
        ({"steps": 1.5}, "length.steps must be a whole number or none, not 1.5"),
        ({"steps": 0}, "steps must be at least 1, or none, not 0"),
        ({"steps": None}, "steps must be a number where time_limit is none"),
        ({"time_limit": 0.0}, "time_limit must be more than 0, or none, not 0"),
        ({"patience": 0}, "patience must be at least 1, or none, not 0"),
        ({"ema": 1.0}, "ema must be 0 or more and less than 1, or none, not 1"),
        ({"ema": -0.5}, "ema must be 0 or more and less than 1, or none, not -0.5"),
        ({"retries": -1}, "retries must be 0 or more, not -1"),
        ({"accumulate": 0}, "accumulate must be at least 1, not 0"),
        ({"lr": -1.0}, "lr must be more than 0, or none, not -1"),
        ({"momentum": 1.5}, "momentum must be from 0 to 1"),
        ({"weight_decay": -1.0}, "weight_decay must be 0 or more"),
        ({"warmup_steps": -1}, "warmup_steps must be 0 or more, or none"),
        ({"decay": "linear"}, "schedule.decay must be one of step, cosine"),
        ({"decay_at": (2.0,)}, "decay_at must be shares of the training, from 0 to 1, not 2"),
        ({"short_sides": ()}, "short_sides must be more than 0"),
        ({"long_side": 0}, "long_side must be more than 0"),
        ({"test_short_side": 0}, "test_short_side must be more than 0, or none"),
        ({"workers": -1}, "workers must be 0 or more"),
        ({"crop": (0, 5)}, "crop must be more than 0, not 0,5"),
        ({"crop": (256,)}, "crop must be 2 values with commas"),
        ({"scale": (2.0, 0.5)}, "scale must be the least factor, then the largest, not 2,0.5"),
        ({"jitter": (0.1, -0.1, 0.1)}, "jitter must be 0 or more"),
        ({"flip_vertical": 2.0}, "flip_vertical must be from 0 to 1"),
        ({"quarter_turns": -0.1}, "quarter_turns must be from 0 to 1"),
        ({"copy_paste": 1.5}, "copy_paste must be from 0 to 1"),
        ({"object_crops": 3.0}, "object_crops must be from 0 to 1"),
        ({"repeat_threshold": 1.1}, "repeat_threshold must be from 0 to 1"),
        ({"save_every": 0}, "save_every must be at least 1"),
        ({"eval_every": -1}, "eval_every must be 0 or more"),
        ({"seed": -1}, "seed must be 0 or more"),
    ],
)
def test_a_wrong_value_gets_a_sentence(values, sentence):
    with pytest.raises(ValueError, match=sentence):
        Settings.of(**values)


def test_the_plain_form_of_a_checkpoint_gives_the_settings_back():
    settings = Settings.of(steps=3, crop=(4, 5))
    assert from_plain(Settings, json.loads(json.dumps(to_plain(settings)))) == settings
    with pytest.raises(ValueError, match="Settings should hold length, step"):
        from_plain(Settings, {"steps": 3})


def test_help_explains_every_setting():
    lines = explain(Settings()).splitlines()
    assert [line.split("=")[0].strip() for line in lines] == list(options_of(Settings()))
