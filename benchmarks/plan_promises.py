"""What a plan says about a training beside the training, and how long it takes to look at many annotations.

python benchmarks/plan_promises.py DATA [--steps 60] [--cores 2] [--json FILE]

`maskrcnn plan` measures steps of the training, so its time for a step and its memory are what it promises;
both must be within 15 % of the training's. 100,000 annotations are to be read and measured in 5 s.
"""

import json
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import contest
import numpy as np
from contestants import Task, measured
from PIL import Image
from plans import pin
from rich import print as print_table
from rich.table import Table

from maskrcnn.data.folder import read_whole
from maskrcnn.files import cache_folder, write_json
from maskrcnn.plan.fingerprint import fingerprint

_TOLERANCE = 0.15
_LONGEST = 5.0  # seconds to read and measure the annotations
_WARM_UP = 5  # steps of a training that are not timed


class Promise(NamedTuple):
    """A number that was planned, or a bound, and what came out."""

    what: str
    planned: float
    measured: float
    kept: bool


def main() -> None:
    parser = contest.arguments("a plan's promises beside the training", repeats=1)
    parser.add_argument("data", type=Path, metavar="DATA", help="folder of a data set")
    parser.add_argument("--steps", type=int, default=60, help="of the training (default: 60)")
    parser.add_argument("--annotations", type=int, default=100_000, help="(default: 100,000)")
    given = parser.parse_args()
    pin(given.threads)
    with tempfile.TemporaryDirectory() as folder:
        promises = training_promises(given.data, given.steps, given.threads, Path(folder))
        promises += reading_promises(write_many(Path(folder) / "many", given.annotations))
    shown = Table("promise", "planned", "measured", "kept")
    for one in promises:
        shown.add_row(one.what, f"{one.planned:.3g}", f"{one.measured:.3g}", "yes" if one.kept else "no")
    print_table(shown)
    contest.write(given.json, {one.what: one._asdict() for one in promises})


def training_promises(data: Path, steps: int, cores: int, work: Path) -> list[Promise]:
    """Plan a training of some steps without an evaluation, run it, and compare time and memory."""
    task = Task(data, 0.0, cores, 0, None, 0, work, cache_folder())
    plan, run = work / "plan.json", work / "run"
    sets = ["--set", f"length.steps={steps}", "logging.eval_every=0"]
    planned_bytes = measured(_command("plan", str(data), *sets, "--output", str(plan)), task)
    text = (work / "log.txt").read_text()
    if not (found := re.search(r"steps of ([\d.]+) s", text)):
        raise SystemExit(f"maskrcnn plan does not say how long a step takes: {text[:300]}")
    train = _command("train", str(data), "--plan", str(plan), "--output", str(run))
    peak_bytes = measured(train, task)
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    times = np.diff([record["seconds"] for record in records if "lr" in record])[_WARM_UP:]
    return [
        _within("seconds of a step", float(found[1]), statistics.mean(times.tolist())),
        _within("peak memory, GB", planned_bytes / 2**30, peak_bytes / 2**30),
    ]


def _command(*arguments: str) -> Sequence[str]:
    return [sys.executable, "-m", "maskrcnn", *arguments]


def _within(what: str, planned: float, came: float) -> Promise:
    return Promise(what, planned, came, abs(planned / came - 1) <= _TOLERANCE)


def reading_promises(data: Path) -> list[Promise]:
    """Time how long it takes to read the annotations of a data set, and to make its fingerprint."""
    start, busy = time.perf_counter(), time.process_time()
    dataset = read_whole(data)
    read = time.perf_counter() - start
    count = fingerprint(dataset).objects.count
    seconds, busy = time.perf_counter() - start, time.process_time() - busy
    print(
        f"{count:,} annotations: read in {read:.1f} s, fingerprint in {seconds - read:.1f} s; "
        f"{busy:.1f} s of a processor, the rest is other work of this machine"
    )
    return [Promise(f"seconds to look at {count:,} annotations", _LONGEST, seconds, seconds <= _LONGEST)]


def write_many(folder: Path, annotations: int, pictures: int = 1000) -> Path:
    """Write a training split with polygons of 12 points, equally many in each picture of 640 x 480 px."""
    generator = np.random.default_rng(0)
    angles = np.arange(12) * (np.pi / 6)
    circle = np.stack([np.cos(angles), np.sin(angles)], 1)
    for created in (folder / "annotations", folder / "train"):
        created.mkdir(parents=True)
    width, height = 640, 480
    noise = generator.integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    Image.fromarray(noise).resize((width, height)).save(folder / "train/0.jpg")
    images = [{"id": 0, "file_name": "0.jpg", "width": width, "height": height}]
    for number in range(1, pictures):
        (folder / f"train/{number}.jpg").symlink_to("0.jpg")
        images.append({**images[0], "id": number, "file_name": f"{number}.jpg"})
    entries = []
    for number in range(annotations):
        radius = generator.uniform(5, 40)
        x, y = generator.uniform(radius, [width - radius, height - radius])
        ring = circle * radius * generator.uniform(0.7, 1, (12, 1)) + [x, y]
        (x0, y0), (x1, y1) = ring.min(0).tolist(), ring.max(0).tolist()
        entries.append(
            {
                "id": number + 1,
                "image_id": number % pictures,
                "category_id": 1 + number % 10,
                "iscrowd": 0,
                "area": radius**2,
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "segmentation": [ring.round(2).ravel().tolist()],
            }
        )
    categories = [{"id": id_, "name": f"class {id_}"} for id_ in range(1, 11)]
    content = {"images": images, "annotations": entries, "categories": categories}
    write_json(folder / "annotations/instances_train.json", content)
    return folder


if __name__ == "__main__":
    main()
