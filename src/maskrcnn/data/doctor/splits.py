"""Checks of a split as a whole, and of the splits against each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from maskrcnn.data.categories import Entry
from maskrcnn.data.doctor.findings import Finding, finding, plain_text
from maskrcnn.data.doctor.raw import RawSplit, size_of, to_integer, to_key
from maskrcnn.data.file_names import name_problem
from maskrcnn.messages import counted

_DETECTIONS = 100  # the detections of a picture that recipes keep by default


def check_images(split: RawSplit) -> Iterator[Finding]:
    """Yield what is wrong with the entries of pictures and with how many objects each has."""
    groups = split.by_image()
    names: Counter[str] = Counter()
    for image in split.images:
        where, name = split.at(image), image.get("file_name")
        if not isinstance(name, str):
            yield finding("missing value", where, f"'file_name' is {plain_text(name)}")
        else:
            if problem := name_problem(name.replace("\\", "/")):
                yield finding("unsafe file name", where, f"the file name {plain_text(name)} {problem}")
            names[name] += 1
            if names[name] == 2:
                yield finding("same file twice", where, f"{plain_text(name)} occurs more than once")
        yield from _size(split, image)
        objects = groups.get(to_key(image.get("id")), [])
        if not objects:
            yield finding("picture without objects", where, f"{plain_text(name)} has no annotation")
        elif all(_is_crowd(one) for one in objects):
            yield finding("picture of crowds", where, f"all {len(objects)} annotations have 'iscrowd' 1")
        if len(objects) > _DETECTIONS:
            text = f"it has {len(objects)} objects; a network returns {_DETECTIONS} by default"
            yield finding("many objects", where, text)
    yield from _objects(split)


def _size(split: RawSplit, image: Entry) -> Iterator[Finding]:
    for key in ("height", "width"):
        value = image.get(key)
        if value is None:
            yield finding("missing size", split.at(image), f"{key!r} is missing")
        elif to_integer(value) is not None and type(value) is not int:
            text = f"{key!r} is {plain_text(value)!r}, of type {type(value).__name__}"
            yield finding("value type", split.at(image), text)
        elif size_of({"height": value, "width": value}) is None:
            yield finding("picture size", split.at(image), f"{key!r} is {plain_text(value)}")


def _is_crowd(annotation: Entry) -> bool:
    return annotation.get("iscrowd") in (1, "1", True)


def _objects(split: RawSplit) -> Iterator[Finding]:
    images = split.images_by_key()
    used = [one for one in split.annotations if to_key(one.get("image_id")) in images]
    if not used:
        yield finding("no objects", split.at(), "no annotation belongs to a picture of the file")
    elif all(_is_crowd(one) for one in used):
        text = f"all {len(used)} annotations have 'iscrowd' 1, which training ignores"
        yield finding("only crowds", split.at(), text)
    if used and not any(one.get("segmentation") for one in used):
        yield finding("no masks", split.at(), f"none of {len(used)} annotations has a mask")


def check_categories(split: RawSplit) -> Iterator[Finding]:
    """Yield what is wrong with the classes of a split."""
    names: dict[str, str] = {}
    scheme = None
    for category in split.categories:
        name = category.get("name")
        if not isinstance(name, str) or not name.strip():
            text = f"the category {plain_text(category.get('id'))} has the name {plain_text(name)!r}"
            yield finding("class name", split.at(), text)
            continue
        plain = "".join(name.casefold().replace("_", " ").replace("-", " ").split())
        if plain in names:
            text = f"{plain_text(name)!r} and {plain_text(names[plain])!r} differ by case or spaces only"
            same = f"the name {plain_text(name)!r} occurs more than once"
            yield finding("similar class names", split.at(), same if name == names[plain] else text)
        names.setdefault(plain, name)
        keypoints = category.get("keypoints")
        if keypoints and scheme is not None and keypoints != scheme[1]:
            text = f"{plain_text(name)!r} has other keypoints than {plain_text(scheme[0])!r}"
            yield finding("keypoint schemes differ", split.at(), text)
        if keypoints and scheme is None:
            scheme = name, keypoints
    if not split.categories:
        yield finding("annotation file", split.at(), "the list 'categories' is empty")


def check_between(splits: Sequence[RawSplit]) -> Iterator[Finding]:
    """Yield classes without examples, and how the classes of the splits differ."""
    counts = [_class_counts(split) for split in splits]
    for split, count in zip(splits, counts, strict=True):
        for name in (name for name, number in count.items() if not number):
            if not any(other.get(name) for other in counts):
                text = f"the class {plain_text(name)!r} has no annotation"
                yield finding("class without examples", split.at(), text)
    for other in splits[1:]:
        yield from _tables(splits[0], other)
    for name in sorted({name for count in counts for name in count}):
        numbers = {split.name: count.get(name, 0) for split, count in zip(splits, counts, strict=True)}
        having = " and ".join(f"{counted(n, 'annotation')} in {split}" for split, n in numbers.items() if n)
        for split in splits:
            if having and not numbers[split.name]:
                kind = "class not trained" if split is splits[0] else "class in some splits"
                text = f"the class {plain_text(name)!r} has {having}, but none in {split.name}"
                yield finding(kind, split.at(), text)


def _names(split: RawSplit) -> dict[int | str, str]:
    return {to_key(category.get("id")): str(category.get("name")) for category in split.categories}


def _class_counts(split: RawSplit) -> dict[str, int]:
    names = _names(split)
    counts = dict.fromkeys(names.values(), 0)
    for annotation in split.annotations:
        name = names.get(to_key(annotation.get("category_id")))
        if name is not None:
            counts[name] += 1
    return counts


def _tables(first: RawSplit, second: RawSplit) -> Iterator[Finding]:
    ours, theirs = _names(first), _names(second)
    for key in sorted({*ours, *theirs}, key=str):
        if ours.get(key) != theirs.get(key):
            sides = [
                f"{plain_text(names[key])!r} in {split.name}" if key in names else f"missing in {split.name}"
                for split, names in ((first, ours), (second, theirs))
            ]
            yield finding("categories differ", second.at(), f"the category {key} is {' and '.join(sides)}")
