"""Rows of the paper's tables, trained, judged, and set beside the published figures."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

from rich.box import SIMPLE
from rich.table import Table as Printed

from maskrcnn.data.folder import read_split
from maskrcnn.evaluation.cityscapes import is_cityscapes
from maskrcnn.evaluation.coco import Metrics
from maskrcnn.evaluation.intervals import Interval, difference
from maskrcnn.evaluation.run import evaluate
from maskrcnn.files import replacing, write_json
from maskrcnn.paper.page import page
from maskrcnn.paper.tables import METRICS, Row, Table, cells
from maskrcnn.plain import changed_values, format_value, values_of
from maskrcnn.predict.predictor import Predictor
from maskrcnn.predict.write import write_predictions
from maskrcnn.recipes import FORMS
from maskrcnn.training.loop import resume_training, train
from maskrcnn.training.settings import Settings
from maskrcnn.training.setup import open_split
from maskrcnn.weights.model_checkpoint import ModelCheckpoint, read_model

# Section 3.1, "Training": 16 pictures a step, the rate divided by 10 after 120,000 of 160,000 steps. The
# paper says nothing of a warm-up: it is that of Goyal et al. (2017), with as many steps for every row.
FULL = Settings.of(steps=160_000, batch_size=16, lr=0.02, decay_at=(0.75,), warmup_steps=1000, eval_every=0)
# For hundreds of pictures and a machine without a GPU.
SMALL = Settings.of(
    steps=600,
    batch_size=4,
    algorithm="adamw",
    lr=0.001,
    weight_decay=0.01,
    decay="cosine",
    short_sides=(256,),
    long_side=512,
    eval_every=0,  # a row is judged once, when it is trained
    log_every=50,
    workers=1,
)
# What may change from one call to the next: no figure comes from it.
_NO_FIGURE = {
    *("pictures.workers", "logging.log_every", "logging.save_every", "logging.eval_every"),
    "logging.validation_loss",
}


def settings_of(table: Table, row: Row, scale: Literal["full", "small"]) -> Settings:
    """Return the paper's own schedule for a row of a table, or the small one."""
    return SMALL if scale == "small" else FULL.replaced(**dict(table.schedule + row.schedule))


IMAGENET = "imagenet"  # stands for the ImageNet weights of a row's own body
_IMAGENET = {
    "resnet50": "torchvision/resnet50",
    "resnet101": "torchvision/resnet101",
    "resnext101": "torchvision/resnext101_64x4d",
    "resnet18": "torchvision/resnet18",
    "resnet34": "torchvision/resnet34",
    "mobilenet": "torchvision/mobilenet_v2",
}
_INDENT = "\N{EM SPACE}"
_SHOWN = 4  # pictures of each row in the page


class Run(NamedTuple):
    """A row, trained with one seed and judged."""

    row: Row
    seed: int
    folder: Path
    metrics: Metrics
    detections: list[dict[str, Any]]
    seconds_per_picture: float


class Report(NamedTuple):
    """What `run_table` leaves: a table to print, the figures as JSON, a page with pictures."""

    printed: Printed
    figures: Path
    page: Path


def run_table(
    table: Table,
    data: str | Path,
    output: Path,
    *,
    settings: Callable[[Row], Settings],
    seeds: int = 1,
    init: str | None = None,
    options: dict[str, Any] | None = None,
) -> Report:
    """Train and judge all rows of a table, with every seed, and report them beside the published figures.

    Rows that `output` holds already are not trained again, and interrupted ones resume. `settings` returns
    those of a row; `init` names initial weights, `IMAGENET` those of each row's body; `options` of the
    recipes hold for every row. Raises what `train` raises, and ValueError for data of another kind.
    """
    truth = validation_truth(table, data)
    runs = [
        run_row(
            row,
            data,
            output / f"{slug(row.name)}-{seed}",
            settings=settings(row).replaced(seed=seed),
            init=init,
            options=options or {},
        )
        for seed in range(seeds)
        for row in table.rows
    ]
    trained = read_model(runs[0].folder / "last.pt")
    ahead = differences(table, runs, truth, trained.max_detections)
    write_json(output / "figures.json", figures(table, runs, ahead, settings))
    with replacing(output / "page.html") as unfinished:
        unfinished.write_text(
            page(table, _lines(table, runs, ahead), _pictures(runs), _schedule_sentence(table, settings)),
            encoding="utf-8",
        )
    return Report(printed(table, runs, ahead), output / "figures.json", output / "page.html")


