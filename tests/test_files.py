"""A file is written whole or not at all."""

import json

import pytest

from maskrcnn.files import replacing, write_json


def test_a_write_that_fails_leaves_what_was_there(tmp_path):
    write_json(tmp_path / "a.json", {"value": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"value": float("nan")})
    with pytest.raises(OSError, match="full"), replacing(tmp_path / "a.json") as unfinished:
        unfinished.write_text("half")
        raise OSError("disk full")
    assert json.loads((tmp_path / "a.json").read_text()) == {"value": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
