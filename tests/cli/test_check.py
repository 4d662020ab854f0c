"""``maskrcnn check``."""

import json

from cli.conftest import TINY, TINY_RECIPE
from maskrcnn.cli import main
from maskrcnn.data import synthetic


def test_a_clean_data_set(data, capsys):
    assert main(["check", str(data)]) == 0
    assert "0 errors, 0 warnings" in capsys.readouterr().out


def test_faults_are_listed_written_and_mended(tmp_path, capsys):
    data = synthetic.synthetic_dataset(tmp_path / "data", train=2, val=2, size=64)
    file = data / "annotations" / "instances_train.json"
    content = json.loads(file.read_text())
    content["annotations"][0]["iscrowd"] = "0"
    content["images"][0]["file_name"] = "[red]gone.png"
    file.write_text(json.dumps(content))
    report, fixed = tmp_path / "out" / "report.json", tmp_path / "fixed"
    assert main(["check", str(data), "--json", str(report), "--fix", str(fixed)]) == 1
    output = capsys.readouterr().out
    assert "value type (1)" in output
    assert "[red]gone.png" in output
    assert "1 values of 'iscrowd' made integers" in output
    assert {"value type", "missing picture"} <= {
        one["kind"] for one in json.loads(report.read_text())["findings"]
    }
    mended = json.loads((fixed / "annotations" / "instances_train.json").read_text())
    assert mended["annotations"][0]["iscrowd"] == 0


def test_errors_are_one_sentence(tmp_path, capsys):
    assert main(["check", str(tmp_path / "none")]) == 2
    assert "no such folder" in capsys.readouterr().err


def test_the_worst_pictures_are_drawn(tmp_path, capsys):
    data = synthetic.synthetic_dataset(tmp_path / "data", train=2, val=1, size=64)
    file = data / "annotations" / "instances_train.json"
    content = json.loads(file.read_text())
    content["annotations"][0]["bbox"][2] = -5
    file.write_text(json.dumps(content))
    assert main(["check", str(data), "--draw", str(tmp_path / "drawings")]) == 1
    assert f"drawings of 1 picture {tmp_path / 'drawings'}" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "drawings").iterdir()] == ["01_train_0000.png"]


def test_train_and_evaluate_check_first(weights, tmp_path, capsys):
    """The summary stands before the training, and all findings in its folder."""
    data, output = tmp_path / "data", tmp_path / "run"
    synthetic.synthetic_dataset(data, train=3, val=2, size=64)
    file = data / "annotations" / "instances_train.json"
    content = json.loads(file.read_text())
    content["annotations"][0]["bbox"] = [8, 8, -1, 5]
    content["annotations"][1]["iscrowd"] = "0"
    file.write_text(json.dumps(content))
    (data / "val" / "0001.jpg").write_bytes(b"")
    words = ["train", str(data), "--recipe", "resnet18_fpn", "--output", str(output), "--device", "cpu"]
    assert main([*words, "--set", *TINY, *TINY_RECIPE]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("2 errors, 1 warning, ")
    assert f"; maskrcnn check {data} lists all:\n" in printed.out
    for line in (
        "  error: negative box (1): ",
        "  error: unreadable picture (1): ",
        "  warning: value type (1): ",
    ):
        assert line in printed.out
    assert "left out 1 annotations" in printed.err and "0001.jpg: an empty file" in printed.err
    findings = json.loads((output / "check.json").read_text())["findings"]
    assert {one["kind"]: one["count"] for one in findings if one["severity"] != "note"} == {
        "negative box": 1,
        "unreadable picture": 1,
        "value type": 1,
    }
    words = ["evaluate", str(weights), str(data), "--device", "cpu", "--output", str(tmp_path / "m.json")]
    assert main(words) == 0
    printed = capsys.readouterr()
    assert "unreadable picture (1)" in printed.out and "0001.jpg: an empty file" in printed.err


def test_all_mistakes_of_a_command_are_listed_at_once(data, tmp_path, capsys):
    words = ["train", str(data), "--recipe", "resnet19_fpn", "--device", "tpu", "--output", str(tmp_path)]
    words += ["--synonyms", "lorry", "--minutes", "3", "--plan", "x.json"]
    (tmp_path / "last.pt").touch()
    assert main([*words, "--set", "llr=1", "workers=many"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("maskrcnn: 7 faults:\n  ")
    parts = ("--set llr", "--set workers=many", "--synonyms lorry", "tpu", "resnet19_fpn", "holds a training")
    for part in (*parts, "--plan has a length"):
        assert part in error