def validation_truth(table: Table, data: str | Path) -> dict[str, Any]:
    """Return the ground truth of the split "val", checked before anything is trained.

    Raises ValueError if it lacks what the table's figures are about, and FileNotFoundError if there is none.
    """
    kinds = ("instances", "person_keypoints")
    dataset = read_split(data, "val", kinds[::-1] if table.kind == "keypoints" else kinds)
    truth = dataset.truth()
    if table.kind == "cityscapes" and not is_cityscapes(truth):
        raise ValueError(
            f"{data} is not Cityscapes, which this table is about: expected leftImg8bit/ and gtFine/ as they "
            "are downloaded"
        )
    if table.kind == "keypoints" and not dataset.keypoint_names:
        raise ValueError(
            f"{dataset.source} names no keypoints, which this table is about: expected them in its "
            "categories, as in COCO's person_keypoints_val2017.json"
        )
    return truth


def run_row(
    row: Row,
    data: str | Path,
    folder: Path,
    *,
    settings: Settings,
    init: str | None,
    options: dict[str, Any],
) -> Run:
    """Train and judge a row into a folder, unless that is done; an interrupted training resumes.

    Raises ValueError where the folder's row was trained in another way.
    """
    # Nothing is learnt that the row does not name, not even keypoints that the data happen to have.
    branches = {} if row.recipe.endswith(tuple(FORMS)) else {"keypoints": None}
    arguments = {**branches, **options, **row.arguments}
    named = {"recipe": row.recipe, "data": str(Path(data).resolve()), "init": init}
    schedule = {name: value for name, value in values_of(settings).items() if name not in _NO_FIGURE}
    _claim(folder, named | arguments | schedule)
    if not (folder / "judged.json").exists():
        body = row.recipe.partition("_")[0]
        start = row.init or (_IMAGENET.get(body) if init == IMAGENET else init)
        network: dict[str, Any] = {"recipe": row.recipe, "recipe_arguments": arguments}
        if (folder / "last.pt").exists():
            weights = resume_training(data, output=folder, settings=settings, **network)
        else:
            weights = train(data, output=folder, settings=settings, init=start, **network)
        write_json(folder / "judged.json", _evaluated(read_model(weights), data, folder))
    judged = json.loads((folder / "judged.json").read_text(encoding="utf-8"))
    return Run(row, settings.seed, folder, **judged)


def _claim(folder: Path, asked: dict[str, Any]) -> None:
    """Write down in which way a row is trained, or raise ValueError where that was another way."""
    asked, usual = json.loads(json.dumps([asked, values_of(Settings())]))  # as they will be read
    file = folder / "row.json"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_json(file, asked)
        return
    held = json.loads(file.read_text(encoding="utf-8"))
    for name in usual.keys() & asked.keys():
        held.setdefault(name, usual[name])  # a setting that an older version did not have
    others = [name for name in {**held, **asked} if held.get(name) != asked.get(name)]
    if others:
        now, before = (", ".join(f"{name}={way.get(name)}" for name in others) for way in (asked, held))
        raise ValueError(
            f"{folder} was begun with {before}, and now {now} is asked for: "
            "name another --output or remove the folder"
        )


def _evaluated(trained: ModelCheckpoint, data: str | Path, folder: Path) -> dict[str, Any]:
    """Return the fields of a `Run` that come from its evaluation, and draw predictions into the folder."""
    dataset = open_split(data, "val", trained)
    predictor = Predictor.from_checkpoint(trained)
    evaluation = evaluate(predictor, dataset, max_detections=trained.max_detections)
    write_predictions(predictor, dataset.paths[:_SHOWN], folder / "pictures")
    return {name: getattr(evaluation, name) for name in ("metrics", "detections", "seconds_per_picture")}


def differences(
    table: Table, runs: Sequence[Run], truth: dict[str, Any], max_detections: int
) -> dict[str, list[list[Interval]]]:
    """Return by how much the last row is ahead of each other: of each seed, in AP and in AP75."""
    kind = "segm" if table.kind == "cityscapes" else table.kind
    judged = partial(difference, truth, kind=kind, max_detections=max_detections)
    last = {run.seed: run.detections for run in runs if run.row.name == table.rows[-1].name}
    ahead: dict[str, list[list[Interval]]] = {row.name: [] for row in table.rows[:-1]}
    for run in runs:
        if run.row.name in ahead:
            ahead[run.row.name].append(
                [judged(last[run.seed], run.detections, metric=metric) for metric in ("AP", "AP75")]
            )
    return ahead


