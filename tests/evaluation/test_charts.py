"""Charts of series: round axes that enclose the values, and points where they belong."""

import pytest

from maskrcnn.evaluation.charts import Chart, Series, round_ticks, series_chart


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ([763], [0, 200, 400, 600, 800]),
        ([0.7, 2.18], [0, 0.5, 1, 1.5, 2, 2.5]),
        ([1000], [0, 200, 400, 600, 800, 1000]),
        ([-3, 8], [-5, 0, 5, 10]),
        ([2e-5], [0, 5e-6, 1e-5, 1.5e-5, 2e-5]),
        ([0], [0, 0.2, 0.4, 0.6, 0.8, 1]),
        ([], [0, 0.2, 0.4, 0.6, 0.8, 1]),
        ([90_000], [0, 20_000, 40_000, 60_000, 80_000, 100_000]),
    ],
)
def test_ticks_are_round_and_enclose_all_values_and_zero(values, ticks):
    assert round_ticks([float(value) for value in values]) == pytest.approx(ticks)


def test_ticks_are_few_for_any_values():
    for exponent in range(-12, 13):
        for digits in range(1, 100):
            for values in ([digits * 10.0**exponent], [-digits * 10.0**exponent, 10.0**exponent]):
                ticks = round_ticks(values)
                assert 3 <= len(ticks) <= 8
                rounding = 1e-5 * (ticks[-1] - ticks[0])
                assert ticks[0] <= min(values) + rounding and ticks[-1] >= max(values) - rounding


def test_points_are_where_their_values_are():
    chart = series_chart(
        [Series("a", [0.0, 10.0], [1.0, 2.0], "red", marked=True), Series("b", [5.0], [0.5], "blue")],
        "step",
        10,
        "loss",
    )
    middle_x, middle_y = (Chart.left + Chart.right) / 2, (Chart.top + Chart.bottom) / 2
    first, second = chart.lines
    assert first.points == f"{Chart.left:.1f},{middle_y} {Chart.right:.1f},{Chart.top:.1f}"
    assert second.points == f"{middle_x},{Chart.top + 0.75 * (Chart.bottom - Chart.top)}"
    assert [dot[:2] for dot in chart.dots] == [(Chart.left, middle_y), (Chart.right, Chart.top)]
    assert chart.dots[1].title == "a 2, step 10" and chart.label == "loss over step"
    assert [text for _, text in chart.y_ticks] == ["0", "0.5", "1", "1.5", "2"]
    assert chart.y_ticks[0][0] == Chart.bottom and chart.x_ticks[-1] == (Chart.right, "10")


def test_ticks_are_short_texts():
    chart = series_chart([Series("a", [90_000.0], [0.00002], "red")], "step", 90_000, "rate")
    assert [text for _, text in chart.x_ticks][-2:] == ["60,000", "80,000"]
    assert chart.lines[0].points.startswith(f"{Chart.right:.1f},")  # the axis ends where it should
    assert [text for _, text in chart.y_ticks] == ["0", "5e-06", "1e-05", "1.5e-05", "2e-05"]
