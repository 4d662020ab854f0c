"""Commands that are killed, signalled, starved and run twice at once: nothing finished may be lost.

Each trial is a function that gets a `Bench` and yields a line for each fault: a traceback, lost work, a
result that differs from that of an undisturbed run, or no end.
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from maskrcnn.data.synthetic import synthetic_dataset
from maskrcnn.training.checkpoint import load

_SIZES = ("pyramid.channels=16", "masks.channels=16", "boxes.hidden=16", "body.norm=group")
_SETTINGS = ("batch_size=2", "short_sides=48,64", "long_side=64", "warmup_steps=2", "jitter=0.2,0.2,0.2")
STEPS = 12
_LONGEST = 300  # seconds for a command of this file
_IMPORT = 4.0  # seconds until a command begins its work

# What a training can be made of; each is killed and resumed
CONFIGURATIONS: dict[str, tuple[str, ...]] = {
    "no workers": ("workers=0",),
    "two workers": ("workers=2", "save_every=1"),
    "bf16, accumulated": ("workers=0", "precision=bf16", "accumulate=2", "save_every=2"),
    "adamw, cosine, crops": ("workers=1", "algorithm=adamw", "decay=cosine", "crop=48,48", "scale=0.5,2"),
}


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    status: int | None  # None: it did not end
    output: str

    def faults(self, name: str, *expected: int) -> Iterator[str]:
        """Yield a line where the status is not one of the expected, or a traceback was printed."""
        if self.status is None:
            yield f"{name}: no end after {_LONGEST} s"
        elif self.status not in expected:
            yield f"{name}: exit status {self.status} instead of {expected}: {self.output.strip()[-300:]!r}"
        if "Traceback" in self.output:
            yield f"{name}: a traceback: {self.output.strip()[-300:]!r}"


@dataclass
class Bench:
    """A place for trials: pictures to train on, and undisturbed trainings to compare with."""

    folder: Path
    draw: random.Random
    wholes: dict[tuple[str, ...], Path] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)

    @cached_property
    def data(self) -> Path:
        """A few pictures of shapes."""
        return synthetic_dataset(self.folder / "data", train=8, val=2, size=64)

    def train(self, output: Path, settings: Sequence[str], *more: str) -> list[str]:
        """Return the command of a training; it resumes where `output` holds one."""
        words = ["train", str(self.data), "--output", str(output), "--device", "cpu"]
        if (output / "last.pt").exists():
            return maskrcnn(*words, "--resume", *more)
        sets = [f"steps={STEPS}", f"eval_every={STEPS}", *_SIZES, *_SETTINGS, *settings]
        return maskrcnn(*words, "--recipe", "resnet18_fpn", *more, "--set", *sets)

    def whole(self, settings: Sequence[str]) -> Path:
        """Return the folder of an undisturbed training."""
        key = tuple(settings)
        if key not in self.wholes:
            output = self.folder / f"whole{len(self.wholes)}"
            ended = run(self.train(output, settings))
            assert ended.status == 0, ended.output
            self.wholes[key] = output
        return self.wholes[key]

    def new_folder(self, name: str) -> Path:
        """Return a path that does not exist yet."""
        return self.folder / f"{name.replace(' ', '-')}-{self.draw.randrange(1 << 30)}"


def maskrcnn(*words: str) -> list[str]:
    """Return a command."""
    return [sys.executable, "-m", "maskrcnn", *words]


def start(command: Sequence[str], **options: Any) -> subprocess.Popen[str]:
    """Start a command in a session of its own, with its output in a pipe."""
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        **options,
    )


def end(process: subprocess.Popen[str]) -> Ended:
    """Wait for a command, and kill it with all its processes where it does not end."""
    try:
        output, _ = process.communicate(timeout=_LONGEST)
        return Ended(process.returncode, output)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return Ended(None, process.communicate()[0])


def run(command: Sequence[str], **options: Any) -> Ended:
    """Run a command to its end."""
    return end(start(command, **options))


def same_weights(one: Path, other: Path) -> Iterator[str]:
    """Yield a line where two trainings did not end with the same weights and step, to the bit."""
    ours, theirs = (load(folder / "last.pt") for folder in (one, other))
    if ours.step != theirs.step:
        yield f"{one}: {ours.step} steps instead of {theirs.step}"
    weights = theirs.trained.weights
    if not all(torch.equal(tensor, weights[name]) for name, tensor in ours.trained.weights.items()):
        yield f"{one}: other weights than those of {other}"


def kills(bench: Bench) -> Iterator[str]:
    """kill -9 at random moments, in every configuration, until the training is complete."""
    for name, settings in CONFIGURATIONS.items():
        whole, output = bench.whole(settings), bench.new_folder("killed")
        for _ in range(40):
            process = start(bench.train(output, settings))
            try:
                process.wait(_IMPORT + bench.draw.uniform(0, 6))
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
            ended = end(process)
            if ended.status == 0:
                break
            yield from ended.faults(f"kill -9, {name}", -signal.SIGKILL)
        yield from same_weights(output, whole)


def signals(bench: Bench) -> Iterator[str]:
    """Signals that ask a training to stop: it saves, says how to resume, and ends with 128 + the number."""
    settings = ("workers=1",)
    whole = bench.whole(settings)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGUSR1):
        output = bench.new_folder("signalled")
        process = start(bench.train(output, settings))
        _wait_for_steps(process, output, bench.draw.randint(1, STEPS - 3))
        process.send_signal(number)
        ended = end(process)
        yield from ended.faults(f"{number.name}", 128 + number)
        if not (output / "last.pt").exists():
            yield f"{number.name}: nothing saved"
            continue
        logged = _steps(output)
        if (saved := load(output / "last.pt").step) != logged:
            yield f"{number.name}: step {saved} saved, but {logged} completed"
        yield from run(bench.train(output, settings)).faults(f"resumed after {number.name}", 0)
        yield from same_weights(output, whole)


def _steps(output: Path) -> int:
    try:
        records = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    except (OSError, json.JSONDecodeError):
        return 0
    return max((record["step"] for record in records if "loss" in record), default=0)


def _wait_for_steps(process: subprocess.Popen[str], output: Path, count: int) -> None:
    deadline = time.monotonic() + _LONGEST
    while _steps(output) < count and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)


def full_disk(bench: Bench) -> Iterator[str]:
    """Files that may not grow: a sentence, the last checkpoint stays whole, and the training resumes."""
    settings = ("workers=0",)
    whole, output = bench.whole(settings), bench.new_folder("full")
    size = (whole / "last.pt").stat().st_size
    for limit in (size // 2, size - 1, 10_000, 100):
        ended = run(bench.train(output, settings), preexec_fn=_limit(resource.RLIMIT_FSIZE, limit))
        yield from ended.faults(f"files of at most {limit} bytes", 1, 2)
        if (output / "last.pt").exists():
            load(output / "last.pt")
    yield from run(bench.train(output, settings)).faults("resumed on an empty disk", 0)
    yield from same_weights(output, whole)


def no_memory(bench: Bench) -> Iterator[str]:
    """An address space that is too small: a sentence instead of a traceback."""
    for gigabytes in (3, 4, 5):
        output = bench.new_folder("memory")
        limit = _limit(resource.RLIMIT_AS, gigabytes << 30)
        yield from run(bench.train(output, ("workers=0",)), preexec_fn=limit).faults(f"{gigabytes} GB", 0, 1)


def _limit(kind: int, value: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(kind, (value, value))


def vanished_folder(bench: Bench) -> Iterator[str]:
    """The output, and then the pictures, are deleted during a training."""
    output = bench.new_folder("vanished")
    process = start(bench.train(output, ("workers=0",)))
    _wait_for_steps(process, output, 3)
    shutil.rmtree(output, ignore_errors=True)
    yield from end(process).faults("output deleted", 0, 1, 2)
    data = bench.folder / "copy"
    shutil.copytree(bench.data, data)
    output = bench.new_folder("vanished")
    command = [str(data) if word == str(bench.data) else word for word in bench.train(output, ("workers=0",))]
    process = start(command)
    _wait_for_steps(process, output, 3)
    shutil.rmtree(data / "train")
    ended = end(process)
    yield from ended.faults("pictures deleted", 2)
    if (saved := load(output / "last.pt").step) < _steps(output):
        yield f"pictures deleted: step {saved} saved, but {_steps(output)} completed"


def small_shared_memory(bench: Bench) -> Iterator[str]:
    """A container's 64 MB of shared memory, here 1 MB."""
    settings = ("workers=2",)
    output = bench.new_folder("shm")
    words = " ".join(f"'{word}'" for word in bench.train(output, settings))
    script = f"mount -t tmpfs -o size=1M tmpfs /dev/shm && exec {words}"
    if subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        return  # needs root
    yield from run(["unshare", "-m", "sh", "-c", script]).faults("1 MB of shared memory", 0)
    yield from same_weights(output, bench.whole(settings))


