"""What a user can cause ends in one sentence and a status, in every command; a bug keeps its traceback."""

import errno
import os
import re
import subprocess
import sys
from functools import partial

import pytest
import torch

from maskrcnn.cli import bench, check, demo, evaluate, export, main, paper, plan, predict, train, weights
from maskrcnn.cli.errors import explain

# Each command, with the function that executes it
COMMANDS = {
    "demo": (demo, "run"),
    "plan DATA": (plan, "run"),
    "train DATA": (train, "run"),
    "check DATA": (check, "run"),
    "evaluate WEIGHTS DATA": (evaluate, "run"),
    "predict WEIGHTS PICTURE": (predict, "run"),
    "bench": (bench, "run"),
    "export WEIGHTS": (export, "run"),
    "weights list": (weights, "_list"),
    "weights info WEIGHTS": (weights, "_info"),
    "weights convert WEIGHTS OUT": (weights, "_convert"),
    "weights compare A B": (weights, "_compare"),
    "paper list": (paper, "_list"),
    "paper run 2d --data DATA": (paper, "_run"),
}


def system(number: int, filename: str | None = "a/b") -> OSError:
    return OSError(number, os.strerror(number), filename)


FAULTS = {
    "full disk": (system(errno.ENOSPC), 1, "a/b: No space left on device: free some space"),
    "full disk, no name": (system(errno.ENOSPC, None), 1, "maskrcnn: No space left on device: free some"),
    "read-only": (system(errno.EROFS), 2, "a/b: Read-only file system: choose another --output"),
    "permission": (system(errno.EACCES), 2, "a/b: Permission denied: check its permissions"),
    "a file for a folder": (system(errno.EEXIST), 2, "a/b: File exists: a folder was expected"),
    "a folder for a file": (system(errno.EISDIR), 2, "a/b: Is a directory: a file was expected"),
    "too many files": (system(errno.EMFILE), 1, "Too many open files: raise the limit"),
    "rare": (system(errno.ELOOP), 2, "a/b: Too many levels of symbolic links"),
    "missing": (FileNotFoundError("a/b: no such picture"), 2, "maskrcnn: a/b: no such picture"),
    "mistake": (ValueError("--score must be from 0 to 1"), 2, "maskrcnn: --score must be from 0 to 1"),
    "divergence": (FloatingPointError("loss is not finite"), 3, "maskrcnn: loss is not finite"),
    "memory": (MemoryError(), 1, "maskrcnn: out of memory: use smaller pictures"),
    "GPU memory": (
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has …\nmore lines"),
        1,
        "out of memory (tried to allocate 2.00 GiB): use smaller pictures",
    ),
    "CPU memory": (
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate "
                     "memory: you tried to allocate 40000000000000 bytes. Error code 12"),
        1,
        "out of memory (tried to allocate 40000000000000 bytes): use",
    ),
    "CPU memory on Windows": (
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] data. DefaultCPUAllocator: not enough memory: "
                     "you tried to allocate 8 bytes."),
        1,
        "out of memory (tried to allocate 8 bytes): use",
    ),
    "killed worker": (
        RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly"),
        1,
        "worker process that reads pictures was killed, mostly because memory is short: use fewer workers",
    ),
    "torch.save": (
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598"),
        1,
        "a file could not be written completely: the disk may be full",
    ),
}  # fmt: skip


def raising(error: BaseException, *_: object, **__: object) -> None:
    raise error


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_fault_is_one_sentence_in_every_command(command, fault, monkeypatch, capsys):
    error, status, sentence = FAULTS[fault]
    monkeypatch.setattr(*COMMANDS[command], partial(raising, error))
    assert main(command.split()) == status
    text = capsys.readouterr().err
    assert text.startswith("maskrcnn: ") and sentence in text and text.count("\n") == 1


def test_the_table_has_every_command(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    listed = {line.split()[0] for line in capsys.readouterr().out.splitlines() if re.match(r" {4}\w", line)}
    assert listed == {command.split()[0] for command in COMMANDS}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    "bug", [TypeError("bug"), KeyError("bug"), RuntimeError("shapes differ"), AssertionError()]
)
def test_a_bug_keeps_its_traceback(command, bug, monkeypatch):
    monkeypatch.setattr(*COMMANDS[command], partial(raising, bug))
    with pytest.raises(type(bug)):
        main(command.split())


