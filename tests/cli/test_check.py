import json

from maskrcnn.cli import main


def test_exit_status_and_json(data, tmp_path, capsys):
    assert main(["check", str(data)]) in (0, 1)
    capsys.readouterr()
    broken = tmp_path / "data"
    (broken / "train").mkdir(parents=True)
    content = {
        "images": [{"id": 1, "file_name": "gone.png", "height": 4, "width": 4}],
        "annotations": [],
        "categories": [{"id": 1, "name": "cup"}],
    }
    (broken / "train" / "_annotations.coco.json").write_text(json.dumps(content))
    assert main(["check", str(broken), "--json", str(tmp_path / "out" / "findings.json")]) == 1
    shown = capsys.readouterr().out
    assert "picture that is not there (1): put it there" in shown and "1 error, 1 warning, 1 note" in shown
    kinds = {
        one["name"]: one["count"] for one in json.loads((tmp_path / "out" / "findings.json").read_text())
    }
    assert kinds["picture that is not there"] == 1


def test_a_folder_without_annotations_is_a_sentence(tmp_path, capsys):
    assert main(["check", str(tmp_path)]) == 2
    assert "no annotation file" in capsys.readouterr().err
