"""``maskrcnn check``."""

import json

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
