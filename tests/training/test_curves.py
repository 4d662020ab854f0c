"""The curves of a run, from records that are written here by hand."""

import json
import math

from maskrcnn.training.curves import curve_charts, curves_of, read_records, thinned


def test_all_finite_numbers_are_curves_by_step():
    numbers = {"AP": 5, "APs": None, "per_class": {"cat": {"AP": 1.0}}}
    records = [
        {"step": 2, "segm": numbers, "average": {"segm": {"AP": 6.0}}, "note": "x", "is_odd": True},
        {"step": 1, "loss": 3.0, "loss_box": math.inf},
        {"step": 2, "loss": math.nan},
    ]
    curves = curves_of(records)
    assert curves["segm.AP"] == {2: 5.0} and curves["average.segm.AP"] == {2: 6.0}
    assert curves["loss"] == {1: 3.0} and list(curves["step"]) == [1, 2]
    assert curves.keys() == {"segm.AP", "average.segm.AP", "loss", "step"}


def test_of_repeated_steps_the_last_record_counts():
    records = [{"step": 1, "loss": 4.0}, {"step": 2, "loss": 9.0}, {"step": 1, "loss": 3.0}]
    assert curves_of(records)["loss"] == {1: 3.0, 2: 9.0}


def test_long_curves_are_thinned_to_means():
    steps, values = thinned({number: float(number % 2) for number in range(1, 12001)}, 120)
    assert len(steps) == 120 and values == [0.5] * 120
    assert steps[:2] == [50.5, 150.5] and steps[-1] == 11950.5
    assert thinned({5: 1.0, 7: 2.0}, 2) == ([5.0, 7.0], [1.0, 2.0])


def test_more_curves_than_colours_are_all_drawn():
    curves = {f"kind{number}.AP": {1: float(number)} for number in range(9)}
    [(title, chart, legend)] = curve_charts(curves)
    assert title == "Average precision" and len(chart.lines) == len(legend) == 9
    assert legend[8].meaning == "kind8 8"


def test_lines_that_are_no_records_are_left_out(tmp_path):
    file = tmp_path / "metrics.jsonl"
    good = {"step": 1, "loss": 2.0}
    file.write_text(
        "\n".join([json.dumps(good), "[]", '{"loss": 1}', '{"step": "x"}', "[" * 100_000, '{"st'])
    )
    assert read_records(file) == [good]
    assert read_records(tmp_path / "none") == []
