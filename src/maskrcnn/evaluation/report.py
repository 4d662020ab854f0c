"""The data of an evaluation's HTML page; html/evaluation.html is its text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from maskrcnn.evaluation import charts, curves
from maskrcnn.evaluation.charts import Key
from maskrcnn.evaluation.coco import Metrics
from maskrcnn.evaluation.coco_format import sorted_categories
from maskrcnn.evaluation.curves import Operating
from maskrcnn.evaluation.errors import (
    ERROR_TYPES,
    Errors,
    classify_errors,
    confusion_matrix,
    count_truncated_images,
)
from maskrcnn.evaluation.image_matches import MIN_IOU, ImageMatches, match_images
from maskrcnn.evaluation.run import Evaluation
from maskrcnn.evaluation.side_by_side import (
    CROWD_COLOUR,
    MISSED_COLOUR,
    WRONG_COLOUR,
    pair_colour,
    side_by_side,
)
from maskrcnn.evaluation.tables import TITLES, by_benchmark
from maskrcnn.files import replacing
from maskrcnn.html import jpeg_data_url, render
from maskrcnn.predict.predictor import DEFAULT_SCORE

_MAX_CURVES = len(charts.COLOURS)
_MAX_MATRIX_CLASSES = 12
_MAX_PAIRS = 20  # of confused classes
_MAX_IMAGES = 12
_MAX_OPEN_ROWS = 20  # of a table that is not folded


class Analysis(NamedTuple):
    """What all sections of the page are made from."""

    class_names: list[str]
    images: list[ImageMatches]
    pooled: curves.Pool
    threshold: float  # of the score; wrong detections below it are no errors
    is_best: bool  # whether it maximises F1, which needs a right detection
    errors: list[Errors]  # of the detections above the threshold, for each image

    def above(self) -> list[ImageMatches]:
        """Return the images with the detections above the threshold."""
        return [image.above(self.threshold) for image in self.images]


def write_report(
    folder: Path,
    evaluation: Evaluation,
    *,
    image_paths: Mapping[int, Path],
    capacity: int | None = None,
    title: str = "Evaluation",
) -> Path:
    """Write `report.html` into a folder and return its path. On failure, an existing page is left unchanged.

    Detections are matched by masks if the evaluation has metrics of masks, else by boxes. `image_paths` maps
    image ids to files. `capacity` is the maximum number of detections that the network returns for an image
    (None: the evaluation's `max_detections`).

    Raises ValueError as `check_entries` does, and as `read_picture` does for the images that are drawn.
    """
    by_masks = "segm" in evaluation.metrics
    analysis = analyse(evaluation, by_masks)
    text = render(
        "evaluation.html",
        title=title,
        matched_by="masks" if by_masks else "boxes",
        min_iou=MIN_IOU,
        analysis=analysis,
        overview=_overview(evaluation, analysis),
        limit=_limit(evaluation, capacity),
        precision=precision_tables(evaluation.metrics),
        curves=_curves(analysis),
        scores=_scores(analysis),
        error_types=_error_types(analysis.errors),
        confusion=_confusion(analysis),
        legend_of_images=_LEGEND,
        worst=_worst(analysis, evaluation, image_paths, by_masks),
    )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "report.html"
    with replacing(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")
    return path


def analyse(evaluation: Evaluation, by_masks: bool) -> Analysis:
    """Match detections and objects, find the best score threshold, and classify the errors above it."""
    truth, detections = evaluation.truth, evaluation.detections
    class_names = [str(category["name"]) for category in sorted_categories(truth)]
    images = match_images(truth, detections, by_masks=by_masks, max_detections=evaluation.max_detections)
    pooled = curves.pool(images, len(class_names))
    best = curves.best_threshold(pooled)
    threshold = DEFAULT_SCORE if best is None else best
    errors = [classify_errors(image.above(threshold)) for image in images]
    return Analysis(class_names, images, pooled, threshold, best is not None, errors)


def _overview(evaluation: Evaluation, analysis: Analysis) -> dict[str, int]:
    listed = {category["id"] for category in evaluation.truth["categories"]}
    return {
        "images": len(analysis.images),
        "objects": int(analysis.pooled.object_counts.sum()),
        "crowds": sum(int(image.crowd.sum()) for image in analysis.images),
        "classes": len(analysis.class_names),
        "detections": len(evaluation.detections),
        "unlisted": sum(entry["category_id"] not in listed for entry in evaluation.detections),
    }


def _limit(evaluation: Evaluation, capacity: int | None) -> dict[str, int]:
    """Return in how many images a limit on the number of detections was reached, and the limits."""
    per_class = evaluation.max_detections
    return {
        "images": count_truncated_images(evaluation.detections, per_class, capacity),
        "per_image": capacity or per_class,
        "per_class": per_class,
    }


class PrecisionTable(NamedTuple):
    """The metrics of one kind: a row over all classes, and one for each class."""

    title: str
    columns: list[str]
    summary: list[float | None]
    classes: list[tuple[str, list[float | None]]]
    folded: bool


def precision_tables(metrics: Metrics) -> list[PrecisionTable]:
    """Return a table for each kind of metrics; html/precision.html draws them."""
    return [
        _precision_table(f"{TITLES[kind].capitalize()}{rules}", numbers)
        for benchmark, kinds in by_benchmark(metrics).items()
        for rules in [f", by the rules of {benchmark}" if benchmark else ""]
        for kind, numbers in kinds.items()
    ]


def _precision_table(title: str, numbers: dict[str, Any]) -> PrecisionTable:
    columns = [name for name in numbers if name != "per_class"]
    per_class = numbers["per_class"]
    rows = [(name, [values.get(column) for column in columns]) for name, values in per_class.items()]
    classes = rows if len(rows) > 1 else []  # one class has the values of all classes
    return PrecisionTable(
        title, columns, [numbers[name] for name in columns], classes, len(classes) > _MAX_OPEN_ROWS
    )


def _curves(analysis: Analysis) -> dict[str, Any]:
    """Return precision-recall curves at two IoUs: of the most frequent classes, and their mean."""
    counts = analysis.pooled.object_counts
    labels = [int(label) for label in np.argsort(-counts, kind="stable") if counts[label]][:_MAX_CURVES]
    plots: list[dict[str, Any]] = []
    legend: list[Key] = []
    for iou in (0.5, 0.75) if labels else ():
        values = curves.precision_recall(curves.pool(analysis.images, len(counts), iou))
        lines = _class_curves(analysis.class_names, values, labels)
        legend = [Key(line.colour, line.name) for line in lines]
        ap = 100 * float(np.nanmean(values))
        plots.append({"iou": iou, "ap": ap, "chart": charts.curves_chart(lines, "recall", "precision")})
    return {"plots": plots, "legend": legend, "shown": len(labels), "classes": int((counts > 0).sum())}


def _class_curves(names: Sequence[str], values: np.ndarray, labels: Sequence[int]) -> list[charts.Curve]:
    lines = [
        charts.Curve(names[label], values[label], colour)
        for label, colour in zip(labels, charts.COLOURS, strict=False)
    ]
    if (~np.isnan(values[:, 0])).sum() > 1:
        lines.append(charts.Curve("mean over classes", np.nanmean(values, axis=0), charts.INK, 3.0))
    return lines


def _scores(analysis: Analysis) -> dict[str, Any]:
    """Return the histogram of scores, and the quality at the best and at the default threshold."""
    right, wrong = curves.score_histogram(analysis.pooled)
    thresholds = {"best": analysis.threshold} if analysis.is_best else {}
    thresholds["default of networks without score thresholds"] = DEFAULT_SCORE
    rows: dict[str, Operating] = {
        name: curves.operating_point(analysis.pooled, threshold) for name, threshold in thresholds.items()
    }
    return {
        "legend": [
            Key(charts.RIGHT, f"{right.sum():,} right"),
            Key(charts.WRONG, f"{wrong.sum():,} wrong"),
        ],
        "chart": charts.histogram_chart(right, wrong, analysis.threshold if analysis.is_best else None),
        "rows": rows,
    }


class ErrorType(NamedTuple):
    """How often an error occurs; `share` is relative to the most frequent type."""

    name: str
    meaning: str
    number: int
    share: float


def _error_types(errors: Sequence[Errors]) -> list[ErrorType]:
    counts = sum((error.counts() for error in errors), Counter[str]())
    most = max(counts.values(), default=1)
    return [ErrorType(name, text, counts[name], counts[name] / most) for name, text in ERROR_TYPES.items()]


def _confusion(analysis: Analysis) -> dict[str, Any]:
    """Return the whole confusion matrix of few classes, or the most confused pairs of many."""
    counts = confusion_matrix(analysis.above(), len(analysis.class_names))
    if len(analysis.class_names) <= _MAX_MATRIX_CLASSES:
        return {"matrix": _matrix(counts, analysis.class_names), "pairs": [], "classes": []}
    wrong = counts[:-1, :-1].copy()
    np.fill_diagonal(wrong, 0)
    return {
        "matrix": [],
        "pairs": _most_confused(wrong, counts.sum(0), analysis.class_names),
        "classes": [
            (name, [counts[:, i].sum(), counts[i, i], wrong[:, i].sum(), counts[-1, i], counts[i, -1]])
            for i, name in enumerate(analysis.class_names)
        ],
    }


class Cell(NamedTuple):
    """A number of the confusion matrix, and its share of the column."""

    number: int
    share: float
    is_right: bool


def _matrix(counts: np.ndarray, class_names: Sequence[str]) -> list[tuple[str, list[Cell]]]:
    totals = np.maximum(counts.sum(0), 1)
    rows = []
    for i, name in enumerate([*class_names, "missed"]):
        cells = [Cell(int(count), count / totals[j], i == j) for j, count in enumerate(counts[i])]
        rows.append((name, cells))
    rows[-1][1].pop()  # what is neither an object nor a detection cannot be counted
    return rows


def _most_confused(
    wrong: np.ndarray, objects: np.ndarray, class_names: Sequence[str]
) -> list[tuple[str, str, int, float]]:
    """Return class of the object, predicted class, count, and share of the objects, most frequent first."""
    order = np.argsort(-wrong, axis=None, kind="stable")[:_MAX_PAIRS]
    return [
        (
            class_names[gt],
            class_names[predicted],
            int(wrong[predicted, gt]),
            wrong[predicted, gt] / objects[gt],
        )
        for predicted, gt in zip(*np.unravel_index(order, wrong.shape), strict=True)
        if wrong[predicted, gt]
    ]


class WorstImage(NamedTuple):
    """An image with errors: its counts, and its ground truth and detections, drawn."""

    name: str
    objects: int
    right: int
    errors: dict[str, int]
    drawings: dict[str, str]  # by caption, as data: URLs


_LEGEND = [
    Key(f"rgb{pair_colour(0)}", "an object and its detection: the same colour, green to violet"),
    Key(f"rgb{WRONG_COLOUR}", "a wrong detection"),
    Key(f"rgb{MISSED_COLOUR}", "a missed object"),
    Key(f"rgb{CROWD_COLOUR}", "a crowd region, or a detection inside one"),
]


def _worst(
    analysis: Analysis, evaluation: Evaluation, image_paths: Mapping[int, Path], by_masks: bool
) -> list[WorstImage]:
    images = []
    for i in worst(analysis.errors)[:_MAX_IMAGES]:
        image, errors = analysis.images[i].above(analysis.threshold), analysis.errors[i]
        path = image_paths[image.image_id]
        drawings = side_by_side(
            path, image, errors, evaluation.truth, evaluation.detections, by_masks=by_masks
        )
        images.append(_worst_image(path.name, image, errors, drawings))
    return images


def _worst_image(
    name: str, image: ImageMatches, errors: Errors, drawings: Sequence[Image.Image]
) -> WorstImage:
    counts = errors.counts()
    return WorstImage(
        name,
        objects=int((~image.crowd).sum()),
        right=int((image.match() >= 0).sum()),
        errors={name: counts[name] for name in ERROR_TYPES if counts[name]},
        drawings=dict(zip(("ground truth", "detections"), map(jpeg_data_url, drawings), strict=True)),
    )


def worst(errors: Sequence[Errors]) -> list[int]:
    """Return the indices of the images that have errors, those with the most first."""
    totals = [error.counts().total() for error in errors]
    return sorted((i for i, total in enumerate(totals) if total), key=lambda i: -totals[i])
