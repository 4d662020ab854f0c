"""Predictions as files: overlays, and COCO's result list."""

import errno
import io
import json
import os
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from maskrcnn.data.picture_files import find_pictures
from maskrcnn.lock import claimed
from maskrcnn.predict import write
from maskrcnn.predict.write import Selection, Summary, describe_thresholds, in_threads, write_predictions
from maskrcnn.results.draw import draw
from maskrcnn.types import Metadata
from rectangles import METADATA, FindsTheRectangle, picture, predictor, save

FILES = [".lock", "results.json", "images.json", "results.jsonl"]


def test_writes_overlays_and_coco_results(tmp_path, capsys):
    paths = save(tmp_path, ["a.png", "b.png", "broken.png", "A.jpg", "c/a.png", "a-2.png"])
    summary = write_predictions(predictor(), paths, tmp_path / "out/deep", Selection(0.4))
    folder = tmp_path / "out/deep"
    overlays = ["a.png", "b.png", "A-2.png", "a-3.png", "a-2-2.png"]
    assert {path.name for path in folder.iterdir()} == {*overlays, *FILES}
    assert all(Image.open(folder / overlay).convert("RGB").getbbox() for overlay in overlays)

    content = json.loads((folder / "images.json").read_text())
    assert [image["overlay"] for image in content["images"]] == overlays
    read = [path for path in paths if path.name != "broken.png"]
    assert [image["file_name"] for image in content["images"]] == [str(path) for path in read]
    assert content["images"][0] == content["images"][0] | {"id": 1, "height": 50, "width": 80}
    assert content["categories"] == [{"id": 3, "name": "cat"}, {"id": 17, "name": "dog"}]
    results = json.loads((folder / "results.json").read_text())
    assert [(one["image_id"], one["category_id"]) for one in results[:3]] == [(1, 17), (1, 3), (2, 17)]
    assert results[-1]["image_id"] == 6 and results[-2]["bbox"] == [5, 10, 40, 30]

    [failure] = summary.failures
    assert "broken.png" in failure and failure in capsys.readouterr().err
    assert summary.listed[0] == (str(paths[0]), Counter(dog=1, cat=1)) and summary.pictures == 5


def test_never_writes_over_the_pictures_it_reads(tmp_path):
    paths = save(tmp_path, ["a.png", "b.png"])
    before = [path.read_bytes() for path in paths]
    write_predictions(predictor(), paths, tmp_path)
    assert [path.read_bytes() for path in paths] == before
    assert (tmp_path / "a-2.png").is_file() and (tmp_path / "b-2.png").is_file()


def test_table_names_some_and_counts_all():
    summary = Summary()
    for i in range(60):
        summary.add(f"[red]{i}.png", Counter({"big [cat]": i}))
    console = Console(file=io.StringIO(), width=80)
    console.print(summary.table())
    text = console.file.getvalue()
    assert "[red]39.png" in text and "[red]40.png" not in text and "20 more" in text
    assert "60 pictures" in text and "1770 big [cat]" in text


def test_each_picture_is_decoded_once(tmp_path, monkeypatch):
    paths = save(tmp_path, ["a.png", "b.png"])
    read_picture = write.read_picture

    def read_for_the_last_time(path, *arguments):
        pixels = read_picture(path, *arguments)
        path.unlink()
        return pixels

    monkeypatch.setattr(write, "read_picture", read_for_the_last_time)
    summary = write_predictions(predictor(), paths, tmp_path / "out")
    assert summary.failures == [] and [count.total() for _, count in summary.listed] == [1, 1]
    assert len(list((tmp_path / "out").glob("*.png"))) == 2


def lines(folder):
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def failing_at(name, monkeypatch, error):
    """Let the overlay of this name fail."""
    replacing = write.replacing

    def fails(path):
        if path.name == name:
            raise error
        return replacing(path)

    monkeypatch.setattr(write, "replacing", fails)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))])
def test_an_interrupted_prediction_keeps_what_is_done_and_resumes(tmp_path, monkeypatch, capsys, error):
    paths = save(tmp_path, ["a.png", "b.png", "broken.png", "c.png", "d.png"])
    whole, folder = tmp_path / "whole", tmp_path / "out"
    write_predictions(predictor(), paths, whole)
    with monkeypatch.context() as patch:
        failing_at("c.png", patch, error)
        with pytest.raises(type(error)):
            write_predictions(predictor(), paths, folder)
    assert "results.jsonl holds 2 pictures; --resume continues after them" in capsys.readouterr().err
    assert [line["image"]["file_name"] for line in lines(folder) if "image" in line] == list(
        map(str, paths[:2])
    )
    assert not (folder / "results.json").exists()
    with (folder / "results.jsonl").open("a") as file:
        file.write('{"image": {"id": 3, "file_na')  # cut off

    with pytest.raises(ValueError, match=r"results.jsonl holds 2 pictures of an incomplete .* --resume"):
        write_predictions(predictor(), paths, folder)
    drawn = []
    monkeypatch.setattr(write, "draw", lambda *arguments: drawn.append(arguments) or draw(*arguments))
    summary = write_predictions(predictor(), paths, folder, resume=True)
    assert len(drawn) == 2 and summary.pictures == 4 and len(summary.failures) == 1
    for name in FILES[1:3]:
        assert (folder / name).read_text() == (whole / name).read_text()
    assert {path.name for path in folder.iterdir()} == {path.name for path in whole.iterdir()}
    write_predictions(predictor(), paths, folder)  # a complete one is replaced


