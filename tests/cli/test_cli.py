import itertools
import json
import re
import shutil
import subprocess
import sys
from functools import partial

import pytest
import torch

from cities import add_picture, street
from maskrcnn import recipes
from maskrcnn.cli import demo, main
from maskrcnn.data import synthetic
from maskrcnn.data.readers.cityscapes import CLASSES
from maskrcnn.training.settings import Settings


def options(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    usage = capsys.readouterr().out.split("\n\n")[0]
    return set(re.findall(r"--[a-z]+", usage)), set(re.findall(r"\b[A-Z]{4,}\b", usage))


def test_the_words_of_the_commands_stay(capsys):
    assert options("demo", capsys) == ({"--output"}, set())
    flags = {"--recipe", "--output", "--init", "--synonyms", "--resume", "--device", "--set"}
    flags |= {"--minutes", "--plan", "--folds"}
    assert options("train", capsys) == (flags, {"DATA", "RECIPE", "NAME", "WEIGHTS", "FILE"})
    flags = {"--minutes", "--recipe", "--init", "--output", "--device", "--set"}
    assert options("plan", capsys) == (flags, {"DATA", "RECIPE", "NAME", "WEIGHTS", "FILE"})
    assert options("check", capsys) == ({"--fix", "--json", "--draw"}, {"DATA", "FILE", "FOLDER"})
    flags = {"--split", "--max", "--also", "--report", "--output", "--device"}
    flags |= {"--precision", "--compile", "--capture"}
    assert options("evaluate", capsys) == (flags, {"WEIGHTS", "DATA", "FILE", "NAME"})
    flags = {"--format", "--size", "--batch", "--half", "--int", "--picture", "--output"}
    assert options("export", capsys) == (flags, {"WEIGHTS", "DATA", "FILE"})
    flags = {"--output", "--score", "--classes", "--max", "--batch", "--workers", "--resume"}
    flags |= {"--device", "--precision", "--compile", "--capture"}
    assert options("predict", capsys) == (flags, {"WEIGHTS", "PICTURE", "SCORE", "NAME"})
    flags = {
        "--recipe",
        "--size",
        "--batch",
        "--against",
        "--train",
        "--objects",
        "--precision",
        "--compile",
        "--capture",
    }
    flags |= {"--device", "--repeats", "--json"}
    assert options("bench", capsys) == (flags, {"RECIPE", "FILE", "NAME"})


def test_help_does_not_wait_for_torch():
    code = (
        "import sys, maskrcnn.cli as c\ntry: c.main(['--help'])\nfinally: assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_train_evaluate_predict(weights, data, tmp_path, capsys):
    metrics_file, output = tmp_path / "deep" / "metrics.json", tmp_path / "pictures"
    words = ["--also", "boundary", "--report", str(tmp_path / "report")]
    assert main(["evaluate", str(weights), str(data), "--output", str(metrics_file), *words]) == 0
    assert (tmp_path / "report" / "report.html").is_file()
    metrics = json.loads(metrics_file.read_text())
    assert metrics.keys() == {"bbox", "segm", "boundary"}
    assert metrics["bbox"].keys() == {"AP", "AP50", "AP75", "APs", "APm", "APl", "per_class"}
    assert main(["predict", str(weights), str(data / "val"), "--output", str(output), "--score", "0.0"]) == 0
    assert {path.name for path in output.glob("*.png")} == {"0000.png", "0001.png"}
    assert json.loads((output / "results.json").read_text())[0]["category_id"] in range(1, 6)


def test_predict_says_first_which_thresholds_it_uses(weights, data, tmp_path, capsys):
    content = torch.load(weights, weights_only=True)
    content["trained"]["score_thresholds"] = (0.1, 0.2, 0.3, 0.4, 0.5)
    torch.save(content, tmp_path / "measured.pt")
    words = ["predict", str(tmp_path / "measured.pt"), str(data / "val"), "--output", str(tmp_path / "out")]
    for more, sentence in (
        ([], "0.10 (disk), 0.20 (square), 0.30 (triangle), "),
        (["--score", "0.9"], "0.9"),
    ):
        assert main([*words, *more]) == 0
        assert capsys.readouterr().out.startswith(f"objects of score {sentence}")


def printed(output: str, first: str) -> list[list[str]]:
    """The cells of the printed table whose first column is headed `first`."""
    lines = [re.split("[│┃]", line)[1:-1] for line in output.splitlines()]
    cells = [[cell.strip() for cell in line] for line in lines]
    start = next(i for i, row in enumerate(cells) if row and row[0] == first)
    rows = itertools.takewhile(bool, (row for i, row in enumerate(cells[start:]) if i != 1))
    return list(rows)


def test_evaluate_by_lvis_rules(weights, data, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "120")
    folder = tmp_path / "lvis"
    shutil.copytree(data, folder)
    file = folder / "annotations" / "instances_val.json"
    truth = json.loads(file.read_text())
    for image in truth["images"]:
        image |= {"neg_category_ids": [], "not_exhaustive_category_ids": []}
    for category, letter in zip(truth["categories"], "rrcff", strict=True):
        category["frequency"] = letter
    file.write_text(json.dumps(truth))
    words = ["evaluate", str(weights), str(folder), "--output", str(tmp_path / "m.json"), "--also", "lvis"]
    assert main(words) == 0
    metrics = json.loads((tmp_path / "m.json").read_text())
    assert metrics.keys() == {"bbox", "segm", "lvis"}
    head, boxes, masks = printed(capsys.readouterr().out, "LVIS")
    assert head[1:] == ["AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf"]
    for row, kind in ((boxes, "bbox"), (masks, "segm")):
        values = [metrics["lvis"][kind][name] for name in head[1:]]
        assert row[1:] == ["-" if value is None else f"{value:.1f}" for value in values]


def test_evaluate_on_cityscapes(weights, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("MASKRCNN_CACHE", str(tmp_path / "cache"))
    add_picture(tmp_path / "data", "val", "ulm_000000_000019", street())  # nothing to be found
    content = torch.load(weights, weights_only=True)
    trained = content["trained"]
    known = trained | {"class_names": tuple(CLASSES.values()), "category_ids": tuple(CLASSES)}
    torch.manual_seed(0)
    known["weights"] = recipes.build(known["recipe"], len(CLASSES), {**known["arguments"]}).state_dict()
    torch.save({"trained": known}, tmp_path / "city.pt")
    places = [str(tmp_path / name) for name in ("city.pt", "data", "m.json")]
    assert main(["evaluate", *places[:2], "--output", places[2]]) == 0
    output = capsys.readouterr().out
    assert json.loads((tmp_path / "m.json").read_text())["cityscapes"]["AP"] is None
    assert printed(output, "Cityscapes") == [["Cityscapes", "AP", "AP50"], ["masks", "-", "-"]]
    of_classes = [["Cityscapes class", "AP masks"], *([name, "-"] for name in CLASSES.values())]
    assert printed(output, "Cityscapes class") == of_classes


def test_a_network_of_nan_is_not_evaluated(weights, data, tmp_path, capsys):
    content = torch.load(weights, weights_only=True)
    content["trained"]["weights"]["box_branch.cls_score.weight"][0] = float("nan")
    torch.save(content, tmp_path / "nan.pt")
    output = tmp_path / "metrics.json"
    assert main(["evaluate", str(tmp_path / "nan.pt"), str(data), "--output", str(output)]) == 3
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "are NaN or infinite: box_branch.cls_score.weight;" in error
    assert not output.exists()


def test_evaluate_runs_on_the_named_device(weights, data, tmp_path, capsys):
    words = ["evaluate", str(weights), str(data), "--output", str(tmp_path / "m.json"), "--device"]
    assert main([*words, "cpu"]) == 0
    assert main([*words, "cuda:9"]) == 2
    assert "cuda:9" in capsys.readouterr().err


def test_an_unreadable_picture_is_named_and_the_status_says_so(weights, data, tmp_path, capsys):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"not a picture")
    pictures = [str(broken), str(data / "val" / "0000.png")]
    assert main(["predict", str(weights), *pictures, "--output", str(tmp_path / "out")]) == 1
    captured = capsys.readouterr()
    assert "broken.jpg" in captured.out + captured.err
    assert (tmp_path / "out" / "0000.png").exists()


def test_resume_with_more_steps(weights, data, capsys):
    words = ["train", str(data), "--output", str(weights.parent), "--resume", "--device", "cpu"]
    assert main([*words, "--set", "steps=3"]) == 0
    assert "resumes after step 2" in capsys.readouterr().out
    lines = [json.loads(line) for line in (weights.parent / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("train {data} --set stepz=3 --output {new}", "did you mean steps?"),
        ("train {data} --set boxes.hiden=3 --output {new}", "did you mean boxes.hidden?"),
        ("train {data} --recipe resnet19_fpn --output {new}", "there is no recipe 'resnet19_fpn'"),
        ("train {data}/none --output {new}", "no such folder"),
        ("train {data} --output {new} --resume", "no weights file"),
        ("train {data} --output {run}", "--resume"),
        ("train {data} --init {new}/x.pth --output {new}", "x.pth"),
        ("evaluate {new}/best.pt {data}", "no weights file"),
        ("evaluate {data}/annotations/instances_val.json {data}", "not a checkpoint"),
        ("evaluate torchvision/resnet52 {data}", "did you mean torchvision/resnet50?"),
        (
            "train {data} --init {weights} --synonyms a --output {new}",
            "--synonyms a: expected NAME=INIT_NAME",
        ),
        ("evaluate {weights} {data} --max-detections 0", "--max-detections must be at least 1, not 0"),
        ("paper run 2d --data {data} --seeds 0", "--seeds must be at least 1, not 0"),
        ("predict {weights} {new}/*.jpg", "*.jpg"),
        (
            "evaluate {weights} {data} --also lvis",
            "because 9 fields are missing: 'neg_category_ids' of image",
        ),
        (
            "weights convert {weights} {new}.pt --set lr=0.1",
            "--set optimiser.lr has no effect on a conversion",
        ),
        ("paper run cityscapes --data {data} --output {new}", "is not Cityscapes"),
        ("paper run keypoints --data {data} --output {new}", "names no keypoints"),
        ("predict {weights} {data}/val --device gpu", "device 'gpu' is not available: expected auto, cpu"),
        ("train {data} --output {new} --device cuda:99", "device 'cuda:99' is not available"),
        ("bench --device cpu:1", "device 'cpu:1' is not available"),
        ("predict {weights} {data}/val --score 2", "--score must be from 0 to 1"),
    ],
)
def test_mistakes_end_in_one_sentence(words, sentence, weights, data, tmp_path, capsys):
    places = {"data": data, "weights": weights, "run": weights.parent, "new": tmp_path / "new"}
    assert main([word.format(**places) for word in words.split()]) == 2
    error = capsys.readouterr().err
    assert error.startswith("maskrcnn: ") and sentence in error and error.count("\n") == 1


def test_weights_are_described_converted_and_compared(weights, tmp_path, capsys):
    other = tmp_path / "theirs.pkl"
    assert main(["weights", "convert", str(weights), str(other), "--layout", "detectron2"]) == 0
    assert "classes in order: disk, square" in capsys.readouterr().out
    assert main(["weights", "compare", str(weights), str(other)]) == 0
    assert main(["weights", "convert", str(other), str(tmp_path / "ours.pt")]) == 0
    assert main(["weights", "compare", str(other), str(tmp_path / "ours.pt")]) == 0
    assert main(["weights", "info", str(other)]) == 0
    assert "resnet18_fpn(" in capsys.readouterr().out
    assert main(["weights", "list"]) == 0


def test_ctrl_c_and_divergence_have_their_own_status(monkeypatch, data, tmp_path, capsys):
    from maskrcnn.training import loop

    def stop(error, *_, **__):
        raise error

    for error, status in ((KeyboardInterrupt(), 130), (FloatingPointError("loss nan"), 3)):
        monkeypatch.setattr(loop, "train", partial(stop, error))
        words = ["train", str(data), "--output", str(tmp_path), "--set", "steps=1"]
        assert main(words) == status
    assert capsys.readouterr().err == "maskrcnn: loss nan\n"


def test_the_demo_leaves_all_that_it_promises(monkeypatch, tmp_path, capsys):
    settings = Settings.of(steps=1, batch_size=2, short_sides=(64,), long_side=64, workers=0, eval_every=None)
    monkeypatch.setattr(demo, "_DEMO", settings)
    monkeypatch.setattr(
        demo,
        "_DEMO_RECIPE",
        {"pyramid.channels": 16, "masks.channels": 16, "boxes.hidden": 16, "boxes.max_detections": 5},
    )
    monkeypatch.setattr(
        synthetic, "synthetic_dataset", partial(synthetic.synthetic_dataset, train=4, val=2, size=64)
    )
    for _ in range(2):  # a second time, it finds what the first has left
        assert main(["demo", "--output", str(tmp_path)]) == 0
    assert {"bbox", "segm"} == json.loads((tmp_path / "metrics.json").read_text()).keys()
    assert (tmp_path / "best.pt").is_file()
    assert len(list((tmp_path / "pictures").glob("*.png"))) == 2
    assert str(tmp_path / "pictures") in capsys.readouterr().out
