"""``results.jsonl``: what a prediction of many pictures has done so far, a line of JSON for each picture.

A line is written when the picture's other files are whole, so that a prediction that was interrupted resumes
after the last line. The first line describes the prediction, and the last one says that it is complete:

    {"network": "best.pt", "score": 0.5, "categories": [{"id": 1, "name": "cat"}]}
    {"image": {"id": 1, "file_name": "a.jpg", "height": 480, "width": 640}, "objects": []}
    {"failure": "b.jpg: an empty file"}
    {"complete": true}
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from maskrcnn.files import reading, replacing
from maskrcnn.messages import counted

Line = dict[str, Any]

_COMPLETE: Line = {"complete": True}


class Journal:
    """The file, open for the lines of a prediction that `header` describes.

    With `resume` the images of an earlier prediction stay; its failures are removed, to be tried again. On
    stderr it says what it holds when an exception ends the prediction.

    Raises ValueError, naming the file, where an earlier prediction is incomplete and `resume` is False, where
    the one to resume is not the one that `header` describes, and for a file of another kind.
    """

    def __init__(self, path: Path, header: Line, resume: bool = False) -> None:
        self.path = path
        if path.exists() and not resume:
            _refuse_to_lose(path)
        kept = _lines(path, header) if path.exists() and resume else iter(())
        self.images: list[Line] = []  # of the earlier prediction
        with replacing(path) as unfinished, unfinished.open("w", encoding="utf-8") as file:
            file.write(_text(header))
            for line in kept:
                if "image" in line:
                    file.write(_text(line))
                    self.images.append(line["image"])
        self.count = len(self.images)
        self._file = path.open("a", encoding="utf-8")

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.append(_COMPLETE)
        elif self.count:
            done = counted(self.count, "picture")
            print(f"{self.path} holds {done}; --resume continues after them", file=sys.stderr)
        self._file.close()

    def append(self, line: Line) -> None:
        """Write a line at once. Raises OSError, naming the file, where that is impossible."""
        try:
            self._file.write(_text(line))
            self._file.flush()
            self.count += "image" in line
        except OSError as error:
            raise OSError(error.errno, error.strerror or str(error), str(self.path)) from error


def read_images(path: Path) -> Iterator[tuple[Line, list[Line]]]:
    """Yield each image with its objects. Raises ValueError, naming the file, for a file of another kind."""
    return ((line["image"], line["objects"]) for line in _lines(path) if "image" in line)


def _lines(path: Path, header: Line | None = None) -> Iterator[Line]:
    """Yield the lines but the first, which must be `header` if that is given, and one that was cut off."""
    with reading(path), path.open(encoding="utf-8") as file:
        for number, text in enumerate(file):
            if not text.endswith("\n"):
                return
            line = _parsed(path, number, text)
            if number:
                yield line
            elif header is not None and _text(line) != _text(header):
                raise ValueError(f"{path} {_difference(line, header)}: choose another --output")


def _refuse_to_lose(path: Path) -> None:
    done = 0
    with reading(path), path.open(encoding="utf-8") as file:
        text = ""
        for text in file:
            done += text.startswith('{"image"') and text.endswith("\n")
    if done and text != _text(_COMPLETE):
        raise ValueError(
            f"{path} holds {counted(done, 'picture')} of an incomplete prediction: continue it with "
            "--resume, choose another --output, or delete the file"
        )


def _text(line: Line) -> str:
    return json.dumps(line, allow_nan=False) + "\n"


def _parsed(path: Path, number: int, text: str) -> Line:
    try:
        line = json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        line = None
    if not isinstance(line, dict) or not isinstance(line.get("image", {}), dict):
        raise ValueError(
            f"{path}: line {number + 1} is not one of a prediction; delete the file to start again"
        )
    return line


def _difference(earlier: Line, header: Line) -> str:
    """Say how an earlier prediction differs from the one that `header` describes."""
    header = json.loads(_text(header))  # tuples are lists there
    names = [name for name in header if earlier.get(name) != header[name]]
    values = (
        f"{name} {earlier.get(name)} instead of {header[name]}" for name in names if name != "categories"
    )
    return "is of a prediction with " + (", ".join(values) or "other categories")
