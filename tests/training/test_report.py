"""The page of a training, made from files of a run that are written here by hand."""

import base64
import io
import json
import math
import re
from dataclasses import replace

import pytest
from PIL import Image

from maskrcnn.training import report
from maskrcnn.training.checkpoint import load, save
from maskrcnn.training.report import refresh_report, write_report
from maskrcnn.training.snapshots import Snapshot, keep_snapshots
from pages import Page
from trainings import tiny

HOSTILE = """</style><script>alert(1)</script><img src="http://x.org/a.png" onerror='x'>"""


def metrics(ap: float | None, name: str = "cat") -> dict:
    numbers = {"AP": ap, "AP50": ap and 2 * ap, "AP75": None}
    return {kind: {**numbers, "per_class": {name: numbers, "dog": numbers}} for kind in ("bbox", "segm")}


def step(number: int, loss: float = 1.0, **more) -> dict:
    fields = {"step": number, "loss": loss, "loss_mask": loss / 2, "gradient_norm": 3.0, "lr": 0.01}
    return {**fields, "seconds": 2.0 * number, **more}


@pytest.fixture
def page(tmp_path):
    """Return a function that writes the files of a run, and its page, and reads this."""

    def make(records=(), **files) -> Page:
        lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
        (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
        for name, content in files.items():
            text = content if isinstance(content, str) else json.dumps(content)
            (tmp_path / f"{name}.json").write_text(text)
        assert write_report(tmp_path) == tmp_path / "report.html"
        return Page(tmp_path / "report.html")

    return make


def test_a_finished_training_is_shown_whole(whole, tmp_path):
    page = Page(whole / "report.html")  # `train` wrote it
    assert "resnet18_fpn, completed. The network predicts 5 classes: disk, square" in page.text
    assert "AP of masks, after step 4" in page.text and "4 steps" in page.text
    titles = re.findall(r"<h3>(.*?)</h3>", page.source)
    assert titles[:5] == [
        "Average precision",
        "Loss",
        "Parts of the loss",
        "Learning rate",
        "Norm of the gradient",
    ]
    assert page.source.count("<svg") == 5 and page.count("circle") == 2 + 4 * (1 + 5 + 1 + 1)
    assert [value for tag, a in page.tags if tag == "img" for value in [a["alt"]]] == [
        "ground truth",
        f"step 4 · AP {load(whole / 'last.pt').best_ap:.1f}",
    ] * 2
    assert (whole / "evaluation" / "report.html").is_file()
    assert [a["href"] for tag, a in page.tags if tag == "a"] == ["evaluation/report.html"]
    # without a plan, the settings that are not the paper's
    assert ["schedule.warmup_steps", "2", ""] in page.rows() and ["pyramid.channels", "16", ""] in page.rows()


def test_thresholds_are_those_of_the_best_checkpoint(whole, page, tmp_path):
    last = load(whole / "last.pt")
    for name, thresholds in (("last", (0.9,) * 5), ("best", (0.1, 0.2, 0.3, 0.4, 0.5))):
        trained = replace(last.trained, score_thresholds=thresholds)
        save(tmp_path / f"{name}.pt", replace(last, trained=trained))
    rows = page([{"step": 4, **metrics(5.0)}]).rows()
    assert ["disk", "0.100"] in rows and ["square", "0.200"] in rows
    assert not any("0.900" in row for row in rows)


def test_an_unfinished_training_says_how_far_it_is(whole, page, tmp_path):
    run = load(whole / "last.pt")
    save(tmp_path / "last.pt", replace(run, settings=tiny(steps=16)))
    assert "resnet18_fpn, 25% of the planned length" in page().text
    save(tmp_path / "last.pt", replace(run, elapsed=30.0, settings=tiny(steps=100, time_limit=1.0)))
    assert "resnet18_fpn, 50% of the planned length" in page().text


def test_points_of_a_chart_are_where_their_values_are(page):
    source = page([step(10, 2.0), step(20, 1.0)]).source
    [loss] = re.findall(r'<polyline[^>]* points="([^"]*)"><title>training<', source)
    left, right, top, bottom = 52, 448, 12, 256  # of the plot area: 0 … 20 steps, loss 0 … 2
    assert loss == f"{(left + right) / 2},{top}.0 {right}.0,{(top + bottom) / 2}"


def test_a_resumed_training_has_one_continuous_curve(page):
    """Records that a killed training repeats count once, the last one."""
    records = [step(1, 4.0), step(2, 3.0), step(3, 9.0), '{"step": 4, "lo', step(2, 3.0), step(3, 2.0)]
    assert page(records).source.count("<title>training 2, step 3</title>") == 1


def test_the_page_of_a_long_training_is_small(page):
    assert len(page([step(number) for number in range(1, 9001)]).source) < 40_000


def test_every_number_of_a_record_is_drawn(page):
    source = page(
        [
            step(1, temperature=3, note="x", is_odd=True, broken=math.nan),
            {
                "step": 1,
                **metrics(10.0),
                "average": metrics(12.0),
                "validation_loss": {"loss": 1.5, "loss_box": 1},
            },
        ]
    ).source
    titles = re.findall(r"<h3>(.*?)</h3>", source)
    assert titles[:6] == [
        "Average precision",
        "Loss",
        "Parts of the loss",
        "Learning rate",
        "Norm of the gradient",
        "Temperature",
    ]
    names = re.findall(r"<polyline[^>]*><title>(.*?)</title>", source)
    assert names[:6] == ["boxes", "masks", "boxes (average)", "masks (average)", "training", "validation"]
    assert names[6:] == ["mask", "learning rate", "gradient norm", "temperature"]


def test_the_best_evaluation_is_shown(page):
    worse = {"step": 9, **metrics(20.0)}
    found = page([{"step": 3, **metrics(30.0)}, worse])
    assert (
        "The best evaluation, after 3 steps." in found.text and "30.0 AP of masks, after step 3" in found.text
    )
    assert ["all classes", "30.0", "60.0", "-"] in found.rows()
    found = page([worse | {"average": metrics(31.0)}])
    assert "The best evaluation of the average weights, after 9 steps." in found.text
    assert ["cat", "31.0", "62.0", "-"] in found.rows()
    assert "AP of masks" in page([{"step": 1, **metrics(None)}]).text


def test_setbacks_are_told(page):
    record = {"step": 1, "setback": "loss nan after step 3; back to step 1", "pictures": ["a.png"]}
    assert "loss nan after step 3; back to step 1" in page([step(1), record]).text


def test_pictures_have_their_step_and_ap(page, tmp_path):
    keep_snapshots(tmp_path / "pictures", [Snapshot("a.png", *[Image.new("RGB", (9, 9))] * 2)], 1000)
    (tmp_path / "pictures" / "names.json").write_text('["a.png", "no file"]')
    found = page([{"step": 1000, **metrics(12.34)}])
    assert "a.png" in found.text and "no file" not in found.text
    assert [a["alt"] for tag, a in found.tags if tag == "img"] == ["ground truth", "step 1,000 · AP 12.3"]
    (tmp_path / "pictures" / "0-1000.jpg").write_bytes(b"no picture")
    assert page().count("img") == 0


PLAN = {
    "recipe": "resnet18_fpn",
    "settings": [
        {"name": "optimiser.lr", "value": "0.5", "reason": "from drawn weights"},
        {"name": "schedule.warmup_steps", "value": "2", "reason": "short"},
        {"name": "boxes.hidden", "value": "256", "reason": "small data"},
    ],
}


def test_a_plan_is_shown_with_what_was_changed_since(whole, page, tmp_path):
    assert page(plan=PLAN).rows()[1:] == [list(line.values()) for line in PLAN["settings"]]
    save(tmp_path / "last.pt", load(whole / "last.pt"))
    changed = "changed when the training was resumed; the plan had 0.5: from drawn weights"
    assert page(plan=PLAN).rows()[1:] == [
        ["optimiser.lr", "none", changed],
        ["schedule.warmup_steps", "2", "short"],
        ["boxes.hidden", "256", "small data"],
    ]


def test_what_the_check_found_is_listed(page):
    where = {"file": "train/a.json", "image": 5, "annotation": None}
    example = {"where": where, "message": "no such file"}
    fault = {
        "kind": "missing picture",
        "severity": "error",
        "count": 1234,
        "mend": "Add it.",
        "examples": [example],
    }
    found = page(check={"clean": False, "findings": [fault]})
    assert "missing picture (1,234) · error Add it." in " ".join(found.text.split())
    assert "train/a.json, image 5: no such file" in found.text
    assert "The check of the data found nothing wrong" in page(check={"clean": True, "findings": []}).text
    lenient = page(
        check=["left out 3", {"message": "b"}, {"kind": "c", "count": "x", "examples": ["d", {}, 1]}]
    )
    assert all(text in lenient.text for text in ("left out 3", " b ", " c ", " d "))


def test_hostile_texts_stay_text(page, tmp_path):
    image = Image.new("RGB", (9, 9))
    keep_snapshots(tmp_path / "pictures", [Snapshot(HOSTILE, image, image)], 1)
    where = {"file": HOSTILE, "image": HOSTILE}
    fault = {
        "kind": HOSTILE,
        "severity": HOSTILE,
        "mend": HOSTILE,
        "examples": [{"where": where, "message": HOSTILE}],
    }
    plan = {"settings": [dict.fromkeys(("name", "value", "reason"), HOSTILE)]}
    records = [{"step": 1, **metrics(5.0, HOSTILE), HOSTILE: 1.0}, {"step": 1, "setback": HOSTILE}]
    found = page(records, check=[fault, HOSTILE], plan=plan)
    assert found.count("script") == 0 and found.text.count("<script>") >= 12
    assert not any(key.startswith("on") for _, attributes in found.tags for key in attributes)
    addresses = [a[key] for _, a in found.tags for key in ("src", "href") if key in a]
    assert len(addresses) == 2 and all(address.startswith("data:image/jpeg;base64,") for address in addresses)
    assert max(Image.open(io.BytesIO(base64.b64decode(addresses[0].partition(",")[2]))).size) == 9
    policies = [a["content"] for _, a in found.tags if "http-equiv" in a]
    assert policies == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]


@pytest.mark.parametrize(
    "text", ["", "null", "[" * 100_000, "[1, null, []]", '{"settings": 3, "findings": {}}']
)
def test_damaged_files_leave_a_page(page, tmp_path, text):
    for name in ("last.pt", "best.pt"):
        (tmp_path / name).write_text("no checkpoint")
    found = page([text, "[]", '{"step": "x"}', '{"loss": 1}'], plan=text, check=text)
    assert found.count("h2") == 5 and "No step is logged." in found.text


def test_an_empty_folder_has_a_page(tmp_path):
    assert "The run has no checkpoint" in Page(write_report(tmp_path)).text


def test_a_page_that_cannot_be_written_is_told_and_ends_nothing(tmp_path, monkeypatch):
    (tmp_path / "report.html").write_text("old")
    monkeypatch.setattr(report, "render", lambda *_, **__: 1 / 0)
    lines = []
    refresh_report(tmp_path, lines.append)
    assert lines == [f"{tmp_path / 'report.html'} could not be written: division by zero"]
    assert (tmp_path / "report.html").read_text() == "old"
