"""Worker processes: how many start, what they do at Ctrl-C, and how they end."""

import itertools
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch
from PIL import Image

import maskrcnn
from maskrcnn.data import prepare, transforms, workers
from maskrcnn.data.loader import AugmentedDataset, picture_batches, training_batches
from maskrcnn.data.readers.coco import read_coco

RESIZE = prepare.resize(32, 64)


@pytest.fixture
def dataset(tmp_path):
    """Pictures without objects; picture i is grey i."""
    images = [{"id": i, "file_name": f"{i}.png", "height": 20, "width": 30} for i in range(4)]
    for i, image in enumerate(images):
        Image.new("RGB", (30, 20), (i, i, i)).save(tmp_path / image["file_name"])
    content = {"images": images, "annotations": [], "categories": [{"id": 1, "name": "thing"}]}
    (tmp_path / "truth.json").write_text(json.dumps(content))
    return read_coco(tmp_path / "truth.json", tmp_path)


def batches_of(dataset, *changes, workers=1):
    data = AugmentedDataset(dataset, RESIZE, transforms.compose(*changes))
    return training_batches(data, batch_size=2, stride=32, workers=workers, seed=5)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system does not say which cores")
@pytest.mark.parametrize("cores", [1, 2])
def test_no_more_workers_than_cores(dataset, monkeypatch, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cores)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch warns of too many
        batches = batches_of(dataset, workers=3)
        next(batches)
        assert len(multiprocessing.active_children()) == cores


def _read_in_pool(paths):
    batches = picture_batches(paths, RESIZE, batch_size=1, stride=32, workers=2)
    return [int(batch.batch.images[0, 0, 0, 0]) for batch in batches]


def test_a_worker_of_a_pool_starts_no_workers(dataset):
    """Such a process may not have children; it reads the pictures itself."""
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.map(_read_in_pool, [dataset.paths[:3]]) == [[0, 1, 2]]


SCRIPT = """
import multiprocessing, os, signal, sys, threading, time
from maskrcnn.data import prepare, transforms
from maskrcnn.data.loader import AugmentedDataset, training_batches
from maskrcnn.data.readers.coco import read_coco

if __name__ == "__main__":
    method, folder = sys.argv[1:]
    multiprocessing.set_start_method(method)
    pressed = []
    signal.signal(signal.SIGINT, lambda *_: pressed.append(1))
    data = read_coco(f"{folder}/truth.json", folder)
    data = AugmentedDataset(data, prepare.resize(32, 64), transforms.compose())
    batches = training_batches(data, batch_size=2, stride=32, workers=1, seed=0)
    threading.Timer(0.5, lambda: os.killpg(0, signal.SIGINT)).start()  # a spawned worker still imports torch
    next(batches)
    time.sleep(0.5)
    os.killpg(0, signal.SIGINT)
    for _ in range(20):
        next(batches)
    (worker,) = multiprocessing.active_children()
    print(len(pressed), worker.pid, flush=True)
    time.sleep(600)
"""


def is_running(pid):
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rsplit(")")[-1].split()[0] != "Z"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes by Linux' /proc")
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_workers_survive_ctrl_c_and_end_with_their_parent(dataset, tmp_path, method):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    source = Path(maskrcnn.__file__).parents[1]
    with subprocess.Popen(
        [sys.executable, script, method, tmp_path],
        env={**os.environ, "PYTHONPATH": str(source)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as parent:
        try:
            line = parent.stdout.readline()
        finally:
            parent.kill()
        assert line, parent.stderr.read()
        pressed, worker = map(int, line.split())
        assert pressed == 2
        deadline = time.monotonic() + 30
        while is_running(worker) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not is_running(worker)


def _end(sample, generator):
    os._exit(3)


def _kill(sample, generator):
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("transform", [_end, _kill])
def test_a_worker_that_ends_is_one_sentence(dataset, transform):
    with pytest.raises(
        ValueError, match=r"^a worker process that reads pictures ended \(DataLoader [^\n]*workers[^\n]*$"
    ):
        list(itertools.islice(batches_of(dataset, transform), 2))


def _wait(sample, generator):
    time.sleep(600)


def test_a_worker_that_returns_nothing_is_one_sentence(dataset, monkeypatch):
    monkeypatch.setattr(workers, "_LONGEST_WAIT", 1)
    with pytest.raises(ValueError, match=r"^a worker process has read nothing for 1 seconds: .*drive"):
        next(batches_of(dataset, _wait))


@pytest.mark.parametrize("free", [0, 1 << 40])
def test_where_shared_memory_is_short_batches_come_through_a_pipe(dataset, monkeypatch, free):
    monkeypatch.setattr(workers, "free_shared_memory", lambda: free)
    here, sent = (list(itertools.islice(batches_of(dataset, workers=n), 5)) for n in (0, 1))
    for (batch, targets), (sent_batch, sent_targets) in zip(here, sent, strict=True):
        assert sent_batch.images.is_shared() == (free > 0)
        assert torch.equal(sent_batch.images, batch.images)
        assert torch.equal(sent_targets.boxes, targets.boxes)


def _fail(sample, generator):
    raise RuntimeError("a mistake in the code")


def test_a_mistake_in_a_transform_keeps_its_traceback(dataset):
    with pytest.raises(RuntimeError, match="in _fail"):
        list(itertools.islice(batches_of(dataset, _fail), 2))
