"""Checks between the splits of a data set: pictures on both sides, and categories that differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from maskrcnn.data.doctor.annotations import number
from maskrcnn.data.doctor.findings import Finding, Kind
from maskrcnn.data.doctor.pictures import Looked
from maskrcnn.data.split import merge_near

COPY = Kind("picture that another one repeats", "warning", "remove one of them")
NEAR = Kind("picture almost equal to another one", "note", "look at both")
LEAK = Kind("picture in two splits", "error", "remove it from one: validation must not see training pictures")
NEAR_LEAK = Kind("picture almost equal to one of another split", "warning", "keep both in one split")
CATEGORIES = Kind("categories that differ between splits", "error", "give all splits the same ids and names")
ONE_SPLIT = Kind("class with examples in one split alone", "warning", "move some pictures to the other")


def check_copies(looked: Mapping[str, Sequence[Looked]]) -> Iterator[Finding]:
    """Yield exact and near duplicates within a split, and between splits."""
    all_looked = [(split, one) for split, pictures in looked.items() for one in pictures]
    exact: dict[str, tuple[str, Looked]] = {}
    unique = []
    for split, one in all_looked:
        other_split, other = exact.setdefault(one.digest, (split, one))
        if other is one:
            unique.append((split, one))
        else:
            yield Finding(COPY if split == other_split else LEAK, one.place, f"as {other.place}")
    near: dict[int, tuple[str, Looked]] = {}
    for (split, one), key in zip(unique, merge_near([one.look for _, one in unique]), strict=True):
        if key is None:
            continue
        other_split, other = near.setdefault(key, (split, one))
        if other is not one:
            yield Finding(NEAR if split == other_split else NEAR_LEAK, one.place, f"as {other.place}")


def check_categories(contents: Mapping[str, Mapping[str, Any]]) -> Iterator[Finding]:
    """Yield differences between the category tables of the splits, and classes of one split alone."""
    tables = {
        split: {
            number(category.get("id")): str(category.get("name"))
            for category in content["categories"]
            if isinstance(category, dict)
        }
        for split, content in contents.items()
    }
    first, *others = tables
    for other in others:
        different = dict(tables[first].items() ^ tables[other].items())
        if different:
            listed = ", ".join(f"{id_} {name}" for id_, name in sorted(different.items(), key=str)[:4])
            yield Finding(CATEGORIES, f"{first}, {other}", listed)
    if "train" in contents and "val" in contents:
        used = {
            split: {
                number(entry.get("category_id"))
                for entry in contents[split]["annotations"]
                if isinstance(entry, dict)
            }
            for split in ("train", "val")
        }
        for id_ in sorted(used["train"] ^ used["val"], key=str):
            split = "train" if id_ in used["train"] else "val"
            yield Finding(ONE_SPLIT, split, f"{id_} {tables[split].get(id_, '?')}")
