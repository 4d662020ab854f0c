"""A training that plans itself, beside hand-tuned settings, torchvision's network and YOLO26n-seg.

python benchmarks/plans.py DATA… --minutes 15 [--contestants plan,hand,…] [--cores 2] [--seeds 1]

One after another, on the same cores, each contestant trains on each data set (folders with a train and a val
split) for the same minutes. Our evaluator judges its detections of the validation pictures, with a cap on the
detections of a picture that the data need. Complete results are kept as files, and a contestant that has one
does not run again, so that a long table can be built in several sittings. The table has the error of one that
fails; the next sitting tries it again.
"""

import argparse
import json
import os
import shutil
import statistics
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from contestants import CONTESTANTS, Contestant, Task, results_of
from rich.console import Console
from rich.table import Table

from maskrcnn.bench.timing import machine
from maskrcnn.data.dataset import Dataset
from maskrcnn.data.folder import read_split
from maskrcnn.evaluation.coco import coco_metrics
from maskrcnn.files import cache_folder, write_json

_COLUMNS = ("contestant", "mask AP", "of hand", "AP50", "AP75", "box AP", "steps", "minutes", "GB")
_FIGURES = ("AP", "AP50", "AP75", "APs", "APm", "APl")


def main() -> None:
    given = parse()
    pin(given.cores)
    for data in given.data:
        train, validation = (read_split(data, split) for split in ("train", "val"))
        cap, truth = detections_needed(train, validation), validation.truth()
        rows: dict[str, list[dict[str, Any]]] = {name: [] for name in given.contestants}
        for seed in range(given.seeds):
            for name in given.contestants:
                label = f"{data.resolve().name}_{given.minutes:g}min_{given.cores}cores_{name}_seed{seed}"
                file, work = given.results / f"{label}.json", given.runs / label
                task = Task(data, given.minutes, given.cores, seed, given.init, cap, work, given.environment)
                rows[name].append(run_once(file, name, CONTESTANTS[name], task, truth))
        Console().print(table(f"{data}, {given.minutes:g} minutes, at most {cap} detections", rows))
        for name, figures in ((name, one) for name, seeds in rows.items() for one in seeds if "error" in one):
            print(f"{name} failed: {figures['error']}")


def parse() -> argparse.Namespace:
    results = Path(__file__).parent / "results/plans"
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("data", type=Path, nargs="+", metavar="DATA", help="folder of a data set")
    parser.add_argument("--minutes", type=float, default=15, help="of training (default: 15)")
    parser.add_argument(
        "--contestants",
        type=chosen,
        default=chosen("plan,hand,torchvision,yolo"),
        help=f"some of {','.join(CONTESTANTS)} (default: plan,hand,torchvision,yolo)",
    )
    parser.add_argument("--cores", type=int, default=2, help="for each contestant (default: 2)")
    parser.add_argument("--seeds", type=int, default=1, help="trainings of each (default: 1)")
    parser.add_argument("--init", help="weights to start from, of all contestants but YOLO")
    parser.add_argument("--results", type=Path, default=results, help=f"folder for the figures ({results})")
    parser.add_argument(
        "--runs", type=Path, default=Path("runs/plans"), help="folder for runs and detections (runs/plans)"
    )
    parser.add_argument(
        "--environment",
        type=Path,
        default=cache_folder() / "benchmarks",
        help="virtual environment of torchvision and Ultralytics, 6 GB (default: in the user's cache)",
    )
    return parser.parse_args()


def chosen(text: str) -> list[str]:
    """Parse names of contestants; argparse reports anything else."""
    names = text.split(",")
    if unknown := set(names) - set(CONTESTANTS):
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: expected some of {', '.join(CONTESTANTS)}")
    return names


def pin(cores: int) -> None:
    """Keep this process, and all that it starts, on so many cores."""
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < cores:
        raise SystemExit(f"--cores {cores}: this process may use {len(allowed)}")
    os.sched_setaffinity(0, allowed[:cores])
    torch.set_num_threads(cores)


