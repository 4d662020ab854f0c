"""The page of a training: made from the files of its run, whether it has ended, was stopped, or goes on."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from maskrcnn.evaluation.report import precision_tables
from maskrcnn.evaluation.tables import TITLES
from maskrcnn.files import replacing
from maskrcnn.html import jpeg_data_url, render
from maskrcnn.messages import counted, first_few
from maskrcnn.plain import changed_values, format_value, values_of
from maskrcnn.training.checkpoint import Checkpoint, load
from maskrcnn.training.curves import Curve, Record, curve_charts, curves_of, read_records, words
from maskrcnn.training.schedule import completed
from maskrcnn.training.settings import Settings
from maskrcnn.training.snapshots import FOLDER, read_snapshots

PAGE = "report.html"
EVALUATION = "evaluation"  # folder of the report on the best evaluation
_LONGEST = 300  # letters of a text from a file
_MOST_FINDINGS, _MOST_EXAMPLES, _MOST_LINES = 60, 5, 200


def write_report(folder: Path) -> Path:
    """Write `report.html` into the folder of a run, from its files alone; return its path.

    Files that are missing or damaged are left out. Raises OSError where the page cannot be written; an
    existing page then stays.
    """
    records = read_records(folder / "metrics.jsonl")
    run, best = _checkpoint(folder / "last.pt"), _best(records)
    trained = _checkpoint(folder / "best.pt") or run
    curves = curves_of(records)
    text = render(
        "training.html",
        title=f"Training {folder.resolve().name}",
        status=_status(run),
        facts=_facts(run, best, curves),
        setbacks=[_text(record["setback"]) for record in records if "setback" in record],
        charts_of_run=curve_charts(curves),
        snapshots=_snapshots(folder / FOLDER, records),
        evaluated=best.sentence if best else "",
        has_evaluation=(folder / EVALUATION / "report.html").is_file(),
        precision=precision_tables(best.metrics) if best else [],
        thresholds=_thresholds(trained),
        findings=_findings(_read_json(folder / "check.json")),
        plan=_plan(_read_json(folder / "plan.json"), run),
    )
    path = folder / PAGE
    with replacing(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")
    return path


def refresh_report(folder: Path, print: Callable[[str], None]) -> None:
    """Write the page of a run. What prevents this is printed: a page must not end a run."""
    try:
        write_report(folder)
    except Exception as error:
        print(f"{folder / PAGE} could not be written: {error}")


@contextmanager
def reported(folder: Path, print: Callable[[str], None]) -> Iterator[None]:
    """Write the page of a run when it ends, whatever ends it."""
    try:
        yield
    finally:
        refresh_report(folder, print)


# --- the files ---


def _read_json(path: Path) -> Any:
    with suppress(OSError, ValueError, RecursionError):
        return json.loads(path.read_text(encoding="utf-8", errors="replace"))
    return None


def _checkpoint(path: Path) -> Checkpoint | None:
    with suppress(OSError, ValueError):
        return load(path)
    return None


def _text(value: Any) -> str:
    """Return a value from a file as a short text."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "…"


# --- the evaluation ---


class Best(NamedTuple):
    """The best evaluation of a run."""

    step: int
    ap: float  # percent, of masks, or of boxes where there are no masks
    kind: str  # "masks" or "boxes"
    metrics: dict[str, Any]
    group: str  # which weights were evaluated; empty: those of the training

    @property
    def sentence(self) -> str:
        """Where the metrics come from."""
        weights = f" of the {self.group} weights" if self.group else ""
        return f"The best evaluation{weights}, after {self.step:,} steps."


def _best(records: Sequence[Record]) -> Best | None:
    """Return the evaluation with the highest AP, the first of equals."""
    candidates = [one for record in records for one in _evaluations(record)]
    return max(candidates, key=lambda one: one.ap, default=None)


def _evaluations(record: Record) -> Iterator[Best]:
    """Yield the evaluations in a record: its own, and further ones under a name, such as "average"."""
    groups = {"": record} | {name: value for name, value in record.items() if isinstance(value, dict)}
    for group, values in groups.items():
        metrics = {kind: numbers for kind, numbers in values.items() if _is_metrics(numbers)}
        kind = next((kind for kind in ("segm", "bbox") if kind in metrics), None)
        if kind:
            ap = metrics[kind].get("AP") or 0.0
            yield Best(record["step"], ap, TITLES[kind], metrics, words(group))


def _is_metrics(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("per_class"), dict)


def _thresholds(run: Checkpoint | None) -> list[tuple[str, float]]:
    if run is None or not run.trained.score_thresholds:
        return []
    return list(zip(map(_text, run.trained.class_names), run.trained.score_thresholds, strict=False))


