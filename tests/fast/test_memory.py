"""What a process does with memory that it has freed."""

import subprocess
import sys

import pytest

from maskrcnn.cli import main

FREED = """
import sys
from pathlib import Path

import torch

from maskrcnn.fast.memory import keep_memory

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

kept = "keep" in sys.argv and keep_memory()
tensor = torch.ones(2**26)  # 256 MiB
before = resident()
del tensor
print(kept, (before - resident()) >> 20)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what is resident in this way")
def test_what_is_freed_stays_with_the_process() -> None:
    (unasked, returned), (kept, held) = (
        subprocess.run(
            [sys.executable, "-c", FREED, *how], capture_output=True, text=True, check=True
        ).stdout.split()
        for how in ([], ["keep"])
    )
    assert unasked == "False" and int(returned) > 200
    if kept == "False":
        pytest.skip("this system's allocator is not glibc's")
    assert int(held) < 50


def test_commands_that_detect_ask_for_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    asked = []
    monkeypatch.setattr("maskrcnn.fast.memory.keep_memory", lambda: asked.append(1))
    for command in ("predict nowhere.pt nothing.jpg", "evaluate nowhere.pt nothing"):
        assert main(command.split()) == 2
    capsys.readouterr()
    assert len(asked) == 2