def figures(
    table: Table,
    runs: Sequence[Run],
    ahead: dict[str, list[list[Interval]]],
    settings: Callable[[Row], Settings],
) -> dict[str, Any]:
    """Return all figures of a table, as JSON has them."""
    return {
        "table": table.title,
        "kind": table.kind,
        "metrics": table.metrics,
        "rows": [
            {
                "name": row.name,
                "recipe": row.recipe,
                "arguments": row.arguments,
                "settings": values_of(settings(row)),
                "published": row.published,
                "ours": [
                    {name: _metric(run, table, name) for name in table.metrics}
                    for run in runs
                    if run.row == row
                ],
                "last_row_ahead": [
                    {name: interval._asdict() for name, interval in zip(("AP", "AP75"), seed, strict=True)}
                    for seed in ahead.get(row.name, ())
                ],
                "seconds_per_picture": [run.seconds_per_picture for run in runs if run.row == row],
            }
            for row in table.rows
        ],
        "cited": dict(table.cited),
    }


def _metric(run: Run, table: Table, name: str) -> float | None:
    """Return a figure over all classes, or the AP of the class of that name; None where there is nothing."""
    numbers = run.metrics[table.kind]
    return numbers.get(name, numbers["per_class"].get(name, {}).get("AP"))


def _lines(table: Table, runs: Sequence[Run], ahead: dict[str, list[list[Interval]]]) -> list[list[str]]:
    """Return the report as rows of text, the names of the columns first.

    For each row of the table: the published figures, ours with each seed, and the lead of the last row.
    """
    names = [name for name in METRICS[:3] if name in table.metrics]
    lines = [["published, ours", *names, "seconds per image"]]
    for row in table.rows:
        lines.append([row.name, *cells(row.published, len(names)), ""])
        leads = ahead.get(row.name, [])
        for i, run in enumerate(run for run in runs if run.row == row):
            ours = [_metric(run, table, name) for name in names]
            seconds = f"{run.seconds_per_picture:.2f}"
            lines.append([f"{_INDENT}seed {run.seed}", *map(_figure, ours), seconds])
            if leads:
                lead = dict(zip(("AP", "AP75"), map(_interval, leads[i]), strict=True))
                lines.append([f"{_INDENT}lead of the last row", *(lead.get(name, "") for name in names), ""])
    return lines + [[name, *cells(cited, len(names)), ""] for name, cited in table.cited]


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _interval(interval: Interval) -> str:
    return f"{interval.difference:+.1f} [{interval.low:.1f}, {interval.high:.1f}]"


def printed(table: Table, runs: Sequence[Run], ahead: dict[str, list[list[Interval]]]) -> Printed:
    """Return the report as a table, to print with rich."""
    columns, *lines = _lines(table, runs, ahead)
    printed_table = Printed(*columns, title=table.title, title_justify="left", box=SIMPLE)
    printed_table.caption = (
        "first line of a row: published; in brackets: 95 % confidence interval over images"
    )
    for line in lines:
        printed_table.add_row(*line)
    return printed_table


def _pictures(runs: Sequence[Run]) -> dict[str, list[Path]]:
    return {run.row.name: sorted((run.folder / "pictures").glob("*.png")) for run in reversed(runs)}


def _schedule_sentence(table: Table, settings: Callable[[Row], Settings]) -> str:
    """Return a sentence with the settings of the rows that are not the paper's."""
    changes: dict[str, None] = {}  # in order, each once
    for row in table.rows:
        changed = changed_values(settings(row), settings_of(table, row, "full"))
        texts = (f"{name.rpartition('.')[2]}={format_value(value)}" for name, value in changed.items())
        changes |= dict.fromkeys(texts)
    return f"Trained as in the paper, but {', '.join(changes)}." if changes else "Trained as in the paper."


def slug(name: str) -> str:
    """Return a row's name as a folder's."""
    return "".join(letter if letter.isalnum() else "-" for letter in name.lower())
