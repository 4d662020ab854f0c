"""The allocator's settings, and what becomes of freed memory."""

import subprocess
import sys

import pytest

from maskrcnn.cli import main
from maskrcnn.fast import memory

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


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from Linux' /proc")
def test_freed_memory_stays_with_the_process() -> None:
    (unasked, returned), (kept, held) = (
        subprocess.run(
            [sys.executable, "-c", FREED, *how], capture_output=True, text=True, check=True
        ).stdout.split()
        for how in ([], ["keep"])
    )
    assert unasked == "False" and int(returned) > 200
    if kept == "False":
        pytest.skip("this system's allocator is not glibc's, or an old one")
    assert int(held) < 50


class FakeMallopt:
    """An allocator that refuses some parameters."""

    def __init__(self, *refused: int) -> None:
        self.refused = refused
        self.values: dict[int, int] = {}

    def __call__(self, which: int, value: int) -> int:
        if which in self.refused:
            return 0
        self.values[which] = value
        return 1


TRIM, MMAP = -1, -3


@pytest.mark.parametrize(
    ("refused", "kept", "values"),
    [
        ((), True, {TRIM: 2**31 - 1, MMAP: 2**31 - 1}),
        ((MMAP,), False, {}),  # older glibc: nothing was touched
        ((TRIM,), False, {MMAP: 128 * 1024}),  # the first one is its default again
    ],
)
def test_both_thresholds_are_set_or_none(
    monkeypatch: pytest.MonkeyPatch, refused: tuple[int, ...], kept: bool, values: dict[int, int]
) -> None:
    mallopt = FakeMallopt(*refused)
    monkeypatch.setattr(memory, "_mallopt", lambda: mallopt)
    assert memory.keep_memory() is kept
    assert mallopt.values == values


def test_other_allocators_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_mallopt", lambda: None)
    assert memory.keep_memory() is False
    monkeypatch.undo()
    monkeypatch.setattr(sys, "platform", "darwin")
    assert memory._mallopt() is None


def test_commands_that_detect_keep_memory(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    calls = []
    monkeypatch.setattr("maskrcnn.fast.memory.keep_memory", lambda: calls.append(1))
    for command in ("predict nowhere.pt nothing.jpg", "evaluate nowhere.pt nothing"):
        assert main(command.split()) == 2
    capsys.readouterr()
    assert len(calls) == 2
