"""Predictions as files: overlays, and COCO's result list."""

import errno
import io
import json
import os
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from maskrcnn.predict import write
from maskrcnn.predict.write import Summary, describe_thresholds, write_predictions
from maskrcnn.types import Metadata
from rectangles import METADATA, FindsTheRectangle, picture, predictor, save


def test_writes_overlays_and_coco_results(tmp_path, capsys):
    paths = save(tmp_path, ["a.png", "b.png", "broken.png", "A.jpg", "c/a.png", "a-2.png"])
    summary = write_predictions(predictor(), paths, tmp_path / "out/deep", score=0.4)
    folder = tmp_path / "out/deep"
    overlays = ["a.png", "b.png", "A-2.png", "a-3.png", "a-2-2.png"]
    assert {path.name for path in folder.iterdir()} == {*overlays, "results.json", "images.json"}
    assert all(Image.open(folder / overlay).convert("RGB").getbbox() for overlay in overlays)

    content = json.loads((folder / "images.json").read_text())
    assert [image["overlay"] for image in content["images"]] == overlays
    read = [path for path in paths if path.name != "broken.png"]
    assert [image["file_name"] for image in content["images"]] == [str(path) for path in read]
    assert content["images"][0] == content["images"][0] | {"id": 1, "height": 50, "width": 80}
    assert content["categories"] == [{"id": 3, "name": "cat"}, {"id": 17, "name": "dog"}]
    results = json.loads((folder / "results.json").read_text())
    assert [(one["image_id"], one["category_id"]) for one in results[:3]] == [(1, 17), (1, 3), (2, 17)]
    assert results[-1]["image_id"] == 5 and results[-2]["bbox"] == [5, 10, 40, 30]

    [failure] = summary.failures
    assert "broken.png" in failure and failure in capsys.readouterr().err
    assert summary.counts[0] == (str(paths[0]), Counter(dog=1, cat=1)) and len(summary.counts) == 5


def test_never_writes_over_the_pictures_it_reads(tmp_path):
    paths = save(tmp_path, ["a.png", "b.png"])
    before = [path.read_bytes() for path in paths]
    write_predictions(predictor(), paths, tmp_path)
    assert [path.read_bytes() for path in paths] == before
    assert (tmp_path / "a-2.png").is_file() and (tmp_path / "b-2.png").is_file()


def test_table_names_some_and_counts_all():
    counts = tuple((f"[red]{i}.png", Counter({"big [cat]": i})) for i in range(60))
    console = Console(file=io.StringIO(), width=80)
    console.print(Summary(counts, ()).table())
    text = console.file.getvalue()
    assert "[red]39.png" in text and "[red]40.png" not in text and "20 more" in text
    assert "60 pictures" in text and "1770 big [cat]" in text


def test_each_picture_is_decoded_once(tmp_path, monkeypatch):
    paths = save(tmp_path, ["a.png", "b.png"])
    read_picture = write.read_picture

    def read_for_the_last_time(path, channels):
        pixels = read_picture(path, channels)
        path.unlink()
        return pixels

    monkeypatch.setattr(write, "read_picture", read_for_the_last_time)
    summary = write_predictions(predictor(), paths, tmp_path / "out")
    assert summary.failures == () and [count.total() for _, count in summary.counts] == [1, 1]
    assert len(list((tmp_path / "out").glob("*.png"))) == 2


def test_results_go_to_the_disk_as_they_come_and_appear_at_the_end(tmp_path, monkeypatch):
    paths = save(tmp_path, ["a.png", "b.png"])
    folder, sizes = tmp_path / "out", []
    draw = write.draw

    def watched(*arguments):
        assert not (folder / "results.json").exists()
        [unfinished] = folder.glob(".results.json.*")
        sizes.append(len(list(folder.glob("*.png"))))
        assert unfinished.exists()
        return draw(*arguments)

    monkeypatch.setattr(write, "draw", watched)
    write_predictions(predictor(), paths, folder)
    assert sizes == [0, 1]  # the first overlay is whole before the second picture is drawn
    assert len(json.loads((folder / "results.json").read_text())) == 2


def test_a_disk_that_fills_up_leaves_only_whole_files(tmp_path, monkeypatch):
    paths = save(tmp_path, ["a.png", "b.png"])
    folder, draw = tmp_path / "out", write.draw

    def full(*arguments):
        if (folder / "a.png").exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return draw(*arguments)

    monkeypatch.setattr(write, "draw", full)
    with pytest.raises(OSError, match="No space left") as caught:
        write_predictions(predictor(), paths, folder)
    assert f"while writing {folder / 'b.png'}" in caught.value.__notes__
    assert [path.name for path in folder.iterdir()] == ["a.png"]


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_networks_of_other_channels_are_drawn_in_colour(channels, tmp_path):
    pixels = np.dstack([picture(), np.full((50, 80), 255, np.uint8)])
    pixels[:8, :8] = (0, 99, 0, 255)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    ours = predictor(model=FindsTheRectangle(in_channels=channels))
    write_predictions(ours, [tmp_path / "a.png"], tmp_path / "out")
    assert len(json.loads((tmp_path / "out" / "results.json").read_text())) == 1
    overlay = np.array(Image.open(tmp_path / "out" / "a.png"))
    assert overlay[20, 20].tolist() == [0, 99, 0]
    by_path = ours.predict(tmp_path / "a.png")
    assert torch.equal(torch.from_numpy(by_path.boxes), torch.tensor([[20.0, 10, 50, 40]]))


@pytest.mark.parametrize(
    ("thresholds", "score", "sentence"),
    [
        ((), None, "0.5 or more: the default of networks without score thresholds"),
        ((0.25, 0.5), None, "0.25 (cat), 0.50 (dog) or more: best F1 on the validation pictures"),
        ((0.25, 0.25), None, "objects of score 0.25 or more: best F1"),
        ((0.25, 0.5), 0.3, "objects of score 0.3 or more: --score"),
    ],
)
def test_the_thresholds_in_use_are_described(thresholds, score, sentence):
    assert sentence in describe_thresholds(replace(METADATA, score_thresholds=thresholds), score)


def test_thresholds_of_many_classes_stay_one_line():
    names = ("\x1b[2Jcat\n", *(f"class{i}" for i in range(79)))
    line = describe_thresholds(Metadata(names, tuple(range(80)), (), (), (0.5,) * 79 + (0.25,)))
    assert "0.50 (?[2Jcat?), 0.50 (class0)" in line and "and 68 more" in line and line.isprintable()
