"""Progress where there is no terminal."""

from maskrcnn import progress
from maskrcnn.progress import with_progress


def test_a_line_every_ten_seconds_says_how_long_the_rest_takes(monkeypatch, capsys):
    clock = iter(range(0, 1000, 4))  # each item takes four seconds
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(clock)))
    assert list(with_progress("abcdefgh", "reading [x]", 8)) == list("abcdefgh")
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["reading [x]: 2 of 8 (25%), 0:00:36 left", "reading [x]: 5 of 8 (62%), 0:00:14 left"]


def test_nothing_to_do(capsys):
    assert list(with_progress([], "reading", 0)) == []
    assert capsys.readouterr().err == ""
