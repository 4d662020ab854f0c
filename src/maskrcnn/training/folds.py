"""Cross-validation of few pictures: a network for each fold, validated on it, and a final one of all.

Each is an ordinary training: ``fold1`` … in the output folder have the ``split.json`` that holds their fold
back. The final network has no validation pictures, and what is expected of it is what its sisters reached.
"""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

from rich.table import Table

from maskrcnn.data.dataset import Dataset
from maskrcnn.data.folder import has_split
from maskrcnn.data.loader import PictureError
from maskrcnn.data.split import Subset, draw_folds
from maskrcnn.evaluation.coco import Metrics
from maskrcnn.evaluation.run import evaluate
from maskrcnn.evaluation.tables import TITLES
from maskrcnn.files import read_json, write_json
from maskrcnn.messages import Faults
from maskrcnn.plain import from_plain, to_plain
from maskrcnn.predict.predictor import Predictor
from maskrcnn.results.result import Result
from maskrcnn.training.checkpoint import load
from maskrcnn.training.loop import resume_training, train
from maskrcnn.training.saver import LAST
from maskrcnn.training.schedule import completed
from maskrcnn.training.settings import Settings
from maskrcnn.training.setup import SPLIT, read_data, refuse_to_overwrite, split_as_kept
from maskrcnn.weights.model_checkpoint import read_model

FOLDS = "folds.json"
SUMMARY = "cross_validation.json"


@dataclass(frozen=True)
class TrainArguments:
    """Arguments of `train` that all trainings of a cross-validation have in common."""

    settings: Settings
    recipe: str | None = None
    recipe_arguments: Mapping[str, Any] = field(default_factory=dict)
    init: str | Path | None = None
    synonyms: Mapping[str, str] = field(default_factory=dict)

    @property
    def keywords(self) -> dict[str, Any]:
        """The arguments by their names."""
        return {part.name: getattr(self, part.name) for part in fields(self)}


class FoldsRun(NamedTuple):
    """What a cross-validation keeps in ``folds.json``, so that it can go on after an interruption."""

    folds: list[list[int]]  # ids of the pictures of each
    arguments: TrainArguments
    asked: dict[str, Any]  # words of the command that began it


def train_folds(
    data: str | Path,
    count: int,
    arguments: TrainArguments,
    *,
    output: str | Path = "runs/train",
    device: str = "auto",
    asked: Mapping[str, Any] | None = None,
) -> Path:
    """Train a network for each of `count` folds and a final one; return the path of the final checkpoint.

    Every picture is validated once, by the network that did not learn from it. Pictures that belong together
    are in one fold (see `draw_folds`). `output` gets the final network, ``folds.json``, ``fold1`` … with the
    other trainings, and ``cross_validation.json`` (see `summary_of`). `asked` is kept in ``folds.json``.

    Raises what `train` raises, and ValueError for data that have validation pictures or too few groups of
    pictures, and in one of several processes.
    """
    output = Path(output)
    refuse_to_overwrite(output)
    check_folds(data, count, output)
    dataset, _ = read_data(data)
    drawn = draw_folds(dataset, count, arguments.settings.seed)
    folds = [dataset.image_ids[fold].tolist() for fold in drawn]
    output.mkdir(parents=True, exist_ok=True)
    write_json(output / FOLDS, {"folds": folds, "arguments": to_plain(arguments), "asked": dict(asked or {})})
    return resume_folds(data, output=output, device=device)


def resume_folds(data: str | Path, *, output: str | Path = "runs/train", device: str = "auto") -> Path:
    """Resume the cross-validation of ``folds.json`` in `output` where it stopped; return as `train_folds`.

    Trainings that are complete are not touched, one that was interrupted resumes (see `resume_training`).
    Raises what `train_folds` raises.
    """
    output = Path(output)
    run, (dataset, _) = read_folds(output), read_data(data)
    print(f"{len(run.folds)} folds of {len(dataset)} pictures, then a final network of all", flush=True)
    folders = [output / f"fold{number}" for number in range(1, len(run.folds) + 1)]
    for folder, fold in zip(folders, run.folds, strict=True):
        if not (folder / SPLIT).exists():
            folder.mkdir(exist_ok=True)
            write_json(folder / SPLIT, {"validation": fold})
        _finish(data, run.arguments, folder, device)
    settings = run.arguments.settings
    alone = replace(settings, logging=replace(settings.logging, eval_every=0))
    _finish(data, replace(run.arguments, settings=alone), output, device)
    summary = summary_of(dataset, folders, device)
    write_json(output / SUMMARY, summary)
    _print(summary)
    return output / LAST


