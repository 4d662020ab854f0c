"""A table from end to end on drawn pictures: trained, judged, reported; what is done is not done again."""

import json
import re
from dataclasses import replace

import pytest

from maskrcnn.data.drawn import draw_dataset
from maskrcnn.paper import run
from maskrcnn.paper.run import SMALL, run_table
from maskrcnn.paper.tables import chosen

TINY = {"channels": 16, "hidden": 16, "budget": 8, "proposals": 20, "max_detections": 5}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return draw_dataset(tmp_path_factory.mktemp("drawn"), train=4, val=3, size=64)


def test_a_table_from_end_to_end(data, tmp_path, monkeypatch, capsys):
    settings = replace(SMALL, steps=2, batch_size=2, short_sides=(64,), workers=0, warmup_steps=0)
    table = chosen("2d", body="resnet18")
    report = run_table(table, data, tmp_path, settings=settings, seeds=2, options=TINY)
    figures = json.loads(report.figures.read_text())
    assert [row["name"] for row in figures["rows"]] == ["RoIPool", "RoIAlign"]
    assert [len(row["ours"]) for row in figures["rows"]] == [2, 2]
    assert figures["rows"][0]["published"] == [23.6, 46.5, 21.6]
    assert len(figures["rows"][0]["last_row_ahead"]) == 2 and not figures["rows"][1]["last_row_ahead"]
    page = report.page.read_text()
    assert page.count("data:image/jpeg;base64,") == 6  # three pictures of each row
    assert not re.search(r"https?://", page) and "steps=2" in page
    assert report.printed.row_count == 2

    monkeypatch.setattr(run, "train", None)  # nothing is trained a second time
    again = run_table(table, data, tmp_path, settings=settings, seeds=2, options=TINY)
    assert json.loads(again.figures.read_text()) == figures


def test_a_stopped_row_goes_on(data, tmp_path, monkeypatch):
    settings = replace(
        SMALL, steps=3, batch_size=2, short_sides=(64,), workers=0, warmup_steps=0, save_every=1
    )
    [row] = chosen("2d", ["RoIAlign"], "resnet18").rows
    arguments = {"settings": settings, "init": None, "options": TINY}
    with monkeypatch.context() as patch:
        patch.setattr(run, "read_trained", lambda path: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run.run_row(row, data, tmp_path / "row", **arguments)
    found = run.run_row(row, data, tmp_path / "row", **arguments)
    assert found.metrics.keys() == {"bbox", "segm"} and found.seconds_per_picture > 0
