"""The contestants of `plans.py`: each trains on a data set, then predicts its validation pictures.

A contestant is a function of a `Task`. It writes ``results.json``, COCO's list of results in the ids of the
data set, to the task's folder, and returns how it was trained. Ours run in this environment. torchvision and
Ultralytics run in a virtual environment of their own, which is built where it is missing, on a plain copy of
the data (`plain_data.py`). Ultralytics is AGPL: only the script `plain_yolo.py` imports it, in a process of
its own.
"""

import json
import os
import subprocess
import sys
import time
import venv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from filelock import FileLock
from plain_data import usual_long_side, write_plain

from maskrcnn.data.dataset import Dataset
from maskrcnn.data.folder import read_split
from maskrcnn.evaluation.coco_format import Entry, image_sizes, to_rle
from maskrcnn.evaluation.run import detections_to_coco
from maskrcnn.files import write_json
from maskrcnn.predict.load import load

HERE = Path(__file__).parent
RESULTS = "results.json"
PACKAGES = {
    "torchvision": ("torchvision", "pycocotools"),
    "yolo": ("torchvision", "pycocotools", "ultralytics"),
}
_POLLING = 0.5  # seconds between two looks at the memory of a process
_LONGEST_YOLO_SIDE = 640  # px: the default input of Ultralytics


class Hand(NamedTuple):
    """Settings picked by hand for a kind of data: of ours, and of `plain_torchvision.py`."""

    ours: str
    torchvision: str


_SMALL_HEADS = "pyramid.channels=128 masks.channels=128 boxes.samples_per_image=64"
_ADAMW = "optimiser.algorithm=adamw optimiser.weight_decay=0.01 schedule.decay=cosine step.batch_size=4"
_AT_THE_END = "logging.eval_every=none pictures.workers=1"
MANY_SMALL = Hand(  # docs/log.md, 2026-11-22: mask AP 51.3 on nuclei in 15 minutes
    f"--recipe resnet18_fpn --set {_SMALL_HEADS} {_ADAMW} {_AT_THE_END} optimiser.lr=0.002 "
    "schedule.warmup_steps=30 pictures.short_sides=none augmentation.crop=256,256 augmentation.scale=0.6,1.6 "
    "augmentation.jitter=0.3,0.3,0.3 augmentation.flip_vertical=0.5 boxes.hidden=256 proposals.post_nms=500 "
    "proposals.anchor_sizes=8,16,32,64,128 proposals.aspect_ratios=1 boxes.max_detections=400",
    "--crop 256 --smallest-anchor 8",
)
FEW_LARGE = Hand(
    f"--recipe resnet18_fpn --set {_SMALL_HEADS} {_ADAMW} {_AT_THE_END} optimiser.lr=0.002 "
    "schedule.warmup_steps=30 pictures.short_sides=288,320,352 pictures.test_short_side=320 "
    "pictures.long_side=512 augmentation.jitter=0.3,0.3,0.3 boxes.hidden=512 proposals.post_nms=300 "
    "proposals.anchor_sizes=16,32,64,128,256 masks.coding=class_agnostic",
    "--short-side 320 --smallest-anchor 16",
)
PEOPLE = Hand(  # docs/log.md, 2026-11-22: mask AP 25.5 in 16 minutes from an ImageNet MobileNetV2
    f"--recipe mobilenet_v2_fpn --set {_SMALL_HEADS} {_ADAMW} {_AT_THE_END} optimiser.lr=0.0007 "
    "schedule.warmup_steps=50 pictures.short_sides=224,256,288 pictures.test_short_side=256 "
    "pictures.long_side=400 augmentation.jitter=0.2,0.2,0.2 boxes.hidden=512 proposals.post_nms=300 "
    "proposals.anchor_sizes=16,32,64,128,256 boxes.max_detections=20 keypoints.channels=128 "
    "pyramid.norm=group boxes.norm=group masks.norm=group input.mean=127.5,127.5,127.5 "
    "input.std=127.5,127.5,127.5",
    "--short-side 256 --smallest-anchor 16",
)
HAND = {  # by the name of the data's folder; FEW_LARGE for any other
    "nuclei": MANY_SMALL,
    "micro16": MANY_SMALL,
    "powder_sem": MANY_SMALL,
    "aerial_buildings": MANY_SMALL,
    "tiny": MANY_SMALL,
    "person": PEOPLE,
}
README = "--recipe resnet18_fpn --set batch_size=4 short_sides=512"  # all that the README once advised


class Task(NamedTuple):
    """What a contestant is asked for."""

    data: Path
    minutes: float  # of training
    cores: int
    seed: int
    init: str | None  # weights to start from, a file in torchvision's layout or a name; YOLO takes none
    cap: int  # detections of an image that count
    work: Path  # an empty folder for all that a contestant writes
    environment: Path  # virtual environment of torchvision and Ultralytics

    @property
    def hand(self) -> Hand:
        """The settings picked by hand for these data."""
        return HAND.get(self.data.resolve().name, FEW_LARGE)


class Trained(NamedTuple):
    """How a contestant was trained."""

    command: str
    steps: int
    seconds: float  # of training
    torch: str  # version
    peak_bytes: int  # of the process that trains, without those that read pictures


def planned(task: Task) -> Trained:
    return train_ours(task, ["--minutes", f"{task.minutes:g}", *_init(task)])


def hand_tuned(task: Task) -> Trained:
    return train_ours(task, [*_init(task), *task.hand.ours.split(), f"length.time_limit={task.minutes:g}"])