def _snapshots(folder: Path, records: Sequence[Record]) -> list[tuple[str, str, list[tuple[str, str]]]]:
    """Return name, ground truth and captioned drawings of each picture; the images as data: URLs."""
    aps = {one.step: one.ap for record in records for one in _evaluations(record) if not one.group}
    pictures = []
    for kept in read_snapshots(folder):
        with suppress(OSError):  # a damaged file
            drawings = [
                (f"step {step:,}" + (f" · AP {aps[step]:.1f}" if step in aps else ""), _embedded(path))
                for step, path in kept.detections.items()
            ]
            pictures.append((_text(kept.name), _embedded(kept.truth), drawings))
    return pictures


def _embedded(path: Path) -> str:
    with Image.open(path, formats=("JPEG",)) as image:
        return jpeg_data_url(image)


# --- the run ---


def _status(run: Checkpoint | None) -> str:
    if run is None:
        return "The run has no checkpoint."
    share = completed(run.settings.length, run.step, run.elapsed)
    progress = "completed" if share >= 1 else f"{share:.0%} of the planned length"
    return (
        f"{run.trained.recipe}, {progress}. The network predicts {_counted_classes(run.trained.class_names)}."
    )


def _counted_classes(names: Sequence[str]) -> str:
    return f"{counted(len(names), 'class')}: {first_few([_text(name) for name in names], 8)}"


def _facts(run: Checkpoint | None, best: Best | None, curves: Mapping[str, Curve]) -> list[tuple[str, str]]:
    """Return the main numbers with their meanings."""
    facts = []
    if best:
        facts.append((f"{best.ap:.1f}", f"AP of {best.kind}, after step {best.step:,}"))
        ap50 = best.metrics["segm" if best.kind == "masks" else "bbox"].get("AP50")
        facts += [(f"{ap50:.1f}", f"AP50 of {best.kind}")] if isinstance(ap50, int | float) else []
    steps = max((step for curve in curves.values() for step in curve), default=run.step if run else 0)
    seconds = max([*curves.get("seconds", {}).values(), run.elapsed if run else 0.0])
    facts += [(f"{steps:,}", "steps"), (str(timedelta(seconds=round(seconds))), "of training")]
    if run:
        facts.append((f"{run.settings.step.pictures:,}", "pictures a step"))
    return facts


class PlanOfRun(NamedTuple):
    """A table of settings: name, value, reason."""

    title: str
    introduction: str
    lines: list[tuple[str, str, str]]


def _plan(content: Any, run: Checkpoint | None) -> PlanOfRun:
    """Return the plan as the run has it now, or the settings of a run without a plan."""
    settings = values_of(run.settings) if run else {}
    now = {name: format_value(value) for name, value in settings.items()}
    lines = content.get("settings") if isinstance(content, dict) else None
    if isinstance(lines, list):
        planned = [line for line in lines[:_MOST_LINES] if isinstance(line, dict) and "name" in line]
        return PlanOfRun(
            "Plan",
            "What the training chose for these data, this machine and this time, and why.",
            [_plan_line(line, now) for line in planned],
        )
    changed = changed_values(run.settings, Settings()) if run else {}
    arguments = run.trained.arguments if run else {}
    return PlanOfRun(
        "Settings",
        "The run has no plan. Settings that are not listed have their defaults.",
        [(name, _text(format_value(value)), "") for name, value in {**arguments, **changed}.items()],
    )


def _plan_line(line: Mapping[str, Any], now: Mapping[str, str]) -> tuple[str, str, str]:
    name, value, reason = (_text(line.get(key, "")) for key in ("name", "value", "reason"))
    if now.get(name, value) == value:
        return name, value, reason
    return name, now[name], f"changed when the training was resumed; the plan had {value}: {reason}"


class FoundFault(NamedTuple):
    """A kind of fault of the data."""

    kind: str
    severity: str
    number: int
    mend: str
    examples: list[str]


def _findings(content: Any) -> list[FoundFault] | None:
    """Return what a check of the data found, as `doctor.findings.Report` writes it; None without a check."""
    if isinstance(content, dict):
        content = content.get("findings", content.get("kinds"))
    if not isinstance(content, list):
        return None
    return [_finding(entry) for entry in content[:_MOST_FINDINGS]]


def _finding(entry: Any) -> FoundFault:
    if not isinstance(entry, dict):
        return FoundFault(_text(entry), "", 0, "", [])
    count, examples = entry.get("count"), entry.get("examples")
    return FoundFault(
        kind=_text(entry.get("kind", entry.get("message", "finding"))),
        severity=_text(entry.get("severity", "")),
        number=count if isinstance(count, int) else 0,
        mend=_text(entry.get("mend", "")),
        examples=[_example(one) for one in examples[:_MOST_EXAMPLES]] if isinstance(examples, list) else [],
    )


def _example(entry: Any) -> str:
    """Return an example as one line: its place and its message."""
    if not isinstance(entry, dict):
        return _text(entry)
    where, message = entry.get("where"), _text(entry.get("message", ""))
    if isinstance(where, dict):
        parts = [_text(where["file"])] if where.get("file") else []
        parts += [
            f"{key} {_text(where[key])}" for key in ("image", "annotation") if where.get(key) is not None
        ]
        where = ", ".join(parts)
    return f"{_text(where)}: {message}" if where else message