def test_debugging_shows_the_traceback_of_any_error(monkeypatch, capsys):
    monkeypatch.setattr(bench, "run", partial(raising, ValueError("a mistake")))
    for value, shown in (("1", True), ("0", False), ("", False)):
        monkeypatch.setenv("MASKRCNN_DEBUG", value)
        assert main(["bench"]) == 2
        text = capsys.readouterr().err
        assert ("Traceback" in text) == shown and text.endswith("maskrcnn: a mistake\n")


def test_the_real_messages_of_pytorch_are_known(tmp_path):
    with pytest.raises(RuntimeError) as caught:
        torch.empty(10**15)
    assert "tried to allocate 4000000000000000 bytes" in explain(caught.value).sentence
    with pytest.raises(RuntimeError) as caught:
        torch.save(torch.zeros(10**6), "/dev/full")
    assert "disk may be full" in explain(caught.value).sentence


def test_a_note_says_where():
    error = system(errno.ENOSPC, None)
    error.add_note("while writing last.pt")
    assert explain(error).sentence.endswith(", while writing last.pt")


OUTPUTS = (
    "demo --output {file}",
    "train {data} --output {file} --device cpu",
    "evaluate {weights} {data} --output {file}/metrics.json",
    "predict {weights} {data}/val --output {file}",
    "predict {weights} {data}/val --output {file}/deeper",
    "export {weights} --output {file}/network.onnx",
    "weights convert {weights} {file}/network.pt",
    "weights convert {weights} {file}/network.pkl --layout detectron2",
    "paper run 2d --data {data} --output {file} --scale small",
    "bench --recipe resnet18_fpn --size 64x64 --repeats 1 --json {file}/figures.json",
)


@pytest.mark.parametrize("words", OUTPUTS)
def test_an_output_that_is_a_file(words, data, weights, tmp_path, capsys):
    (tmp_path / "file").write_text("precious")
    places = {"data": data, "weights": weights, "file": tmp_path / "file"}
    assert main([word.format(**places) for word in words.split()]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"maskrcnn: {tmp_path / 'file'}") and "a folder was expected" in last
    assert (tmp_path / "file").read_text() == "precious"


WRITES = (
    "train {data} --output {new} --device cpu --recipe resnet18_fpn --set steps=1 batch_size=1 "
    "short_sides=32 long_side=32 workers=0 eval_every=0 "
    "pyramid.channels=16 masks.channels=16 boxes.hidden=16",
    "evaluate {weights} {data} --output {new}.json",
    "predict {weights} {data}/val --output {new}",
    "weights convert {weights} {new}.pt",
    "weights convert {weights} {new}.pth --layout detectron2",
)


@pytest.mark.parametrize("words", WRITES)
def test_a_disk_that_fills_up(words, data, weights, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(os, "fsync", partial(raising, system(errno.ENOSPC, None)))
    places = {"data": data, "weights": weights, "new": tmp_path / "new"}
    assert main([word.format(**places) for word in words.split()]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert "No space left on device: free some space" in last
    assert f"while writing {tmp_path / 'new'}" in last
    left = [path.name for path in tmp_path.rglob("*") if path.is_file()]
    assert set(left) <= {"metrics.jsonl"}


@pytest.mark.parametrize("length", [10, 100_000])  # less than a buffer, and more
def test_a_reader_that_has_gone_is_not_an_error(length):
    code = f"""
from maskrcnn import cli
cli.weights._list = lambda arguments: print("x" * {length}) or 0
raise SystemExit(cli.main(["weights", "list"]))
"""
    read, write = os.pipe()
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=write, stderr=subprocess.PIPE, text=True, env=buffered
    )
    os.close(write)
    os.close(read)
    assert process.communicate(timeout=120)[1] == "" and process.returncode == 1


def test_the_module_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "maskrcnn", "--version"],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert done.stderr == "" and done.stdout.startswith("maskrcnn ")
    assert f"PyTorch {torch.__version__}" in done.stdout
    assert f"Python {sys.version.split()[0]})" in done.stdout
