from pathlib import Path

import pytest


@pytest.fixture
def benchmarks(monkeypatch):
    """Let a test import the scripts in ``benchmarks/``; return that folder."""
    folder = Path(__file__).parents[2] / "benchmarks"
    monkeypatch.syspath_prepend(folder)
    return folder
