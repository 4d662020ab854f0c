"""Findings: what is wrong with a data set, where, and how to mend it; the report groups them by kind."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from rich.console import Group
from rich.text import Text

from maskrcnn.files import write_json
from maskrcnn.messages import counted

Severity = Literal["error", "warning", "note"]
_EXAMPLES = 5  # of each kind
_KEPT = 1000  # of each kind, to draw the worst pictures
_SUMMED = 6  # kinds in a summary
_STYLES: dict[Severity, str] = {"error": "red", "warning": "yellow", "note": "dim"}

# Severity and mend of each kind. An error stops a training or makes it meaningless, a warning makes it worse,
# a note does not change the exit status.
KINDS: dict[str, tuple[Severity, str]] = {
    "annotation file": ("error", "Export the annotations again in COCO's JSON format."),
    "split without pictures": ("error", "Put the pictures of this file into the folder that is named."),
    "no validation split": ("note", "Nothing to do: a training holds some pictures back."),
    "unsafe file name": ("error", "Write file names relative to the image folder."),
    "missing picture": ("error", "Add the file, or remove its entry from 'images'."),
    "truncated picture": ("error", "Copy the file again from its source, or remove its entry."),
    "unreadable picture": ("error", "Convert the file to JPEG or PNG, or remove its entry."),
    "picture size": ("error", "Write the file's own height and width, and check the coordinates."),
    "picture orientation": ("error", "Store the picture upright, or exchange its height and width."),
    "turned picture": ("note", "Check that the annotations are of the upright picture."),
    "grey levels": ("note", "Check that objects are visible; rescale the grey levels if they are not."),
    "duplicate picture": ("warning", "Remove one of the two."),
    "near duplicate picture": ("note", "Keep one of the two if they show the same scene."),
    "picture in both splits": ("warning", "Remove the picture from one of the splits."),
    "near duplicate in both splits": ("note", "Move both pictures into the same split."),
    "same file twice": ("warning", "Merge the two entries into one."),
    "duplicate image id": ("error", "Number the pictures from 1."),
    "duplicate annotation id": ("warning", "Number the annotations from 1 (--fix does)."),
    "duplicate category id": ("error", "Number the categories from 1."),
    "unknown image id": ("error", "Remove the annotation, or list its picture (--fix leaves it out)."),
    "unknown category id": ("error", "Remove the annotation, or list its category (--fix leaves it out)."),
    "name as id": ("warning", "Number the entries from 1 (--fix does); training numbers them."),
    "invalid id": ("error", "Number the entries with integers of at most 64 bits."),
    "value type": ("warning", "Write numbers as JSON numbers (--fix does); they are read so."),
    "missing value": ("error", "Export the field, or remove the entry."),
    "missing size": (
        "warning",
        "Write the size of the picture (--fix does); training reads it from the file.",
    ),
    "missing default": ("note", "Nothing to do: area is computed from the mask, iscrowd is 0."),
    "class name": ("error", "Give each category a name of its own."),
    "similar class names": ("warning", "Merge the categories if they mean the same class."),
    "categories differ": ("error", "Use the same categories with the same ids in all splits."),
    "keypoint schemes differ": (
        "warning",
        "Use the same keypoints in all categories to learn them; they are left out of training.",
    ),
    "keypoints": ("error", "Write x, y, visibility (0, 1 or 2) for each keypoint of the category."),
    "class without examples": ("note", "Annotate some objects of it, or remove the class."),
    "class in some splits": ("note", "Move some pictures of this class into the split that has none."),
    "class not trained": ("warning", "Move some pictures of this class into the train split."),
    "missing box": ("warning", "Write the box (--fix takes it from the mask); training takes it so."),
    "negative box": ("error", "Write the box as x, y, width, height ≥ 0 (--fix leaves the annotation out)."),
    "corner box": ("warning", "Write x, y, width, height instead of x1, y1, x2, y2 (--fix does)."),
    "relative box": ("warning", "Multiply the coordinates by the width and height of the picture."),
    "box outside": ("warning", "Check that the coordinates belong to this size of the picture."),
    "empty box": ("warning", "Remove the annotation: it is left out of training."),
    "box and mask differ": ("warning", "Compute the box from the mask, or correct the mask."),
    "polygon of pairs": (
        "warning",
        "Write x, y, x, y, … instead of [x, y], [x, y], … (--fix does); it is read so.",
    ),
    "flat polygon": ("warning", "Put one more pair of brackets around it (--fix does); it is read so."),
    "short polygon": ("error", "Remove the polygon: it needs at least 3 points (--fix does)."),
    "polygon without area": ("warning", "Draw the outline again: its points lie on a line."),
    "self-crossing polygon": ("note", "Check the outline: it crosses itself."),
    "polygon": ("error", "Write polygons as lists of x, y, x, y, … in pixels."),
    "polygon outside": ("error", "Check that the coordinates belong to this size of the picture."),
    "run lengths size": ("error", "Write the size of run lengths as [height, width] of the picture."),
    "run lengths": ("error", "Export the mask again: its run lengths are not valid."),
    "tiny mask": ("warning", "Train with larger pictures or with crops; the mask vanishes when resized."),
    "no masks": ("warning", "Export masks, or train a recipe without masks (resnet50_fpn_box)."),
    "object without mask": ("note", "Nothing to do: the object trains the box branch only."),
    "duplicate annotation": ("warning", "Remove one of the two."),
    "picture without objects": ("note", "Nothing to do if the picture is empty; it is a negative example."),
    "picture of crowds": ("note", "Nothing is learnt from it: check 'iscrowd'."),
    "only crowds": ("error", "Write iscrowd 0 for single objects, also if their masks are run lengths."),
    "crowd without area": ("warning", "Check 'iscrowd': crowds are ignored in training."),
    "no objects": ("error", "Export the annotations again: nothing is left to learn."),
    "many objects": ("note", "A plan raises boxes.max_detections; so does --set."),
}


class Where(NamedTuple):
    """The place of a finding; what does not apply is None."""

    file: str
    image: Any = None  # id as the file has it
    annotation: Any = None  # id as the file has it

    def __str__(self) -> str:
        parts = [plain_text("/".join(Path(self.file).parts[-2:]))]
        parts += [f"image {plain_text(self.image)}"] if self.image is not None else []
        parts += [f"annotation {plain_text(self.annotation)}"] if self.annotation is not None else []
        return ", ".join(parts)


@dataclass(frozen=True)
class Finding:
    """One fault of a data set."""

    kind: str
    severity: Severity
    where: Where
    message: str
    mend: str


def finding(kind: str, where: Where, message: str) -> Finding:
    """Return a finding with the severity and the mend of its kind."""
    severity, mend = KINDS[kind]
    return Finding(kind, severity, where, message, mend)


def plain_text(value: Any, longest: int = 120) -> str:
    """Return a value from a file as one short line of printable characters."""
    text = value[: 2 * longest] if isinstance(value, str) else _short_repr(value)
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    return text if len(text) <= longest else f"{text[:longest]}…"


def _short_repr(value: Any) -> str:
    if isinstance(value, list):
        value = value[:12]
    try:
        return str(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits; lists within lists
        return f"a value of type {type(value).__name__}"


@dataclass
class KindReport:
    """The findings of one kind: how many, and the first of them."""

    severity: Severity
    mend: str
    count: int = 0
    findings: list[Finding] = field(default_factory=list)  # the first thousand

    @property
    def examples(self) -> list[Finding]:
        """The first five findings."""
        return self.findings[:_EXAMPLES]


class Report:
    """Findings grouped by kind, the most severe first."""

    def __init__(self, findings: Iterable[Finding] = ()) -> None:
        self.kinds: dict[str, KindReport] = {}
        self.extend(findings)

    def extend(self, findings: Iterable[Finding]) -> None:
        """Add findings; of each kind the first thousand are kept, and the first five are the examples."""
        for one in findings:
            group = self.kinds.setdefault(one.kind, KindReport(one.severity, one.mend))
            group.count += 1
            if len(group.findings) < _KEPT:
                group.findings.append(one)

    @property
    def clean(self) -> bool:
        """Whether there is no error and no warning."""
        return all(group.severity == "note" for group in self.kinds.values())

    def ordered(self) -> list[tuple[str, KindReport]]:
        """Return the kinds, errors first, in the order of `KINDS`."""
        order, severities = list(KINDS), list(_STYLES)
        return sorted(
            self.kinds.items(), key=lambda item: (severities.index(item[1].severity), order.index(item[0]))
        )

    def count(self, severity: Severity) -> int:
        """Return the number of findings of a severity."""
        return sum(group.count for group in self.kinds.values() if group.severity == severity)

    def table(self) -> Group:
        """Return the report for the terminal."""
        parts: list[Any] = []
        for kind, group in self.ordered():
            head = Text.assemble((f"{group.severity}: ", _STYLES[group.severity]), f"{kind} ({group.count})")
            lines = [f"  {one.where}: {plain_text(one.message, 300)}" for one in group.examples]
            if group.count > len(group.examples):
                lines.append(f"  and {group.count - len(group.examples)} more")
            parts += [head, *map(Text, lines), Text(f"  {group.mend}"), Text()]
        return Group(*parts, Text(self.counts))

    def summary(self, data: str | Path) -> str:
        """Return a few lines about the findings, the worst kinds first; empty where there is none."""
        if not self.kinds:
            return ""
        lines = [f"{self.counts}; maskrcnn check {shlex.quote(str(data))} lists all:"]
        for kind, group in self.ordered()[:_SUMMED]:
            lines.append(f"{group.severity}: {kind} ({group.count}): {group.mend}")
        if len(self.kinds) > _SUMMED:
            lines.append(f"and {counted(len(self.kinds) - _SUMMED, 'kind')} more")
        return "\n  ".join(lines)

    @property
    def counts(self) -> str:
        """How many errors, warnings and notes there are, in words."""
        return ", ".join(counted(self.count(severity), severity) for severity in _STYLES)

    def write(self, path: Path) -> None:
        """Write the report as JSON, whole or not at all."""
        kinds = [
            {
                "kind": kind,
                "severity": group.severity,
                "count": group.count,
                "mend": group.mend,
                "examples": [_to_plain(example) for example in group.examples],
            }
            for kind, group in self.ordered()
        ]
        write_json(path, {"clean": self.clean, "findings": kinds})


def _to_plain(example: Finding) -> dict[str, Any]:
    entry = asdict(example)
    where = {key: _id_text(value) for key, value in example.where._asdict().items()}
    return {"where": where, "message": plain_text(entry["message"], 300)}


def _id_text(value: Any) -> int | str | None:
    return value if value is None or isinstance(value, int) else plain_text(value)
