"""Predictions of many pictures as files: overlays, and COCO's result list.

Pictures are read, and overlays drawn and encoded, in threads beside the one that runs the network: decoders,
encoders and numpy let other threads run. A few pictures are in memory at a time, however many there are.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import UInt8
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table
from torch import Tensor

from maskrcnn.data.picture_files import overlay_mark
from maskrcnn.data.pictures import read_picture
from maskrcnn.files import json_list, replacing
from maskrcnn.lock import claimed
from maskrcnn.messages import counted, nearest
from maskrcnn.predict.journal import Journal, Line, read_images
from maskrcnn.predict.predictor import DEFAULT_SCORE, Predictor
from maskrcnn.progress import with_progress
from maskrcnn.results.coco import to_coco
from maskrcnn.results.draw import draw
from maskrcnn.results.result import Result
from maskrcnn.types import Metadata
from maskrcnn.weights.describe import format_thresholds

A = TypeVar("A")
B = TypeVar("B")

JOURNAL = "results.jsonl"
_LISTED = 40  # pictures that the table names one by one
_LONGEST_NAME = 255  # bytes, on most file systems


@dataclass
class Summary:
    """What `write_predictions` has written."""

    pictures: int = 0
    listed: list[tuple[str, Counter[str]]] = field(default_factory=list)  # the first: path and objects
    total: Counter[str] = field(default_factory=Counter)  # objects per class
    failures: list[str] = field(default_factory=list)  # a sentence for each picture that was skipped

    def add(self, name: str, objects: Counter[str]) -> None:
        """Count the objects of a picture."""
        self.pictures += 1
        self.total += objects
        if len(self.listed) < _LISTED:
            self.listed.append((name, objects))

    def table(self) -> Table:
        """Return the counts as a table for rich: a row for each of the first pictures, and the total."""
        table = Table(Column("picture", overflow="fold"), "objects", "classes")
        for name, objects in self.listed:
            table.add_row(escape(name), str(objects.total()), escape(_per_class(objects)))
        if self.pictures > len(self.listed):
            table.add_row(f"… and {self.pictures - len(self.listed):,} more")
        table.add_section()
        table.add_row(
            counted(self.pictures, "picture"), f"{self.total.total():,}", escape(_per_class(self.total))
        )
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


def _per_class(objects: Counter[str]) -> str:
    return ", ".join(f"{number} {name}" for name, number in objects.most_common())


@dataclass(frozen=True)
class Selection:
    """Which detections are kept."""

    score: float | None = None  # lowest score; None: the thresholds of the network, or 0.5 (see `Metadata`)
    class_names: tuple[str, ...] = ()  # all classes if empty

    def check(self, known: Sequence[str]) -> None:
        """Raise ValueError for a class that the network does not have."""
        for name in self.class_names:
            if name not in known:
                raise ValueError(f"the network has no class '{name}': {nearest(name, known)}")

    def __call__(self, result: Result) -> Result:
        """Return the objects that are kept; those of a lower score are expected to be gone."""
        if not self.class_names:
            return result
        return result.select(np.array([name in self.class_names for name in result.names], np.bool_))


def write_predictions(
    predictor: Predictor,
    paths: Sequence[Path],
    output: Path,
    selection: Selection = Selection(),
    *,
    network: str = "",
    batch_size: int = 1,
    workers: int = 2,
    resume: bool = False,
) -> Summary:
    """Predict pictures and write the results into a folder, with a progress bar and a closing table.

    Each picture becomes an overlay, ``<stem>.png``, numbered where stems repeat. ``results.json`` is COCO's
    result list of all objects, in the data set's own category ids; ``images.json`` has the `images` (id,
    file_name as given, height, width, overlay) and `categories` that it refers to. The two appear when all
    pictures are done; until then ``results.jsonl`` has those that are, and `resume` continues after them.
    A picture that cannot be read is reported and skipped. `workers` threads read and draw; `network` is the
    name by which ``results.jsonl`` knows the network.

    Raises ValueError for a class that the network does not have, where another process writes into the
    folder, where it holds an incomplete prediction and `resume` is False, and where that is one of another
    network or selection; and OSError where a file cannot be written.
    """
    metadata = predictor.metadata
    selection.check(metadata.class_names)
    names = dict(zip(metadata.category_ids, metadata.class_names, strict=True))
    categories = [{"id": id_, "name": name} for id_, name in names.items()]
    default = list(metadata.score_thresholds) or DEFAULT_SCORE
    score = default if selection.score is None else selection.score
    header = {"network": network, **asdict(selection), "score": score, "categories": categories}
    summary = Summary()
    with claimed(output):
        with Journal(output / JOURNAL, header, resume) as journal:
            pictures = _Pictures(predictor, output, selection, batch_size, workers)
            for line in pictures.predict(paths, journal.images):
                journal.append(line)
                summary.failures += [line["failure"]] if "failure" in line else []
        end = f', "categories": {json.dumps(categories)}}}\n'
        with (
            json_list(output / "results.json") as append_object,
            json_list(output / "images.json", '{"images": ', end) as append_image,
        ):
            for image, objects in read_images(journal.path):
                append_image(image)
                for one in objects:
                    append_object(one)
                summary.add(image["file_name"], Counter(names[one["category_id"]] for one in objects))
    summary.print()
    return summary


class _Read(NamedTuple):
    """A picture that was read, on its way through the network."""

    image: Line  # as in images.json
    pixels: UInt8[Tensor, "C H W"]


@dataclass(frozen=True)
class _Pictures:
    """Turns pictures into lines of the journal, and writes their overlays."""

    predictor: Predictor
    output: Path
    selection: Selection
    batch_size: int
    workers: int
    failures: deque[str] = field(default_factory=deque)  # that are not in the journal yet

    def predict(self, paths: Sequence[Path], earlier: Sequence[Line]) -> Iterator[Line]:
        """Yield a line for each picture that is not among those predicted `earlier`."""
        done = {image["file_name"] for image in earlier}
        rest = [path for path in paths if str(path) not in done]
        overlays = _overlay_names(rest, self.output, [image["overlay"] for image in earlier])
        ids = range(1 + max((image["id"] for image in earlier), default=0), sys.maxsize)
        jobs = with_progress(zip(rest, overlays, ids, strict=False), "predicting", len(rest))
        with ThreadPoolExecutor(max(self.workers, 1)) as pool:
            read = self._readable(in_threads(pool, self._read, jobs, self.workers))
            results = in_threads(pool, self._finish, self._results(read), self.workers)
            for line in chain(results, [{}]):
                while self.failures:
                    yield {"failure": self.failures.popleft()}
                if line:
                    yield line

    def _read(self, job: tuple[Path, str, int]) -> _Read | str:
        """Read a picture once for both: in colours for the overlay, with the network's channels if more."""
        path, overlay, id_ = job
        try:
            pixels = read_picture(path, max(self.predictor.model.in_channels, 3), self.predictor.white)
        except (OSError, ValueError) as error:
            return str(error)
        except MemoryError:
            return f"{path}: the memory is too small for this picture"
        height, width = pixels.shape[1:]
        image = {"id": id_, "file_name": str(path), "height": height, "width": width, "overlay": overlay}
        return _Read(image, pixels)

    def _readable(self, pictures: Iterable[_Read | str]) -> Iterator[_Read]:
        for picture in pictures:
            if isinstance(picture, _Read):
                yield picture
            else:
                self.failures.append(picture)

    def _results(self, pictures: Iterable[_Read]) -> Iterator[tuple[_Read, Result]]:
        first, second = itertools.tee(pictures)
        pixels = (picture.pixels for picture in first)
        results = self.predictor.predict_many(pixels, score=self.selection.score, batch_size=self.batch_size)
        for picture, (_, result) in zip(second, results, strict=True):
            if isinstance(result, Result):
                yield picture, self.selection(result)
            else:
                self.failures.append(f"{picture.image['file_name']}: {result.message}")

    def _finish(self, one: tuple[_Read, Result]) -> Line:
        (image, pixels), result = one
        with replacing(self.output / image["overlay"]) as unfinished:
            draw(pixels, result).save(unfinished, format="PNG", pnginfo=overlay_mark())
        return {"image": image, "objects": to_coco(result, image["id"])}


def in_threads(
    pool: ThreadPoolExecutor, function: Callable[[A], B], items: Iterable[A], ahead: int
) -> Iterator[B]:
    """Yield `function` of each item, in order; the pool computes at most `ahead` of them in advance."""
    pending: deque[Future[B]] = deque()
    for item in items:
        pending.append(pool.submit(function, item))
        if len(pending) > ahead:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def _overlay_names(paths: Sequence[Path], output: Path, earlier: Sequence[str]) -> Iterator[str]:
    """Yield an overlay's name for each path: all unique on any file system, and none that of a picture."""
    taken = {path.name.casefold() for path in paths if path.parent.resolve() == output.resolve()}
    taken |= {name.casefold() for name in earlier}
    for path in paths:
        endings = chain([".png"], (f"-{number}.png" for number in itertools.count(2)))
        names = (_shortened(path.stem, _LONGEST_NAME - len(ending)) + ending for ending in endings)
        name = next(name for name in names if name.casefold() not in taken)
        taken.add(name.casefold())
        yield name


def _shortened(stem: str, size: int) -> str:
    """Return as much of a file name as fits into `size` bytes."""
    encoded = os.fsencode(stem)
    return stem if len(encoded) <= size else encoded[:size].decode(errors="ignore")