def two_at_once(bench: Bench) -> Iterator[str]:
    """Two trainings into one folder: the second is refused, the first is undisturbed."""
    settings = ("workers=0",)
    output = bench.new_folder("twice")
    first = start(bench.train(output, settings))
    _wait_for_steps(first, output, 1)
    second = run(bench.train(output, settings))
    yield from second.faults("a second training in the folder", 2)
    yield from end(first).faults("the first training in the folder", 0)
    yield from same_weights(output, bench.whole(settings))


def seeds(bench: Bench) -> Iterator[str]:
    """The same command twice, with 0, 2 and 4 workers, gives the same weights."""
    whole = bench.whole(("workers=0",))
    for workers in (0, 2, 4):
        output = bench.new_folder("again")
        yield from run(bench.train(output, (f"workers={workers}",))).faults(f"{workers} workers", 0)
        yield from same_weights(output, whole)


def damaged_checkpoint(bench: Bench) -> Iterator[str]:
    """A bit of last.pt is flipped: a sentence, or the same training."""
    settings = ("workers=0",)
    whole, output = bench.whole(settings), bench.new_folder("flipped")
    _stopped_at(bench, output, settings, 4)
    for _ in range(5):
        content = bytearray((output / "last.pt").read_bytes())
        copy = bench.new_folder("flipped")
        shutil.copytree(output, copy)
        at = bench.draw.randrange(len(content))
        content[at] ^= 1 << bench.draw.randrange(8)
        (copy / "last.pt").write_bytes(content)
        ended = run(bench.train(copy, settings))
        yield from ended.faults(f"bit of byte {at} flipped", 0, 2)
        if ended.status == 0:
            yield from same_weights(copy, whole)


