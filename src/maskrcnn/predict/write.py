"""Predictions of many pictures as files: overlays, and COCO's result list."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import UInt8
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Column, Table
from torch import Tensor

from maskrcnn.data.pictures import read_picture
from maskrcnn.files import json_list, replacing, write_json
from maskrcnn.predict.predictor import DEFAULT_SCORE, Predictor
from maskrcnn.results.draw import draw
from maskrcnn.results.result import Result
from maskrcnn.types import Metadata
from maskrcnn.weights.describe import format_thresholds

_LISTED = 40  # pictures that the table names one by one


@dataclass(frozen=True)
class Summary:
    """What `write_predictions` has written."""

    counts: tuple[tuple[str, Counter[str]], ...]  # path and objects per class of each picture that was read
    failures: tuple[str, ...]  # a sentence for each picture that was skipped

    def table(self) -> Table:
        """Return the counts as a table for rich: a row for each of the first pictures, and the total."""
        table = Table(Column("picture", overflow="fold"), "objects", "classes")
        for name, count in self.counts[:_LISTED]:
            table.add_row(escape(name), str(count.total()), escape(_per_class(count)))
        if len(self.counts) > _LISTED:
            table.add_row(f"… and {len(self.counts) - _LISTED} more")
        table.add_section()
        total = sum((count for _, count in self.counts), Counter[str]())
        table.add_row(f"{len(self.counts)} pictures", str(total.total()), escape(_per_class(total)))
        return table

    def print(self) -> None:
        """Print the table, and to stderr the pictures that were skipped."""
        Console().print(self.table())
        for failure in self.failures:
            Console(stderr=True).print(f"skipped {failure}", markup=False, highlight=False, soft_wrap=True)


def describe_thresholds(metadata: Metadata, score: float | None = None) -> str:
    """Return in one line which objects `Predictor.predict` returns with this `score`, and why."""
    if score is not None:
        return f"objects of score {score:g} or more: --score"
    if not metadata.score_thresholds:
        return f"objects of score {DEFAULT_SCORE:g} or more: the default of networks without score thresholds"
    thresholds = format_thresholds(metadata)
    return f"objects of score {thresholds} or more: best F1 on the validation pictures (--score overrides)"


def _per_class(count: Counter[str]) -> str:
    return ", ".join(f"{number} {name}" for name, number in count.most_common())


def write_predictions(
    predictor: Predictor, paths: Sequence[Path], output: Path, score: float | None = None
) -> Summary:
    """Predict pictures and write the results into a folder, with a progress bar and a closing table.

    Each picture becomes an overlay, ``<stem>.png``, numbered where stems repeat. ``results.json`` is COCO's
    result list of all objects, in the data set's own category ids; ``images.json`` has the `images` (id,
    file_name as given, height, width, overlay) and `categories` that it refers to. The two appear when all
    pictures are done. `score` is as in `Predictor.predict`. A picture that cannot be read is reported and
    skipped. Raises OSError where a file cannot be written.
    """
    output.mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    counts, failures = [], []
    progress = track(paths, "predicting", console=Console(stderr=True))
    with json_list(output / "results.json") as append:
        for path, overlay in zip(progress, _overlay_names(paths, output), strict=True):
            try:
                pixels = _read(path, predictor.model.in_channels)
            except (OSError, ValueError) as error:
                failures.append(str(error))
                continue
            result = predictor.predict(pixels, score)
            _write_overlay(output / overlay, pixels, result)
            height, width = result.size_hw
            image = {"id": len(images) + 1, "file_name": str(path), "height": height, "width": width}
            images.append({**image, "overlay": overlay})
            for entry in result.to_coco(len(images)):
                append(entry)
            counts.append((str(path), Counter(result.names)))
    names = zip(predictor.metadata.category_ids, predictor.metadata.class_names, strict=True)
    categories = [{"id": id_, "name": name} for id_, name in names]
    write_json(output / "images.json", {"images": images, "categories": categories})
    summary = Summary(tuple(counts), tuple(failures))
    summary.print()
    return summary


def _read(path: Path, channels: int) -> UInt8[Tensor, "C H W"]:
    """Read a picture once for both: in colours for the overlay, and with the network's channels if more."""
    return read_picture(path, max(channels, 3))


def _overlay_names(paths: Sequence[Path], output: Path) -> Iterator[str]:
    """Yield an overlay's name for each path: all unique on any file system, and none that of a picture."""
    taken = {path.name.casefold() for path in paths if path.parent.resolve() == output.resolve()}
    for path in paths:
        numbered = (f"{path.stem}-{number}.png" for number in itertools.count(2))
        candidates = itertools.chain([f"{path.stem}.png"], numbered)
        name = next(name for name in candidates if name.casefold() not in taken)
        taken.add(name.casefold())
        yield name


def _write_overlay(path: Path, pixels: UInt8[Tensor, "C H W"], result: Result) -> None:
    with replacing(path) as unfinished:
        draw(pixels, result).save(unfinished, format="PNG")
