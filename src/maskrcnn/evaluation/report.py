"""An evaluation as one HTML page that needs nothing else: numbers, curves, errors, and the worst pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

import numpy as np

from maskrcnn.evaluation import charts, errors
from maskrcnn.evaluation.coco import Metrics
from maskrcnn.evaluation.errors import Entry, Errors, ImageMatches, Quality
from maskrcnn.evaluation.side_by_side import NEITHER, UNFOUND, WRONG, pair_colour, side_by_side
from maskrcnn.files import replacing

_TITLES = {"bbox": "boxes", "segm": "masks", "keypoints": "keypoints"}
_COLUMNS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
_USUAL_THRESHOLD = 0.5  # of `maskrcnn predict`
_CURVES = len(charts.COLOURS)  # classes with a curve of their own
_MATRIX = 12  # classes up to which the whole confusion is shown
_PAIRS = 20  # most frequent confusions listed where there are more
_PICTURES = 12  # worst pictures drawn
_LISTED = 20  # classes up to which tables stand open

_STYLE = """
body { font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; color: #1a1a1a;
  background: #fff; max-width: 1000px; margin: 32px auto 64px; padding: 0 20px; }
h1 { font-size: 26px; line-height: 1.25; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 19px; margin: 44px 0 8px; padding-top: 12px; border-top: 1px solid #d8d8d8; }
h3 { font-size: 15px; margin: 20px 0 4px; }
p { margin: 6px 0; max-width: 72ch; }
.quiet, figcaption { color: #555; }
.warning { border-left: 4px solid #d55e00; background: #fdf3ec; padding: 8px 14px; margin: 16px 0; }
table { border-collapse: collapse; margin: 10px 0; font-variant-numeric: tabular-nums; }
th, td { padding: 3px 12px; text-align: right; border-bottom: 1px solid #ececec; font-weight: normal; }
thead th { color: #555; border-bottom: 1px solid #999; vertical-align: bottom; }
th:first-child, td.text { text-align: left; overflow-wrap: anywhere; min-width: 5em; }
th:first-child { padding-left: 0; }
.kinds th { white-space: nowrap; }
tr.all > * { font-weight: 600; }
td.bar { min-width: 160px; text-align: left; }
td.bar i { display: block; height: 12px; background: #d55e00; }
.matrix td, .matrix thead th { min-width: 44px; max-width: 120px; overflow-wrap: anywhere; }
.pair { display: flex; flex-wrap: wrap; gap: 12px 24px; }
figure { margin: 10px 0 26px; }
figure .pair > div { flex: 1 1 380px; max-width: 480px; min-width: 0; }
figure img { display: block; width: 100%; height: auto; background: #eee; }
svg { max-width: 100%; height: auto; }
svg text { font-size: 12px; fill: #444; }
svg .halo { paint-order: stroke; stroke: #fff; stroke-width: 4px; }
.key { display: inline-block; margin-right: 18px; }
.key i { display: inline-block; width: 20px; height: 3px; vertical-align: middle; margin-right: 6px; }
@media (max-width: 720px) {
  .kinds .bar { display: none; }
  td, th { padding: 3px 7px; }
  th:first-child { padding-left: 0; }
}
summary { cursor: pointer; margin: 8px 0; }
"""


class _Judged(NamedTuple):
    """What all sections of the page are made from."""

    names: list[str]
    scenes: list[ImageMatches]
    matches: list[np.ndarray]  # at the overlap from which on a detection is right
    threshold: float
    quality: Quality
    mistakes: list[Errors]
    found_any: bool  # whether the threshold is the best one: something right was found


def write_report(
    folder: Path,
    truth: Entry,
    detections: Sequence[Entry],
    metrics: Metrics,
    *,
    picture_of: Callable[[int], Path],
    max_detections: int,
    capacity: int | None = None,
    title: str = "Evaluation",
) -> Path:
    """Write `report.html` into a folder, whole or not at all, and return its path.

    `truth` and `detections` are in COCO's form and `metrics` are what `coco_metrics` says of them. Detections
    are matched by masks where the metrics have masks, else by boxes. `picture_of` leads from an image id to
    the picture's file. `max_detections` is the cap on each class that the metrics were computed with,
    `capacity` how many detections in all the network can give in a picture (None: the same number).

    Raises ValueError for detections in pictures that the truth does not list, and as `read_picture` does for
    pictures that are to be drawn.
    """
    by_masks = "segm" in metrics
    judged = _judge(truth, detections, by_masks, max_detections)
    capped = errors.capped_pictures(detections, max_detections, capacity)
    strangers = len(detections) - _listed_count(truth, detections)
    sections = [
        _head(title, judged, len(detections), by_masks),
        _cap_warning(capped, len(judged.scenes), max_detections, capacity),
        _strangers_warning(strangers),
        _precision_section(metrics),
        _curves_section(judged, by_masks),
        _scores_section(judged),
        _kinds_section(judged),
        _confusion_section(judged),
        _pictures_section(judged, truth, detections, picture_of, by_masks),
    ]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "report.html"
    with replacing(path) as unfinished:
        unfinished.write_text(_page(title, "\n".join(sections)), encoding="utf-8")
    return path


def _judge(truth: Entry, detections: Sequence[Entry], by_masks: bool, cap: int) -> _Judged:
    scenes = errors.match_images(truth, detections, by_masks=by_masks, max_detections=cap)
    matches = [errors.match(scene) for scene in scenes]
    best = errors.best_threshold(scenes, matches)
    threshold = _USUAL_THRESHOLD if best is None else best
    return _Judged(
        names=[str(category["name"]) for category in errors.categories_of(truth)],
        scenes=scenes,
        matches=matches,
        threshold=threshold,
        quality=errors.quality(scenes, matches, threshold),
        mistakes=[errors.classify_errors(scene.above(threshold)) for scene in scenes],
        found_any=best is not None,
    )


def _listed_count(truth: Entry, detections: Sequence[Entry]) -> int:
    listed = {category["id"] for category in truth["categories"]}
    return sum(detection["category_id"] in listed for detection in detections)


def _page(title: str, body: str) -> str:
    # the policy keeps whatever a hostile name might smuggle in from loading or running anything
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _head(title: str, judged: _Judged, detections: int, by_masks: bool) -> str:
    objects = int(errors.object_counts(judged.scenes, len(judged.names)).sum())
    facts = [
        _many(len(judged.scenes), "picture"),
        _many(objects, "object"),
        _many(len(judged.names), "class", "classes"),
        _many(detections, "detection"),
    ]
    crowds = sum(int(scene.crowd.sum()) for scene in judged.scenes)
    apart = f" {_many(crowds, 'region')} of crowds count neither as found nor as missed." if crowds else ""
    how = "masks" if by_masks else "boxes"
    return (
        f"<h1>{escape(title)}</h1>\n<p class='quiet'>{' · '.join(facts)}. Detections and objects are matched "
        f"by the overlap (IoU) of their {how}, from {errors.LEAST_IOU} on if nothing else is said.{apart}</p>"
    )


def _many(count: int, one: str, more: str | None = None) -> str:
    return f"{count:,} {one if count == 1 else more or one + 's'}"


def _cap_warning(capped: int, pictures: int, max_detections: int, capacity: int | None) -> str:
    if not capped:
        return ""
    limits = f"{capacity or max_detections} detections in all, or more than {max_detections} of one class"
    return (
        f'<p class="warning"><b>The cap on detections was reached in {capped:,} of '
        f"{_many(pictures, 'picture')}</b>: {limits}. What lies beyond is cut off, so the cap bounds "
        "every AP on this page from above.</p>"
    )


def _strangers_warning(count: int) -> str:
    if not count:
        return ""
    what = _many(count, "detection is", "detections are")
    return f'<p class="warning">{what} of classes that the data set does not list, and not counted.</p>'


def _precision_section(metrics: Metrics) -> str:
    parts = ["<h2>Average precision</h2>"]
    parts.append(
        "<p class='quiet'>COCO's, in percent: AP is the mean over IoU 0.50 to 0.95, AP50 and AP75 at one; "
        "s, m and l are objects under 32², up to 96² and over 96² px². A dash: there is nothing to find.</p>"
    )
    for kind, part in metrics.items():
        rows = [_row("all classes", part, ' class="all"')]
        rows += [_row(name, numbers) for name, numbers in part["per_class"].items()]
        made = _table(["", *_COLUMNS], rows if len(rows) > 2 else rows[:1])
        several = len(part["per_class"]) > _LISTED
        summary = _table(["", *_COLUMNS], rows[:1]) if several else ""
        parts.append(f"<h3>{_TITLES.get(kind, escape(kind)).capitalize()}</h3>")
        parts.append(summary + _folded(f"all {len(rows) - 1} classes", made) if several else made)
    return "\n".join(parts)


def _row(name: str, numbers: dict[str, float | None], style: str = "") -> str:
    cells = [numbers.get(column) for column in _COLUMNS]
    texts = ["-" if cell is None else f"{cell:.1f}" for cell in cells]
    return f"<tr{style}><th>{escape(name)}</th>{''.join(f'<td>{text}</td>' for text in texts)}</tr>"


def _table(columns: Iterable[str], rows: Iterable[str], style: str = "") -> str:
    """A table of finished rows; what stands in `columns` is text."""
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    return f"<table{style}><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _folded(summary: str, inside: str) -> str:
    return f"<details><summary>{escape(summary)}</summary>{inside}</details>"


def _curves_section(judged: _Judged, by_masks: bool) -> str:
    counts = errors.object_counts(judged.scenes, len(judged.names))
    shown = [int(label) for label in np.argsort(-counts, kind="stable") if counts[label]][:_CURVES]
    if not shown:
        return "<h2>Precision and recall</h2><p>There are no objects to find.</p>"
    plots = []
    for iou in (0.5, 0.75):
        curves = errors.precision_recall(
            judged.scenes, [errors.match(scene, iou) for scene in judged.scenes], len(judged.names)
        )
        lines = _lines(judged.names, curves, shown)
        heading = f"<h3>IoU {iou:g}: AP{100 * iou:.0f} {100 * np.nanmean(curves):.1f}</h3>"
        plots.append(f"<div>{heading}{charts.curves(lines, 'recall', 'precision')}</div>")
    more = int((counts > 0).sum()) - len(shown)
    rest = f" The {len(shown)} classes with the most objects have curves of their own." if more else ""
    keys = "".join(
        f'<span class="key"><i style="background:{x.colour}"></i>{escape(x.name)}</span>' for x in lines
    )
    how = "masks" if by_masks else "boxes"
    return (
        f"<h2>Precision and recall</h2><p class='quiet'>Each curve runs from the surest detections, at the "
        f"left, to all of them; the area under it is its AP, of {how}.{rest}</p><p>{keys}</p>"
        f'<div class="pair">{"".join(plots)}</div>'
    )


def _lines(names: Sequence[str], curves: np.ndarray, shown: Sequence[int]) -> list[charts.Line]:
    several = int((~np.isnan(curves[:, 0])).sum()) > 1
    lines = [
        charts.Line(names[label], curves[label], colour)
        for label, colour in zip(shown, charts.COLOURS, strict=False)
    ]
    mean = [charts.Line("mean over classes", np.nanmean(curves, axis=0), charts.INK, 3.0)]
    return lines + mean if several else lines


def _scores_section(judged: _Judged) -> str:
    right, wrong = errors.score_histogram(judged.scenes, judged.matches)
    best = judged.quality
    if not judged.found_any:
        text = f"<p>No detection is right: no threshold is best. What follows takes {_USUAL_THRESHOLD}.</p>"
    else:
        text = (
            f"<p><b>The best threshold is {best.threshold:.3f}</b>: F1, the harmonic mean of precision and "
            "recall of all classes together, is highest there. What follows is about what scores as much.</p>"
        )
    usual = errors.quality(judged.scenes, judged.matches, _USUAL_THRESHOLD)
    rows = [
        f"<tr><th>{name}</th><td>{q.threshold:.3f}</td><td>{q.precision:.3f}</td><td>{q.recall:.3f}</td>"
        f"<td>{q.f1:.3f}</td></tr>"
        for name, q in (("best", best), ("predict's default", usual))[not judged.found_any :]
    ]
    keys = "".join(
        f'<span class="key"><i style="background:{colour};height:10px"></i>{count:,} {name}</span>'
        for name, colour, count in (
            ("right", charts.RIGHT, right.sum()),
            ("wrong", charts.WRONG, wrong.sum()),
        )
    )
    table = _table(["threshold", "score", "precision", "recall", "F1"], rows)
    chart = charts.histogram(right, wrong, best.threshold if judged.found_any else None)
    return f'<h2>Scores</h2>{text}<div class="pair"><div><p>{keys}</p>{chart}</div><div>{table}</div></div>'


def _kinds_section(judged: _Judged) -> str:
    counts = sum((m.by_kind() for m in judged.mistakes), Counter[str]())
    most = max(counts.values(), default=1)
    rows = [
        f'<tr><th>{kind}</th><td>{counts[kind]:,}</td><td class="bar">'
        f'<i style="width:{160 * counts[kind] / most:.0f}px"></i></td>'
        f'<td class="text">{escape(meaning)}</td></tr>'
        for kind, meaning in errors.KINDS.items()
    ]
    table = _table(["", "count", "", ""], rows, ' class="kinds"')
    return (
        f"<h2>Kinds of error</h2><p class='quiet'>{_at(judged)} TIDE's kinds (Bolya et al., 2020), counted "
        f"only. Where several fit, the first of duplicate, class, localisation, both counts.</p>{table}"
    )


def _at(judged: _Judged) -> str:
    return f"At the {'best ' if judged.found_any else ''}threshold, {judged.threshold:.3f}."


def _confusion_section(judged: _Judged) -> str:
    counts = errors.confusion([s.above(judged.threshold) for s in judged.scenes], len(judged.names))
    said, are = [*judged.names, "missed"], [*judged.names, "background"]
    text = (
        f"<h2>Confusion between classes</h2><p class='quiet'>{_at(judged)} Objects go to detections of "
        "their class first; what is left on both sides is matched whatever the class. Missed: no detection; "
        "background: no object, or one that is taken.</p>"
    )
    if len(judged.names) <= _MATRIX:
        return text + _matrix(counts, said, are)
    return text + _most_confused(counts, said, are)


def _matrix(counts: np.ndarray, said: Sequence[str], are: Sequence[str]) -> str:
    totals = np.maximum(counts.sum(0), 1)
    rows = []
    for i, name in enumerate(said):
        cells = [_cell(int(n), n / totals[j], i == j) for j, n in enumerate(counts[i])]
        if i == len(said) - 1:
            cells[-1] = "<td></td>"  # nothing that was found to be nothing cannot be counted
        rows.append(f"<tr><th>{escape(name)}</th>{''.join(cells)}</tr>")
    note = "<p class='quiet'>Rows: what was said. Columns: what it is. Colours: shares of a column.</p>"
    return _table(["", *are], rows, ' class="matrix"') + note


def _cell(count: int, share: float, right: bool) -> str:
    tint = "0,114,178" if right else "213,94,0"
    return f'<td style="background:rgba({tint},{0.55 * share:.2f})">{count:,}</td>' if count else "<td>0</td>"


def _most_confused(counts: np.ndarray, said: Sequence[str], are: Sequence[str]) -> str:
    classes = counts[:-1, :-1].copy()
    np.fill_diagonal(classes, 0)
    objects = np.maximum(counts.sum(0), 1)
    order = np.argsort(-classes, axis=None, kind="stable")[:_PAIRS]
    pairs = [(i, j) for i, j in zip(*np.unravel_index(order, classes.shape), strict=True) if classes[i, j]]
    rows = [
        f'<tr><th>{escape(are[j])}</th><td class="text">{escape(said[i])}</td><td>{classes[i, j]:,}</td>'
        f"<td>{100 * classes[i, j] / objects[j]:.0f} %</td></tr>"
        for i, j in pairs
    ]
    per_class = [
        f"<tr><th>{escape(name)}</th><td>{counts[:, i].sum():,}</td><td>{counts[i, i]:,}</td>"
        f"<td>{classes[:, i].sum():,}</td><td>{counts[-1, i]:,}</td><td>{counts[i, -1]:,}</td></tr>"
        for i, name in enumerate(said[:-1])
    ]
    columns = ["", "objects", "right", "taken for others", "missed", "found in background"]
    most = (
        _table(["is", "was taken for", "times", "of its objects"], rows)
        if rows
        else "<p>No two were confused.</p>"
    )
    return f"<h3>The most confused</h3>{most}" + _folded("every class", _table(columns, per_class))


def _pictures_section(
    judged: _Judged,
    truth: Entry,
    detections: Sequence[Entry],
    picture_of: Callable[[int], Path],
    by_masks: bool,
) -> str:
    figures = []
    for i in worst(judged.mistakes)[:_PICTURES]:
        scene, path = judged.scenes[i].above(judged.threshold), picture_of(judged.scenes[i].image_id)
        drawn = side_by_side(path, scene, judged.mistakes[i], truth, detections, by_masks=by_masks)
        figures.append(_figure(path.name, scene, judged.mistakes[i], drawn))
    listed = "".join(figures) or "<p>No picture has an error.</p>"
    return (
        f"<h2>The worst pictures</h2><p class='quiet'>{_at(judged)} Those with the most errors, first. "
        "Errors are named beside the class. Small objects go without a name where names would cover each "
        "other.</p>"
        f"<p>{_colours()}</p>{listed}"
    )


def _colours() -> str:
    meanings = {
        "an object and the detection that found it: one colour, green to violet": pair_colour(0),
        "a wrong detection": WRONG,
        "an object that no detection found": UNFOUND,
        "a crowd, and what lies in it": NEITHER,
    }
    return "".join(
        f'<span class="key"><i style="background:rgb{ink};height:10px"></i>{meaning}</span>'
        for meaning, ink in meanings.items()
    )


def worst(mistakes: Sequence[Errors]) -> list[int]:
    """Return the places of the pictures that have errors, those with the most first."""
    totals = [m.by_kind().total() for m in mistakes]
    return sorted((i for i, total in enumerate(totals) if total), key=lambda i: -totals[i])


def _figure(name: str, scene: ImageMatches, wrong: Errors, drawn: tuple[str, str]) -> str:
    counts = wrong.by_kind()
    kinds = ", ".join(f"{counts[kind]} {kind}" for kind in errors.KINDS if counts[kind])
    objects, right = int((~scene.crowd).sum()), int((errors.match(scene) >= 0).sum())
    text = f"{_many(objects, 'object')}, {right} found. {_many(counts.total(), 'error')}: {kinds}"
    pair = "".join(
        f'<div><div class="quiet">{side}</div><img src="{address}" alt="{side}"></div>'
        for side, address in zip(("truth", "found"), drawn, strict=True)
    )
    caption = f"<figcaption><b>{escape(name)}</b> · {text}</figcaption>"
    return f'<figure>{caption}<div class="pair">{pair}</div></figure>'
