"""Options: dotted names, the plain form of files, texts of a command line."""

import json
from dataclasses import dataclass
from typing import Literal

import pytest

from maskrcnn.messages import Faults
from maskrcnn.plain import (
    changed_values,
    explain,
    from_plain,
    option,
    options_of,
    parse_assignments,
    to_plain,
    values_of,
    with_values,
)


@dataclass(frozen=True)
class Rate:
    lr: float | None = option(None, "learning rate")
    kind: Literal["sgd", "adamw"] = "sgd"

    def __post_init__(self):
        if self.lr is not None and self.lr <= 0:
            raise ValueError(f"lr must be more than 0, not {self.lr}")


@dataclass(frozen=True)
class Points:
    count: int = 17
    kind: str = "people"


@dataclass(frozen=True)
class Everything:
    rate: Rate = Rate()
    points: Points | None = None
    sides: tuple[int, ...] = option((640, 800), "px")
    window: tuple[int, int] | None = None
    fast: bool = False


def test_names_are_dotted_and_absent_groups_can_be_named():
    assert list(options_of(Everything())) == [
        *("rate.lr", "rate.kind", "points", "points.count", "points.kind", "sides", "window", "fast")
    ]
    assert values_of(Everything())["points"] is None


def test_values_are_replaced_by_name():
    changed = with_values(Everything(), {"rate.lr": 0.1, "points.count": 5, "sides": [320]})
    assert changed == Everything(rate=Rate(lr=0.1), points=Points(count=5), sides=(320,))
    assert with_values(changed, {"points": None}).points is None
    assert changed_values(changed, Everything()) == {
        **{"rate.lr": 0.1, "points.count": 5, "points.kind": "people", "sides": (320,)}
    }


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"rate.rl": 1.0}, "there is no option rate.rl; did you mean rate.lr?"),
        ({"rate.lr": "fast"}, "rate.lr must be a number or none, not 'fast'"),
        ({"rate.lr": True}, "rate.lr must be a number or none, not True"),
        ({"rate.lr": float("nan")}, "rate.lr must be a number or none, not nan"),
        ({"rate.lr": -1.0}, "lr must be more than 0"),
        ({"rate.kind": "adam"}, "rate.kind must be one of sgd, adamw, not 'adam'"),
        ({"window": (1, 2, 3)}, "window must be 2 values with commas, each a whole number or none"),
        ({"points": 3}, "points must be none, not 3"),
        ({"fast": 1}, "fast must be true or false, not 1"),
    ],
)
def test_wrong_values_get_a_sentence(values, sentence):
    with pytest.raises(ValueError, match=sentence.replace("(", r"\(").replace("?", r"\?")):
        with_values(Everything(), values)


def test_all_wrong_values_and_texts_are_told_at_once():
    with pytest.raises(Faults) as caught:
        with_values(Everything(), {"rate.lr": "fast", "fast": True, "points": 3})
    assert [sentence.split()[0] for sentence in caught.value.sentences] == ["rate.lr", "points"]
    with pytest.raises(Faults) as caught:
        parse_assignments(["fast=yes", "lr=1", "llr=1"], options_of(Everything()))
    assert [sentence.split()[1] for sentence in caught.value.sentences] == ["fast=yes:", "llr:"]


def test_the_plain_form_survives_json():
    options = Everything(rate=Rate(0.5, "adamw"), points=Points(3), window=(2, 3))
    assert from_plain(Everything, json.loads(json.dumps(to_plain(options)))) == options
    assert from_plain(Everything, to_plain(Everything())) == Everything()


def test_a_value_that_is_missing_has_its_default_if_there_is_one():
    plain = to_plain(Everything(rate=Rate(0.5, "adamw"), fast=True))
    del plain["sides"], plain["rate"]["kind"]
    assert from_plain(Everything, plain) == Everything(rate=Rate(0.5), fast=True)

    @dataclass(frozen=True)
    class Needed:
        number: int
        word: str = "a"

    assert from_plain(Needed, {"number": 3}) == Needed(3)
    with pytest.raises(ValueError, match="should hold number, word, but holds word"):
        from_plain(Needed, {"word": "b"})


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda plain: plain.update(side=3), "should hold rate, points, sides"),
        (lambda plain: plain["rate"].update(lr="x"), "rate.lr must be a number or none, not 'x'"),
        (lambda plain: plain.update(rate=3), "rate must be Rate, not 3"),
        (lambda plain: plain["rate"].update(lr=-1.0), "lr must be more than 0"),
    ],
)
def test_a_damaged_plain_form_is_refused(change, sentence):
    plain = to_plain(Everything())
    change(plain)
    with pytest.raises(ValueError, match=sentence):
        from_plain(Everything, plain)
    with pytest.raises(ValueError, match="Everything should hold"):
        from_plain(Everything, [plain])


def test_texts_are_read_by_annotation_and_short_names_suffice():
    texts = ["lr=0.1", "points.count=3", "sides=320,400", "window=none", "fast=true", "rate.kind=adamw"]
    assert parse_assignments(texts, options_of(Everything())) == {
        **{"rate.lr": 0.1, "points.count": 3, "sides": (320, 400), "window": None, "fast": True},
        "rate.kind": "adamw",
    }
    assert parse_assignments(["points=none"], options_of(Everything())) == {"points": None}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("lr", "--set lr: expected name=value"),
        ("kind=sgd", "several options end in kind; choose one of rate.kind, points.kind"),
        ("llr=1", "there is no such option; did you mean lr?"),
        ("window=3", "--set window=3: expected 2 values with commas"),
        ("fast=yes", "--set fast=yes: expected true or false"),
        ("lr=inf", "--set lr=inf: expected a number or none"),
    ],
)
def test_wrong_texts_get_a_sentence(text, sentence):
    with pytest.raises(ValueError, match=sentence.replace("?", r"\?")):
        parse_assignments([text], options_of(Everything()))


def test_help_lists_what_has_a_meaning():
    lines = explain(Everything()).splitlines()
    assert [line.split()[0] for line in lines] == ["rate.lr=none", "sides=640,800"]
    assert lines[1].endswith(" px")