def readme(task: Task) -> Trained:
    return train_ours(task, [*README.split(), f"length.time_limit={task.minutes:g}"])


def train_ours(task: Task, options: Sequence[str]) -> Trained:
    """Run ``maskrcnn train`` with these options; predict the validation pictures with its best checkpoint."""
    run = task.work / "run"
    seed = ["--set", f"seed={task.seed}"] if task.seed else []  # 0 is the default
    arguments = ["train", str(task.data), "--output", str(run), *options, *seed]
    peak = measured([sys.executable, "-m", "maskrcnn", *arguments], task)
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    last = [record for record in records if "lr" in record][-1]
    dataset = read_split(task.data, "val")
    predicted = load(run / "best.pt").predict_many(dataset.paths, score=0.0, workers=1)
    write_json(task.work / RESULTS, detections_to_coco((result for _, result in predicted), dataset)[0])
    return Trained(f"maskrcnn {' '.join(arguments)}", last["step"], last["seconds"], torch.__version__, peak)


def _init(task: Task) -> list[str]:
    return ["--init", task.init] if task.init else []


def torchvision(task: Task) -> Trained:
    """Train torchvision's network in a plain script: ResNet-18, or MobileNetV2 where there is --init."""
    validation = _write_data(task)
    arguments = [*task.hand.torchvision.split(), "--detections", str(task.cap)]
    if task.init not in (None, "none", "auto"):
        arguments += ["--init", task.init]
    return _train_theirs(task, "torchvision", arguments, validation)


def yolo(task: Task) -> Trained:
    """Train Ultralytics' YOLO26n-seg from its configuration file, with its own defaults."""
    validation = _write_data(task)
    side = min(usual_long_side(read_split(task.data, "train")), _LONGEST_YOLO_SIDE)
    arguments = ["--side", str(side), "--detections", str(task.cap)]
    return _train_theirs(task, "yolo", arguments, validation)


def _write_data(task: Task) -> Dataset:
    for split in ("train", "val"):
        write_plain(dataset := read_split(task.data, split), task.work / "data", split)
    return dataset


def _train_theirs(task: Task, name: str, arguments: Sequence[str], validation: Dataset) -> Trained:
    """Run a plain script, and give its results the ids of the data set.

    The script numbers images and classes from 0, and may write run lengths that are not compressed.
    """
    python = environment(task.environment, PACKAGES[name])
    script = str(HERE / f"plain_{name}.py")
    common = ["--minutes", f"{task.minutes:g}", "--threads", str(task.cores), "--seed", str(task.seed)]
    peak = measured([str(python), script, str(task.work), *common, *arguments], task)
    trained = json.loads((task.work / "trained.json").read_text())
    sizes, entries = image_sizes(validation.truth()), []
    for entry in trained.pop("results"):
        entry["image_id"] = int(validation.image_ids[entry["image_id"]])
        entry["category_id"] = validation.category_ids[entry["category_id"]]
        segmentation = to_rle(entry, sizes[entry["image_id"]])
        if isinstance(segmentation["counts"], bytes):
            segmentation["counts"] = segmentation["counts"].decode()
        entries.append({**entry, "segmentation": segmentation})
    write_json(task.work / RESULTS, entries)
    return Trained(f"{Path(script).name} {' '.join([*common, *arguments])}", **trained, peak_bytes=peak)


Contestant = Callable[[Task], Trained]
CONTESTANTS: dict[str, Contestant] = {
    "plan": planned,
    "hand": hand_tuned,
    "torchvision": torchvision,
    "yolo": yolo,
    "readme": readme,
}


def environment(folder: Path, packages: Sequence[str]) -> Path:
    """Return the Python of a virtual environment with these packages, in the versions that pip chooses.

    What is missing is built and installed. Raises RuntimeError, with pip's last line, where that fails.
    """
    python, listed = folder / "bin/python", folder / "installed.json"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        installed = json.loads(listed.read_text()) if listed.is_file() else []
        if missing := [package for package in packages if package not in installed]:
            print(f"installing {', '.join(missing)} into {folder}", flush=True)
            if not installed:
                venv.create(folder, with_pip=True, clear=True)
            pip = [python, "-m", "pip", "install", *missing]
            process = subprocess.run(pip, capture_output=True, text=True)
            if process.returncode:
                raise RuntimeError(f"pip install {' '.join(missing)}: {last_line(process.stderr)}")
            write_json(listed, [*installed, *missing])
    return python


def measured(command: Sequence[str], task: Task) -> int:
    """Run a command with as many threads as cores; return the most bytes that its process had in memory.

    Its output goes to ``log.txt``. Raises RuntimeError, with the log's last line, where it fails.
    """
    threads = {"OMP_NUM_THREADS": str(task.cores), "PYTHONUNBUFFERED": "1"}
    log, peak = task.work / "log.txt", 0
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env=os.environ | threads)
        try:
            while process.poll() is None:
                peak = max(peak, _peak_bytes(process.pid))
                time.sleep(_POLLING)
        finally:
            process.kill()
    if process.returncode:
        raise RuntimeError(f"{log}, exit status {process.returncode}: {last_line(log.read_text())}")
    return peak


def _peak_bytes(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:  # it has just ended
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)


def last_line(text: str) -> str:
    return next((line for line in reversed(text.splitlines()) if line.strip()), "no output")


def results_of(work: Path) -> list[Entry]:
    """Return the detections that a contestant has left in its folder."""
    content: list[dict[str, Any]] = json.loads((work / RESULTS).read_text())
    return content
