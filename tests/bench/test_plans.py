"""`benchmarks/plans.py`: each contestant runs once and is judged; an error stays in its row."""

import io
import json
import sys

import pytest
from rich.console import Console

from maskrcnn.data.folder import read_split
from maskrcnn.data.synthetic import synthetic_dataset
from maskrcnn.files import write_json


@pytest.fixture
def plans(benchmarks):
    import plans

    return plans


@pytest.fixture
def task(plans, tmp_path):
    data = synthetic_dataset(tmp_path / "data", train=2, val=3, size=64)
    return plans.Task(data, 0.1, 1, 0, None, 100, tmp_path / "work", tmp_path / "environment")


def perfect(plans, task):
    """Return a contestant that detects what is there, and the number of its runs."""
    from contestants import Trained

    from maskrcnn.evaluation.coco_format import image_sizes, to_rle

    runs = []

    def contestant(task):
        runs.append(task.seed)
        truth = read_split(task.data, "val").truth()
        sizes = image_sizes(truth)
        detections = []
        for entry in truth["annotations"]:
            mask = to_rle(entry, sizes[entry["image_id"]])
            counts = mask["counts"] if isinstance(mask["counts"], str) else mask["counts"].decode()
            detections.append({**entry, "score": 0.9, "segmentation": {**mask, "counts": counts}})
        write_json(task.work / "results.json", detections)
        return Trained("command", 7, 6.0, "2.13", 2**30)

    return contestant, runs


def run(plans, task, contestant, tmp_path):
    truth = read_split(task.data, "val").truth()
    return plans.run_once(tmp_path / "figures/one.json", "one", contestant, task, truth)


def test_a_contestant_with_a_result_does_not_run_again(plans, task, tmp_path):
    contestant, runs = perfect(plans, task)
    first = run(plans, task, contestant, tmp_path)
    assert run(plans, task, contestant, tmp_path) == first and runs == [0]
    assert first["metrics"]["segm"]["AP"] == pytest.approx(100)
    assert first["steps"] == 7 and first["machine"]["torch"]


def test_one_that_fails_has_its_error_and_runs_again(plans, task, tmp_path):
    def failing(task):
        raise RuntimeError("no such network")

    assert run(plans, task, failing, tmp_path)["error"] == "RuntimeError: no such network"
    contestant, runs = perfect(plans, task)
    assert "error" not in run(plans, task, contestant, tmp_path) and runs == [0]


def test_the_table_has_means_over_seeds_and_the_share_of_the_hand(plans):
    def figures(ap):
        segm = {"AP": ap, "AP50": 60.0, "AP75": 40.0}
        metrics = {"segm": segm, "bbox": {"AP": 33.0}}
        return {"metrics": metrics, "steps": 100, "seconds": 90.0, "peak_bytes": 2**30}

    rows = {"plan": [figures(30.0), figures(40.0)], "hand": [figures(50.0)], "yolo": [{"error": "no pip"}]}
    output = io.StringIO()
    Console(file=output, width=200).print(plans.table("title", rows))
    lines = [line.split("│") for line in output.getvalue().splitlines()]
    cells = {line[1].strip(): [cell.strip() for cell in line[2:-1]] for line in lines if len(line) > 3}
    assert cells["plan"] == ["35.0 (30.0 … 40.0)", "0.70", "60.0", "40.0", "33.0", "100", "1.5", "1.00"]
    assert cells["yolo"][0] == "failed"


def test_nothing_detected_is_judged_as_0(plans, task):
    metrics = plans.judge(read_split(task.data, "val").truth(), [], 100)
    assert metrics["segm"]["AP"] == metrics["bbox"]["AP50"] == 0.0


def test_the_cap_is_what_the_data_need(plans, task):
    class Data(list):
        def objects(self, index):
            return type("Objects", (), {"labels": range(self[index])})

    assert plans.detections_needed(Data([3, 100])) == 100
    assert plans.detections_needed(Data([101]), Data([5])) == 150
    assert plans.detections_needed(Data([375])) == 400


PLAIN_SCRIPT = """
import json, sys, pathlib, time
time.sleep(0.3)
work = pathlib.Path(sys.argv[1])
mask = {"size": [64, 64], "counts": [64 * 10 + 5, 20, 64 * 54 - 25]}
one = {"image_id": 2, "category_id": 1, "score": 0.5, "bbox": [10, 5, 1, 20], "segmentation": mask}
kept = {"steps": 3, "seconds": 1.5, "torch": "9", "results": [one]}
(work / "trained.json").write_text(json.dumps(kept))
"""


def test_a_plain_script_gets_its_arguments_and_its_results_the_ids_of_the_data(
    plans, task, tmp_path, monkeypatch
):
    import contestants

    (tmp_path / "plain_yolo.py").write_text(PLAIN_SCRIPT)
    monkeypatch.setattr(contestants, "HERE", tmp_path)
    monkeypatch.setattr(contestants, "_POLLING", 0.02)
    monkeypatch.setattr(contestants, "environment", lambda folder, packages: sys.executable)
    task.work.mkdir()
    trained = contestants.yolo(task)
    assert (trained.steps, trained.seconds, trained.torch) == (3, 1.5, "9")
    assert "--minutes 0.1 --threads 1 --seed 0 --side 64 --detections 100" in trained.command
    assert trained.peak_bytes > 1e6
    (entry,) = json.loads((task.work / "results.json").read_text())
    dataset = read_split(task.data, "val")
    assert entry["image_id"] == dataset.image_ids[2] and entry["category_id"] == dataset.category_ids[1]
    assert isinstance(entry["segmentation"]["counts"], str)


def test_a_script_that_fails_is_named_with_its_last_line(plans, task, tmp_path, monkeypatch):
    import contestants

    (tmp_path / "plain_yolo.py").write_text("print('first'); raise SystemExit('out of luck')")
    monkeypatch.setattr(contestants, "HERE", tmp_path)
    monkeypatch.setattr(contestants, "environment", lambda folder, packages: sys.executable)
    task.work.mkdir()
    with pytest.raises(RuntimeError, match=r"log.txt, exit status 1: out of luck"):
        contestants.yolo(task)


def test_a_feature_is_on_where_the_plan_is_not_as_without_it(benchmarks, tmp_path):
    import ablations

    plan = tmp_path / "plan.json"
    write_json(plan, {"settings": [{"name": "augmentation.scale", "value": "0.6,1.6"}]})
    assert not ablations.agrees(plan, ["augmentation.scale=none"])
    assert ablations.agrees(plan, ["augmentation.scale=0.6,1.6"])
    assert ablations.agrees(plan, ["step.precision=float32"])  # the default
    with pytest.raises(ValueError, match="there is no"):
        ablations.agrees(plan, ["step.magic=1"])
