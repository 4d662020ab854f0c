"""A folder belongs to one process; the lock ends with it."""

import os
import signal
import subprocess
import sys

import pytest

from maskrcnn.lock import claimed

HOLD = """
import sys, time
from pathlib import Path
from maskrcnn.lock import claimed
with claimed(Path(sys.argv[1])):
    (Path(sys.argv[1]) / "metrics.jsonl").write_text("")
    print("claimed", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds the folder `tmp_path / "run"`."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "claimed\n"
        yield process
        process.kill()


def test_a_second_process_is_refused_and_a_dead_one_blocks_nothing(holder, tmp_path):
    folder = tmp_path / "run"
    sentence = rf"run is in use by another process \(process {holder.pid} on .*choose another --output"
    with pytest.raises(ValueError, match=sentence), claimed(folder):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (folder / ".lock.holder").read_text().startswith(f"process {holder.pid} on")
    with claimed(folder):
        assert f"process {os.getpid()} on" in (folder / ".lock.holder").read_text()
    assert not (folder / ".lock.holder").exists()


def test_the_lock_names_this_process_and_is_released(tmp_path):
    for _ in range(2):
        with claimed(tmp_path / "run"):
            assert f"process {os.getpid()} on" in (tmp_path / "run" / ".lock.holder").read_text()
            (tmp_path / "run" / "last.pt").touch()
    assert (tmp_path / "run").exists()


def test_a_folder_is_not_left_behind_empty(tmp_path):
    with pytest.raises(RuntimeError), claimed(tmp_path / "new"):
        raise RuntimeError
    assert not (tmp_path / "new").exists()
    (tmp_path / "old").mkdir()
    with claimed(tmp_path / "old"):
        pass
    assert (tmp_path / "old").exists()


@pytest.mark.parametrize("name", ["file", "file/run"])
def test_a_file_in_the_way_is_named(tmp_path, name):
    (tmp_path / "file").touch()
    with (
        pytest.raises(ValueError, match=f"{tmp_path / name}: a folder was expected"),
        claimed(tmp_path / name),
    ):
        pass
