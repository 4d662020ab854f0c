"""Write predictions."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Column, Table

from maskrcnn.data.pictures import read_picture
from maskrcnn.files import replacing, write_json
from maskrcnn.predict.predictor import PictureError, Predictor
from maskrcnn.results.draw import draw
from maskrcnn.results.result import Result

_LISTED = 40  # pictures that the closing table names one by one


@dataclass(frozen=True)
class Summary:
    """What `write_predictions` did."""

    counts: tuple[
        tuple[str, Counter[str]], ...
    ]  # of each picture that was read: its path, objects of each class
    failures: tuple[str, ...]  # a sentence for each picture that was skipped

    def table(self) -> Table:
        """Return the counts to print with rich: a line for each of the first pictures, and one for all."""
        made = Table(Column("picture", overflow="fold"), "objects", "classes")
        for name, count in self.counts[:_LISTED]:
            made.add_row(escape(name), str(count.total()), escape(_listed(count)))
        if len(self.counts) > _LISTED:
            made.add_row(f"… and {len(self.counts) - _LISTED} more")
        made.add_section()
        total = sum((count for _, count in self.counts), Counter[str]())
        made.add_row(f"{len(self.counts)} pictures", str(total.total()), escape(_listed(total)))
        return made


def _listed(count: Counter[str]) -> str:
    return ", ".join(f"{number} {name}" for name, number in count.most_common())


def write_predictions(
    predictor: Predictor, paths: Sequence[Path], output: Path, score: float = 0.5
) -> Summary:
    """Predict pictures into a folder, with a progress bar, and print what was found.

    Each picture becomes an overlay, ``<stem>.png``, numbered where stems repeat. ``results.json`` has all
    objects as COCO's result list, in the data set's own category ids; ``images.json`` has the `images` (id,
    file_name as given, height, width, overlay) and `categories` that they refer to. A picture that cannot be
    read is named and skipped.
    """
    output.mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    objects: list[dict[str, Any]] = []
    counts, failures = [], []
    predictions = track(
        predictor.predict_many(paths, score=score),
        "predicting",
        total=len(paths),
        console=Console(stderr=True),
    )
    for overlay, (path, result) in zip(_overlay_names(paths, output), predictions, strict=True):
        if isinstance(result, PictureError):
            failures.append(result.message)
            continue
        _write_overlay(output / overlay, path, result, predictor.skeleton)
        height, width = result.size_hw
        image = {"id": len(images) + 1, "file_name": str(path), "height": height, "width": width}
        images.append({**image, "overlay": overlay})
        objects += result.to_coco(len(images))
        counts.append((str(path), Counter(result.names)))
    write_json(output / "results.json", objects)
    names = zip(predictor.category_ids, predictor.class_names, strict=True)
    categories = [{"id": id_, "name": name} for id_, name in names]
    write_json(output / "images.json", {"images": images, "categories": categories})
    summary = Summary(tuple(counts), tuple(failures))
    _tell(summary)
    return summary


def _tell(summary: Summary) -> None:
    Console().print(summary.table())
    for failure in summary.failures:
        Console(stderr=True).print(f"skipped {failure}", markup=False, highlight=False, soft_wrap=True)


def _overlay_names(paths: Sequence[Path], output: Path) -> Iterator[str]:
    """Name an overlay for each path: no two alike on any file system, and none like one of `paths`."""
    taken = {path.name.casefold() for path in paths if path.parent.resolve() == output.resolve()}
    for path in paths:
        numbered = (f"{path.stem}-{number}.png" for number in itertools.count(2))
        candidates = itertools.chain([f"{path.stem}.png"], numbered)
        name = next(name for name in candidates if name.casefold() not in taken)
        taken.add(name.casefold())
        yield name


def _write_overlay(path: Path, picture: Path, result: Result, skeleton: Sequence[tuple[int, int]]) -> None:
    pixels = read_picture(picture).permute(1, 2, 0).contiguous().numpy()
    with replacing(path) as unfinished:
        draw(pixels, result, skeleton=skeleton).save(unfinished, format="PNG")