def _stopped_at(bench: Bench, output: Path, settings: Sequence[str], step: int) -> None:
    process = start(bench.train(output, settings))
    _wait_for_steps(process, output, step)
    process.send_signal(signal.SIGTERM)
    end(process)


def gone_reader(bench: Bench) -> Iterator[str]:
    """``maskrcnn train … | head -1``: the training goes on."""
    output = bench.new_folder("head")
    process = start(bench.train(output, ("workers=0",)))
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    try:
        process.wait(_LONGEST)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        yield "a reader that has gone: no end"
    yield from same_weights(output, bench.whole(("workers=0",)))


def killed_predictions(bench: Bench) -> Iterator[str]:
    """A prediction that is killed five times has every picture once in its results."""
    output = bench.folder / "predictions"
    pictures = bench.folder / "pictures"
    sources = sorted((bench.data / "train").iterdir())
    pictures.mkdir()
    for number in range(200):
        source = sources[number % len(sources)]
        shutil.copy(source, pictures / f"{number}{source.suffix}")
    best = str(bench.whole(("workers=0",)) / "best.pt")
    command = maskrcnn("predict", best, str(pictures), "--output", str(output), "--device", "cpu")
    for _ in range(5):
        process = start([*command, "--resume"])
        try:
            process.wait(_IMPORT + bench.draw.uniform(0, 3))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
        yield from end(process).faults("killed prediction", 0, -signal.SIGKILL)
    yield from run([*command, "--resume"]).faults("resumed prediction", 0)
    images = json.loads((output / "images.json").read_text())["images"]
    names = [image["file_name"] for image in images]
    if sorted(names) != sorted(map(str, pictures.iterdir())):
        yield f"{len(names)} results of {len(set(names))} pictures instead of 200"
    yield from (
        f"{image['overlay']} is missing" for image in images if not (output / image["overlay"]).exists()
    )


TRIALS: tuple[Callable[[Bench], Iterator[str]], ...] = (
    signals,
    full_disk,
    damaged_checkpoint,
    small_shared_memory,
    two_at_once,
    gone_reader,
    vanished_folder,
    killed_predictions,
    seeds,
    no_memory,
    kills,
)
