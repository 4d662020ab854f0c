"""A file is written whole or not at all."""

import errno
import json
import multiprocessing
import os
import stat
import time
from pathlib import Path

import pytest

from maskrcnn.files import json_list, replacing, write_json


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_write_that_fails_leaves_what_was_there(tmp_path):
    write_json(tmp_path / "a.json", {"value": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"value": float("nan")})
    with pytest.raises(OSError, match="full") as caught, replacing(tmp_path / "a.json") as unfinished:
        unfinished.write_text("half")
        raise OSError("disk full")
    assert caught.value.__notes__ == [f"while writing {tmp_path / 'a.json'}"]
    assert json.loads((tmp_path / "a.json").read_text()) == {"value": 1}
    assert names(tmp_path) == ["a.json"]


def test_an_error_names_the_file_and_not_its_temporary_form(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError) as caught:
        write_json(tmp_path / "file" / "a.json", 1)
    assert caught.value.filename == str(tmp_path / "file" / "a.json")


def test_it_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    steps = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda file: (steps.append("fsync"), fsync(file)))
    monkeypatch.setattr(Path, "replace", lambda *paths: (steps.append("replace"), replace(*paths)))
    write_json(tmp_path / "a.json", 1)
    assert steps == ["fsync", "replace"]


def test_a_disk_that_is_full_at_the_end_leaves_nothing(tmp_path, monkeypatch):
    def full(_file):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as caught:
        write_json(tmp_path / "a.json", 1)
    assert caught.value.__notes__ == [f"while writing {tmp_path / 'a.json'}"]
    assert names(tmp_path) == []


def _write_slowly(path: Path, text: str, both: "multiprocessing.Barrier") -> None:
    with replacing(path) as unfinished:
        unfinished.write_text(text[:5])
        both.wait(30)
        with unfinished.open("a") as file:
            file.write(text[5:])
        both.wait(30)


def test_two_processes_write_the_same_file_without_mixing(tmp_path):
    context = multiprocessing.get_context("fork")
    both = context.Barrier(2)
    texts = ["a" * 10, "b" * 10]
    writers = [context.Process(target=_write_slowly, args=(tmp_path / "x", text, both)) for text in texts]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert (tmp_path / "x").read_text() in texts
    assert names(tmp_path) == ["x"]


def test_what_killed_processes_left_is_deleted(tmp_path):
    old, fresh, other = (tmp_path / f".{name}.unfinished" for name in ("a.json.1", "a.json.2", "b.json.1"))
    for path in (old, fresh, other):
        path.write_text("half")
    for path in (old, other):
        os.utime(path, (0, time.time() - 7200))
    write_json(tmp_path / "a.json", 1)
    write_json(tmp_path / "[a-z].json", 1)  # is a name here, not a pattern that `other` matches
    assert names(tmp_path) == [fresh.name, other.name, "[a-z].json", "a.json"]


def test_names_as_long_as_file_systems_allow_and_names_like_patterns(tmp_path):
    for name in ("n" * 255, "é" * 127, "[a-z]*.json"):
        write_json(tmp_path / name, name)
        assert json.loads((tmp_path / name).read_text(encoding="utf-8")) == name


def test_permissions_are_those_of_any_new_file(tmp_path):
    write_json(tmp_path / "a.json", 1)
    (tmp_path / "plain").write_text("")
    assert stat.S_IMODE((tmp_path / "a.json").stat().st_mode) == stat.S_IMODE(
        (tmp_path / "plain").stat().st_mode
    )


@pytest.mark.parametrize("items", [[], [{"a": 1}], [1, "two", [3]]])
def test_a_list_is_written_item_by_item(items, tmp_path):
    with json_list(tmp_path / "a.json") as append:
        for item in items:
            append(item)
        assert not (tmp_path / "a.json").exists()
    assert (tmp_path / "a.json").read_text() == json.dumps(items) + "\n"


def test_a_list_that_is_not_completed_does_not_appear(tmp_path):
    with pytest.raises(KeyboardInterrupt), json_list(tmp_path / "a.json") as append:
        append(1)
        raise KeyboardInterrupt
    assert names(tmp_path) == []