def test_another_prediction_is_not_resumed(tmp_path):
    paths, folder = save(tmp_path, ["a.png"]), tmp_path / "out"
    write_predictions(predictor(), paths, folder, network="a.pt")
    with pytest.raises(
        ValueError, match=r"of a prediction with network a.pt instead of b.pt, score 0.5 inst"
    ):
        write_predictions(predictor(), paths, folder, Selection(0.6), network="b.pt", resume=True)
    measured = predictor(metadata=replace(METADATA, score_thresholds=(0.4, 0.9)))
    with pytest.raises(ValueError, match=r"of a prediction with score 0.5 instead of \[0.4, 0.9\]"):
        write_predictions(measured, paths, folder, network="a.pt", resume=True)
    (folder / "results.jsonl").write_text("[1]\n")
    with pytest.raises(ValueError, match=r"results.jsonl: line 1 is not one of a prediction"):
        write_predictions(predictor(), paths, folder, resume=True)


def test_a_folder_belongs_to_one_prediction(tmp_path):
    paths, folder = save(tmp_path, ["a.png"]), tmp_path / "out"
    with claimed(folder), pytest.raises(ValueError, match="in use by another process"):
        write_predictions(predictor(), paths, folder)


def test_results_go_to_the_disk_as_they_come(tmp_path, monkeypatch):
    paths, folder, done = save(tmp_path, [f"{i}.png" for i in range(20) if i % 5 != 2]), tmp_path / "out", []

    def watched(*arguments):
        done.append(sum("image" in line for line in lines(folder)))
        return draw(*arguments)

    monkeypatch.setattr(write, "draw", watched)
    write_predictions(predictor(), paths, folder, workers=1)
    assert all(drawn - 3 <= count <= drawn for drawn, count in enumerate(done))


def test_in_threads_computes_in_order_and_not_far_ahead():
    started, lock = [], threading.Lock()

    def double(number):
        with lock:
            started.append(number)
        time.sleep(0.01 * (number % 3))
        return 2 * number

    taken = []
    with ThreadPoolExecutor(2) as pool:
        for value in in_threads(pool, double, range(20), 2):
            taken.append(value)
            assert len(started) <= len(taken) + 3
    assert taken == list(range(0, 40, 2))


@pytest.mark.parametrize("batch_size", [1, 3])
def test_classes_and_batches(tmp_path, batch_size):
    paths, folder = save(tmp_path, ["a.png", "b.png", "broken.png", "c.png", "d.png"]), tmp_path / "out"
    write_predictions(predictor(), paths, folder, Selection(0.4, ("cat",)), batch_size=batch_size)
    results = json.loads((folder / "results.json").read_text())
    assert [(one["image_id"], one["category_id"]) for one in results] == [(1, 3), (2, 3), (4, 3), (5, 3)]
    with pytest.raises(ValueError, match=r"no class 'cart': did you mean cat\?"):
        write_predictions(predictor(), paths, folder, Selection(0.4, ("cart",)))


def test_overlays_of_long_names(tmp_path):
    (tmp_path / "deeper").mkdir()
    name = "é" * 125 + "x.gif"  # 255 bytes
    paths = [tmp_path / name, tmp_path / "deeper" / name]
    for path in paths:
        Image.fromarray(picture()).save(path)
    write_predictions(predictor(), paths, tmp_path / "out")
    images = json.loads((tmp_path / "out" / "images.json").read_text())["images"]
    assert [image["overlay"] for image in images] == ["é" * 125 + "x.png", "é" * 124 + "-2.png"]


def test_overlays_are_not_pictures_to_predict(tmp_path):
    paths = save(tmp_path, ["a.png", "b.png"])
    write_predictions(predictor(), paths, tmp_path)
    write_predictions(predictor(), paths, tmp_path / "deeper")
    with pytest.warns(match=rf"^{tmp_path}: 4 overlays of earlier predictions are left out$"):
        assert find_pictures([tmp_path]) == paths
    assert find_pictures([tmp_path / "a-2.png"]) == [tmp_path / "a-2.png"]  # named itself


def test_16_bit_pictures_are_scaled_as_in_training(tmp_path):
    values = np.zeros((50, 80), np.uint16)
    values[10:40, 20:50] = 600
    values[20:30, 30:40] = 40000
    Image.fromarray(values).save(tmp_path / "a.png")
    for white, box in ((1023, [20, 10, 30, 30]), (65535, [30, 20, 10, 10])):  # what is above the middle
        folder = tmp_path / str(white)
        write_predictions(predictor(white=white), [tmp_path / "a.png"], folder)
        assert json.loads((folder / "results.json").read_text())[0]["bbox"] == pytest.approx(box, abs=1)


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
