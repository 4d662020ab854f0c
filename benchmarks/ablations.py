"""What each feature of a training gains: the plan's settings beside the same with one feature switched.

python benchmarks/ablations.py DATA… --minutes 5 [--seeds 3] [--features EMA,bf16] [--cores 2]
python benchmarks/ablations.py DATA… --steps 600 …

A feature that the plan has is switched off, one that it lacks is switched on; the gain is always that of the
feature. The interval is over validation pictures, by a paired bootstrap of the mean over seeds; the gain of
each seed stands beside it. Results are kept as files, as by `plans.py`, and the table grows by sittings.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from contestants import RESULTS, Task, measured, results_of, train_ours
from plans import detections_needed, pin, run_once
from rich.console import Console
from rich.table import Table

from maskrcnn.cli.arguments import read_sets
from maskrcnn.data.folder import read_split
from maskrcnn.evaluation.intervals import mean_difference
from maskrcnn.files import cache_folder
from maskrcnn.plain import options_of, parse_value
from maskrcnn.training.settings import Settings


class Feature(NamedTuple):
    """What ``--set`` needs to switch a feature on and off."""

    on: list[str]
    off: list[str]


FEATURES = {
    "EMA": Feature(["optimiser.ema=0.999"], ["optimiser.ema=none"]),
    "copy-paste": Feature(["augmentation.copy_paste=0.5"], ["augmentation.copy_paste=0"]),
    "scale jitter": Feature(["augmentation.scale=0.5,2"], ["augmentation.scale=none"]),
    "colour jitter": Feature(["augmentation.jitter=0.3,0.3,0.3"], ["augmentation.jitter=none"]),
    "repeat factor": Feature(["pictures.repeat_threshold=0.1"], ["pictures.repeat_threshold=0"]),
    "bf16": Feature(["step.precision=bf16"], ["step.precision=float32"]),
}
_COLUMNS = ("feature", "the plan", "AP with", "AP without", "gain", "95 % interval", "of each seed", "steps")


class Study(NamedTuple):
    """Trainings on one data set, by one plan and what ``--set`` changes of it."""

    task: Task  # of seed 0
    truth: dict[str, Any]
    seeds: int
    results: Path  # folder for the figures
    plan: Path


class Training(NamedTuple):
    """The figures of a training, and the folder with its detections."""

    figures: dict[str, Any]
    work: Path


def main() -> None:
    given = parse()
    pin(given.cores)
    for data in given.data:
        length = f"{given.steps}steps" if given.steps else f"{given.minutes:g}min"
        study = opened(given, data, f"{data.resolve().name}_{length}_{given.cores}cores")
        planned = trainings(study, "plan", [])
        shown = Table(*_COLUMNS, title=f"{data}, {length}, seeds: {given.seeds}", title_justify="left")
        for name in given.features:
            shown.add_row(name, *compared(study, name, planned))
        Console().print(shown)


def parse() -> argparse.Namespace:
    results = Path(__file__).parent / "results/ablations"
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("data", type=Path, nargs="+", metavar="DATA", help="folder of a data set")
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument("--minutes", type=float, help="of each training")
    length.add_argument("--steps", type=int, help="of each training, instead of minutes")
    parser.add_argument(
        "--features", type=lambda text: text.split(","), default=list(FEATURES), help=", ".join(FEATURES)
    )
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each (default: 3)")
    parser.add_argument("--cores", type=int, default=2, help="(default: 2)")
    parser.add_argument("--init", help="weights to start from")
    parser.add_argument("--results", type=Path, default=results, help=f"folder for the figures ({results})")
    parser.add_argument(
        "--runs", type=Path, default=Path("runs/ablations"), help="folder for runs and detections"
    )
    given = parser.parse_args()
    if unknown := set(given.features) - set(FEATURES):
        parser.error(f"--features {', '.join(unknown)}: expected some of {', '.join(FEATURES)}")
    return given


def opened(given: argparse.Namespace, data: Path, label: str) -> Study:
    """Open a data set and plan its trainings, unless an earlier sitting has planned them."""
    train, validation = (read_split(data, split) for split in ("train", "val"))
    cap, work = detections_needed(train, validation), given.runs / label
    task = Task(data, given.minutes or 0.0, given.cores, 0, given.init, cap, work, cache_folder())
    plan = work / "plan.json"
    if not plan.is_file():
        work.mkdir(parents=True, exist_ok=True)
        if given.steps:
            length = ["--set", f"length.steps={given.steps}"]
        else:
            length = ["--minutes", f"{given.minutes:g}"]
        init = ["--init", given.init] if given.init else []
        command = [sys.executable, "-m", "maskrcnn", "plan", str(data), *length, *init, "--output", str(plan)]
        measured(command, task)
    return Study(task, validation.truth(), given.seeds, given.results, plan)


def trainings(study: Study, name: str, sets: Sequence[str]) -> list[Training]:
    """Train by the plan and `sets`, once for each seed that has no result yet."""
    options = ["--plan", str(study.plan), *(["--init", study.task.init] if study.task.init else [])]
    options += ["--set", *sets] if sets else []
    done = []
    for seed in range(study.seeds):
        work = study.task.work / f"{name.replace(' ', '_')}_seed{seed}"
        file = study.results / f"{study.task.work.name}_{work.name}.json"
        if not (work / RESULTS).is_file():  # the bootstrap needs the detections
            file.unlink(missing_ok=True)
        task = study.task._replace(seed=seed, work=work)
        figures = run_once(file, name, partial(train_ours, options=options), task, study.truth)
        done.append(Training(figures, work))
    return done


def compared(study: Study, name: str, planned: list[Training]) -> list[str]:
    """Train with one feature switched; return the cells of its row."""
    feature = FEATURES[name]
    try:
        has_it = not agrees(study.plan, feature.off)
        other = feature.off if has_it else feature.on
        switched = trainings(study, f"{'without' if has_it else 'with'} {name}", other)
    except ValueError as error:  # a setting that this version does not have
        print(f"{name}: {error}")
        return ["no setting"]
    with_it, without_it = (planned, switched) if has_it else (switched, planned)
    if any("error" in one.figures for one in (*planned, *switched)):
        return ["has it" if has_it else "lacks it", "failed"]
    pairs = [
        (results_of(first.work), results_of(second.work))
        for first, second in zip(with_it, without_it, strict=True)
    ]
    gain = mean_difference(study.truth, pairs, max_detections=study.task.cap)
    gains = [mask_ap(first) - mask_ap(second) for first, second in zip(with_it, without_it, strict=True)]
    return [
        "has it" if has_it else "lacks it",
        *(f"{statistics.mean(map(mask_ap, group)):.1f}" for group in (with_it, without_it)),
        f"{gain.difference:+.1f}",
        f"{gain.low:+.1f} … {gain.high:+.1f}",
        "  ".join(f"{one:+.1f}" for one in gains),
        " / ".join(f"{statistics.mean(steps(group)):.0f}" for group in (with_it, without_it)),
    ]


def agrees(plan: Path, sets: Sequence[str]) -> bool:
    """Return whether a plan has these settings. Raises ValueError for one that does not exist."""
    known, wanted = options_of(Settings()), read_sets(sets)[0]
    lines = {line["name"]: line["value"] for line in json.loads(plan.read_text())["settings"]}
    return all(
        value == (parse_value(lines[name], known[name].kind) if name in lines else known[name].value)
        for name, value in wanted.items()
    )


def mask_ap(training: Training) -> float:
    value: float = training.figures["metrics"]["segm"]["AP"]
    return value


def steps(group: Sequence[Training]) -> list[int]:
    return [training.figures["steps"] for training in group]


if __name__ == "__main__":
    main()
