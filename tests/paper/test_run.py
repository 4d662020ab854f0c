"""A table from end to end on drawn pictures: trained, judged, reported; what is done is not done again."""

import json
import re
from functools import partial

import pytest

from maskrcnn.data.synthetic import synthetic_dataset
from maskrcnn.paper import run
from maskrcnn.paper.run import SMALL, run_table, settings_of
from maskrcnn.paper.tables import chosen

TINY = {
    "masks.channels": 16,
    "boxes.hidden": 16,
    "boxes.samples_per_image": 8,
    "proposals.post_nms": 20,
    "boxes.max_detections": 5,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return synthetic_dataset(tmp_path_factory.mktemp("drawn"), train=4, val=3, size=64)


def test_a_table_from_end_to_end(data, tmp_path, monkeypatch, capsys):
    settings = SMALL.replaced(steps=2, batch_size=2, short_sides=(64,), workers=0, warmup_steps=0)
    table = chosen("2d", body="resnet18")
    report = run_table(table, data, tmp_path, settings=lambda row: settings, seeds=2, options=TINY)
    figures = json.loads(report.figures.read_text())
    assert all(row["settings"]["length.steps"] == 2 for row in figures["rows"])
    assert [row["name"] for row in figures["rows"]] == ["RoIPool", "RoIAlign"]
    assert [len(row["ours"]) for row in figures["rows"]] == [2, 2]
    assert figures["rows"][0]["published"] == [23.6, 46.5, 21.6]
    assert len(figures["rows"][0]["last_row_ahead"]) == 2 and not figures["rows"][1]["last_row_ahead"]
    page = report.page.read_text()
    assert page.count("data:image/jpeg;base64,") == 6  # three pictures of each row
    assert not re.search(r"https?://", page) and "steps=2" in page
    assert report.printed.row_count == 2 * 1 + 4 * 1 + 2 * 1  # published, ours, leads

    monkeypatch.setattr(run, "train", None)  # nothing is trained a second time
    again = run_table(table, data, tmp_path, settings=lambda row: settings, seeds=2, options=TINY)
    assert json.loads(again.figures.read_text()) == figures


def test_an_interrupted_row_resumes(data, tmp_path, monkeypatch):
    settings = SMALL.replaced(
        steps=3, batch_size=2, short_sides=(64,), workers=0, warmup_steps=0, save_every=1
    )
    [row] = chosen("2d", ["RoIAlign"], "resnet18").rows
    arguments = {"settings": settings, "init": None, "options": TINY}
    with monkeypatch.context() as patch:
        patch.setattr(run, "read_model", lambda path: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run.run_row(row, data, tmp_path / "row", **arguments)
    with pytest.raises(ValueError, match=r"row was begun with length.steps=3, and now length.steps=4"):
        run.run_row(row, data, tmp_path / "row", **{**arguments, "settings": settings.replaced(steps=4)})
    arguments["settings"] = settings.replaced(log_every=1)
    found = run.run_row(row, data, tmp_path / "row", **arguments)
    assert found.metrics.keys() == {"bbox", "segm"} and found.seconds_per_picture > 0


def test_a_row_learns_no_keypoints_that_it_does_not_name(tmp_path):
    data = synthetic_dataset(tmp_path / "data", train=2, val=1, size=64)
    for file in data.glob("**/*.json"):
        content = json.loads(file.read_text())
        for category in content["categories"]:
            category |= {"keypoints": ["centre"], "skeleton": []}
        for annotation in content["annotations"]:
            x, y, width, height = annotation["bbox"]
            annotation |= {"keypoints": [x + width / 2, y + height / 2, 2], "num_keypoints": 1}
        file.write_text(json.dumps(content))
    settings = SMALL.replaced(steps=1, batch_size=2, short_sides=(64,), workers=0)
    [row] = chosen("2e", ["FCN"], "resnet18").rows
    found = run.run_row(row, data, tmp_path / "row", settings=settings, init=None, options=TINY)
    assert found.metrics.keys() == {"bbox", "segm"}


def test_full_is_each_rows_own_schedule():
    def full(key, name):
        table = chosen(key, [name])
        return settings_of(table, table.rows[0], "full")

    assert (full("2c", "RoIPool").length.steps, full("2c", "RoIPool").peak_lr) == (160_000, 0.02)
    resnext = full("main", "X101-FPN")  # a picture a GPU, half the rate, as many steps
    assert (resnext.length.steps, resnext.step.batch_size, resnext.peak_lr) == (160_000, 8, 0.01)
    cities = full("cityscapes", "fine")
    assert (cities.length.steps, cities.schedule.decay_at, cities.step.batch_size, cities.peak_lr) == (
        24_000,
        (0.75,),
        8,
        0.01,
    )
    from_coco = full("cityscapes", "fine + COCO")  # 4k steps, the rate reduced after 3k
    assert from_coco == cities.replaced(steps=4_000)
    assert {each.schedule.warmup_steps for each in (resnext, cities, from_coco)} == {1000}
    assert settings_of(chosen("cityscapes"), chosen("cityscapes").rows[1], "small") == SMALL


def test_the_page_names_the_settings_that_differ_from_the_paper():
    table = chosen("cityscapes")
    paper = partial(settings_of, table, scale="full")
    assert run._schedule_sentence(table, paper) == "Trained as in the paper."
    assert (
        run._schedule_sentence(table, lambda row: paper(row).replaced(seed=3))
        == "Trained as in the paper, but seed=3."
    )


def test_cityscapes_figures_have_classes_and_gaps():
    table = chosen("cityscapes", ["fine"])
    numbers = {"AP": None, "AP50": None, "per_class": {"car": {"AP": 40.0, "AP50": 60.0}}}
    done = run.Run(table.rows[0], 0, None, {"cityscapes": numbers}, [], 0.5)
    head, fine, seed, *cited = run._lines(table, [done], {})
    assert head == ["published, ours", "AP", "AP50", "seconds per image"]
    assert fine == ["fine", "31.5", "", ""] and seed[1:] == ["-", "-", "0.50"] and "seed 0" in seed[0]
    assert {len(line) for line in cited} == {len(head)}
    [ours] = run.figures(table, [done], {}, lambda row: SMALL)["rows"][0]["ours"]
    assert ours["car"] == 40.0 and ours["AP"] is ours["bus"] is None