def check_folds(data: str | Path, count: int, output: Path) -> None:
    """Raise Faults where a cross-validation makes no sense, or `output` holds one already."""
    faults = []
    if (output / FOLDS).exists():
        faults.append(
            f"{output} holds a cross-validation: resume it with --resume, or choose another --output"
        )
    if count < 2:
        faults.append(f"--folds must be at least 2, not {count}")
    if has_split(data, "val"):
        faults.append(f"--folds is for data without validation pictures, but {data} has some")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        faults.append("--folds trains in one process; start it without torchrun")
    if faults:
        raise Faults(faults)


def read_folds(output: Path) -> FoldsRun:
    """Read ``folds.json`` in the folder of a cross-validation. Raises FileNotFoundError and ValueError."""
    file = output / FOLDS
    values = read_json(file)
    try:
        arguments = values["arguments"]
        settings = from_plain(Settings, arguments["settings"])
        arguments = TrainArguments(**{**arguments, "settings": settings})
        return FoldsRun(values["folds"], arguments, values["asked"])
    except (TypeError, KeyError, ValueError) as error:
        raise ValueError(f"{file}: not the folds of this version of maskrcnn: {error}") from None


def _finish(data: str | Path, arguments: TrainArguments, folder: Path, device: str) -> None:
    """Bring one training to its end."""
    last = folder / LAST
    if is_finished(last):
        return
    print(f"\n{folder}", flush=True)
    try:
        if last.exists():
            resume_training(data, output=folder, device=device)
        else:
            train(data, output=folder, device=device, **arguments.keywords)
    except (KeyboardInterrupt, SystemExit):
        output = folder if (folder / FOLDS).exists() else folder.parent
        words = ["maskrcnn", "train", str(data), "--output", str(output), "--resume"]
        print(f"to resume the cross-validation: {shlex.join(words)}", flush=True)
        raise


def is_finished(last: Path) -> bool:
    """Return whether a training has made all of its steps."""
    if not last.exists():
        return False
    run = load(last)
    return completed(run.settings.length, run.step, run.elapsed) >= run.plateau.end


def summary_of(dataset: Dataset, folders: Sequence[Path], device: str) -> dict[str, Any]:
    """Return the AP of the last checkpoint of each fold on its pictures, and of all predictions together.

    ``{"pictures": [per fold], "folds": {kind: [AP per fold]}, "mean": {kind: AP}, "spread": {kind: standard
    deviation}, "pooled": metrics}``. AP is in percent, None where a fold has no objects. The best checkpoints
    would flatter: they were chosen by the same pictures, and the final network has none to be chosen by.
    """
    results: dict[int, Result | PictureError] = {}
    measured: list[Metrics] = []
    pictures = []
    for folder in folders:
        trained = read_model(folder / LAST)
        predictor = Predictor.from_checkpoint(trained, device=device)
        _, fold = split_as_kept(dataset, folder / SPLIT)
        own = [result for _, result in predictor.predict_many(fold.paths, score=0.0)]
        measured.append(evaluate(own, fold, max_detections=trained.max_detections).metrics)
        results |= dict(zip(fold.image_ids.tolist(), own, strict=True))
        pictures.append(len(fold))
    validated = Subset(dataset, [i for i, id_ in enumerate(dataset.image_ids.tolist()) if id_ in results])
    in_order = [results[id_] for id_ in validated.image_ids.tolist()]
    pooled = evaluate(in_order, validated, max_detections=trained.max_detections).metrics
    by_fold = {kind: [metrics[kind]["AP"] for metrics in measured] for kind in pooled}
    known = {kind: [ap for ap in aps if ap is not None] for kind, aps in by_fold.items()}
    return {
        "pictures": pictures,
        "folds": by_fold,
        "mean": {kind: mean(aps) if aps else None for kind, aps in known.items()},
        "spread": {kind: stdev(aps) if len(aps) > 1 else None for kind, aps in known.items()},
        "pooled": pooled,
    }


def _print(summary: Mapping[str, Any]) -> None:
    from rich import print as print_table

    kinds = list(summary["folds"])
    table = Table("", *(f"AP {TITLES[kind]}" for kind in kinds), title="cross-validation")
    for number, count in enumerate(summary["pictures"], 1):
        aps = [summary["folds"][kind][number - 1] for kind in kinds]
        table.add_row(f"fold {number}, {count} pictures", *map(_text, aps))
    spread = [f"{_text(summary['mean'][kind])} ± {_text(summary['spread'][kind])}" for kind in kinds]
    table.add_row("mean and standard deviation", *spread)
    table.add_row("all pictures together", *(_text(summary["pooled"][kind]["AP"]) for kind in kinds))
    print_table(table)


def _text(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.1f}"