def detections_needed(*splits: Dataset) -> int:
    """Return COCO's 100 detections of a picture, or 50, 100, … more where a picture has more objects."""
    most = max(len(split.objects(index).labels) for split in splits for index in range(len(split)))
    return max(100, 50 * -(-most // 50))


def run_once(
    file: Path, name: str, contestant: Contestant, task: Task, truth: dict[str, Any]
) -> dict[str, Any]:
    """Return the figures of a contestant from its file; where it has none, let it run."""
    if not file.is_file() or "error" in json.loads(file.read_text()):
        print(f"{task.data}: {name}, seed {task.seed}", flush=True)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, run(name, contestant, task, truth), indent=1)
    figures: dict[str, Any] = json.loads(file.read_text())
    return figures


def run(name: str, contestant: Contestant, task: Task, truth: dict[str, Any]) -> dict[str, Any]:
    """Train and judge a contestant; return its figures, or the error that ended it."""
    shutil.rmtree(task.work, ignore_errors=True)
    task.work.mkdir(parents=True)
    about = {"machine": machine(torch.device("cpu")), "data": task.data.resolve().name, "contestant": name}
    about |= {"minutes": task.minutes, "cores": task.cores, "seed": task.seed, "cap": task.cap}
    try:
        trained = contestant(task)
        metrics = judge(truth, results_of(task.work), task.cap)
    except Exception as error:
        traceback.print_exc()
        return {**about, "error": f"{type(error).__name__}: {error}"}
    return {**about, **trained._asdict(), "metrics": metrics}


def judge(
    truth: dict[str, Any], detections: Sequence[dict[str, Any]], cap: int
) -> dict[str, dict[str, float]]:
    """Return COCO's metrics of boxes and masks over all classes; 0 for all where nothing was detected."""
    metrics = coco_metrics(truth, detections, ("bbox", "segm"), cap) if detections else {}
    return {
        kind: {name: metrics.get(kind, {}).get(name) or 0.0 for name in _FIGURES} for kind in ("bbox", "segm")
    }


def table(title: str, rows: dict[str, list[dict[str, Any]]]) -> Table:
    """Return a row for each contestant, with means over its seeds, and the lowest and highest mask AP."""
    shown = Table(*_COLUMNS, title=title, title_justify="left")
    hand = mask_aps(rows.get("hand", []))
    for name, seeds in rows.items():
        whole = [figures for figures in seeds if "error" not in figures]
        if not whole:
            shown.add_row(name, "failed")
            continue
        aps = mask_aps(whole)
        spread = f" ({min(aps):.1f} … {max(aps):.1f})" if len(aps) > 1 else ""
        share = f"{statistics.mean(aps) / statistics.mean(hand):.2f}" if hand and any(hand) else ""
        shown.add_row(
            name,
            f"{statistics.mean(aps):.1f}{spread}",
            share,
            *(
                f"{mean(whole, 'metrics', *path):.1f}"
                for path in (("segm", "AP50"), ("segm", "AP75"), ("bbox", "AP"))
            ),
            f"{mean(whole, 'steps'):.0f}",
            f"{mean(whole, 'seconds') / 60:.1f}",
            f"{mean(whole, 'peak_bytes') / 2**30:.2f}",
        )
    return shown


def mask_aps(seeds: Sequence[dict[str, Any]]) -> list[float]:
    return [figures["metrics"]["segm"]["AP"] for figures in seeds if "error" not in figures]


def mean(seeds: Sequence[dict[str, Any]], *path: str) -> float:
    """Return the mean of a number that lies at `path` in the figures of each seed."""
    values = []
    for value in seeds:
        for name in path:
            value = value[name]
        values.append(value)
    return statistics.mean(values)


if __name__ == "__main__":
    main()
