"""A machine without a network, and without published files."""

import urllib.error

import pytest


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    """Refuse every connection, and give the test a cache of its own; return the addresses asked for."""
    asked: list[str] = []

    def refuse(request, timeout=None):
        asked.append(request.full_url)
        raise urllib.error.URLError(OSError(101, "Network is unreachable"))

    monkeypatch.setattr("maskrcnn.weights.download.urllib.request.urlopen", refuse)
    monkeypatch.setenv("MASKRCNN_CACHE", str(tmp_path / "cache"))
    return asked
