"""The classes of a data set and their keypoints."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from maskrcnn.messages import Faults

Entry = dict[str, Any]  # an object of COCO's JSON


class Categories(NamedTuple):
    """Classes in the order of their labels, 0 … K-1, which is the order of the category ids."""

    class_names: tuple[str, ...]  # unique
    category_ids: tuple[int, ...]
    keypoint_names: tuple[str, ...]
    keypoint_flip: tuple[int, ...]  # index of the keypoint that each becomes in a mirror image
    skeleton: tuple[tuple[int, int], ...]  # pairs of keypoint indices, from 0
    entries: tuple[Entry, ...]  # "categories" in COCO's form, in the order of the file, names made unique


def to_categories(entries: Mapping[int, Entry]) -> Categories:
    """Build the table from COCO's entries by their ids.

    Classes whose keypoints differ have none: a keypoint of the network is the same for all. Raises ValueError
    for classes without a name.
    """
    ids = tuple(sorted(entries))
    names = dict(zip(ids, _unique_names([entries[id_] for id_ in ids]), strict=True))
    keypoint_names, skeleton = _keypoint_scheme(list(entries.values()))
    return Categories(
        class_names=tuple(names.values()),
        category_ids=ids,
        keypoint_names=keypoint_names,
        keypoint_flip=mirrored_keypoints(keypoint_names),
        skeleton=skeleton,
        entries=tuple({**entry, "name": names[id_]} for id_, entry in entries.items()),
    )


def mirrored_keypoints(names: Sequence[str]) -> tuple[int, ...]:
    """Return the index of the keypoint that each becomes in a mirror image: "left" and "right" swap."""
    other_side = {"left": "right", "right": "left"}
    swapped = [re.sub("left|right", lambda match: other_side[match.group()], name) for name in names]
    return tuple(names.index(name) if name in names else i for i, name in enumerate(swapped))


def _unique_names(entries: Sequence[Entry]) -> tuple[str, ...]:
    """Return the names; a name that occurs more than once is followed by the category id."""
    if nameless := [entry["id"] for entry in entries if entry.get("name") in (None, "")]:
        raise Faults([f"category {id_} has no name" for id_ in nameless])
    counts = Counter(str(entry["name"]) for entry in entries)
    return tuple(
        f"{entry['name']} ({entry['id']})" if counts[str(entry["name"])] > 1 else str(entry["name"])
        for entry in entries
    )


def _keypoint_scheme(entries: Sequence[Entry]) -> tuple[tuple[str, ...], tuple[tuple[int, int], ...]]:
    with_keypoints = [entry for entry in entries if entry.get("keypoints")]
    if not with_keypoints:
        return (), ()
    names = tuple(str(name) for name in with_keypoints[0]["keypoints"])
    if any(list(entry["keypoints"]) != list(names) for entry in with_keypoints):
        return (), ()
    skeleton = with_keypoints[0].get("skeleton") or ()
    return names, tuple((int(first) - 1, int(second) - 1) for first, second in skeleton)
