"""Reader of COCO's JSON format."""

from __future__ import annotations

import json
import math
import os
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from maskrcnn.data.categories import Categories, Entry, to_categories
from maskrcnn.data.dataset import Annotations, Mask, PackedDataset, Polygons
from maskrcnn.data.pictures import common_white
from maskrcnn.files import reading
from maskrcnn.masks.rle import compress, rle_counts

_Numbered = tuple[int, Any]  # position in the list of annotations, from 1, and the annotation
_MAX_NAME = 255  # bytes of one part of a path, the limit of common file systems


def read_coco(annotation_file: str | Path, image_folder: str | Path) -> PackedDataset:
    """Read an annotation file in COCO's format; its pictures are in `image_folder`.

    Labels are 0 … K-1 in the order of the category ids. Classes without examples and pictures without objects
    are kept.

    Raises ValueError that names file, picture and annotation for values that are not valid, and
    FileNotFoundError for missing pictures. Boxes without area are left out of training, and polygons of fewer
    than 3 points beside valid ones are removed; a warning counts both.
    """
    file, folder = Path(annotation_file), Path(image_folder)
    content = _read_json(file)
    with _naming(str(file)):
        categories = to_categories(_by_id(content["categories"], "categories"))
        entries = _by_id(content["images"], "images")
    images = [_read_image(file, entry) for entry in entries.values()]
    _check_files(file, folder, images)
    white = common_white([folder / image["file_name"] for image in images])
    groups = _by_image(file, content.pop("annotations"), images)
    annotations = _Reader(file, categories).read_all(groups, images)
    return PackedDataset(file, folder, categories, images, annotations, white)


@contextmanager
def _naming(place: str) -> Iterator[None]:
    """Put `place` in front of the message of an error."""
    try:
        yield
    except KeyError as error:
        raise ValueError(f"{place}: the field {error} is missing") from None
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ValueError(f"{place}: {error}") from None


def _place(file: Path, annotation: Any) -> str:
    if not isinstance(annotation, dict):
        return f"{file}: an entry of 'annotations'"
    return f"{file}: annotation {annotation.get('id')} of image {annotation.get('image_id')}"


def _read_json(file: Path) -> Entry:
    with reading(file):
        data = file.read_bytes()
    try:
        content = json.loads(data.decode("utf-8-sig"))  # some editors on Windows begin a file with this mark
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}: not a JSON file: {error}") from None
    del data
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise ValueError(f"{file}: not in COCO's format: it has no list {key!r}")
    return content


def _by_id(entries: list, key: str) -> dict[int, Entry]:
    if wrong := [entry for entry in entries if not isinstance(entry, dict)]:
        raise ValueError(f"the list {key!r} contains {str(wrong[0])[:80]!r}, where an object was expected")
    by_id = {_integer(entry, "id"): entry for entry in entries}
    if not by_id:
        raise ValueError(f"the list {key!r} is empty")
    if len(by_id) < len(entries):
        [(id_, count)] = Counter(entry["id"] for entry in entries).most_common(1)
        raise ValueError(f"the id {id_} occurs {count} times in {key!r}; ids must be unique")
    return by_id


def _integer(entry: Any, key: str) -> int:
    value = entry[key]
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{key!r} is {value!r}, where an integer was expected")
    if not -(2**63) <= value < 2**63:
        raise ValueError(f"{key!r} is {value}, which does not fit into 64 bits; number the entries from 1")
    return value


def _listed(annotation: Any, key: str, ids: Mapping[int, Any]) -> int:
    id_ = _integer(annotation, key)
    if id_ not in ids:
        raise ValueError(f"{key!r} is {id_}, which the file does not list")
    return id_


def _read_image(file: Path, entry: Entry) -> Entry:
    with _naming(f"{file}: image {entry['id']}"):
        height, width = _integer(entry, "height"), _integer(entry, "width")
        if not (1 <= height < 2**31 and 1 <= width < 2**31):
            raise ValueError(f"its height is {height} and its width is {width} pixels")
        return {**entry, "file_name": _file_name(entry["file_name"])}


def _file_name(name: Any) -> str:
    """Return the path of a picture within the image folder, with forward slashes."""
    if not isinstance(name, str):
        raise ValueError(f"'file_name' is {name!r}, where a text was expected")
    if problem := name_problem(name.replace("\\", "/")):
        raise ValueError(f"the file name {name[:80]!r} {problem}")
    return name.replace("\\", "/")


def name_problem(name: str) -> str:
    """Return what is wrong with a file name, if anything is."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "://" in name or re.match("[A-Za-z]:", name):
        return "leads out of the image folder"
    if not path.name:
        return "names no file"
    try:
        longest = max(len(os.fsencode(part)) for part in path.parts)
    except UnicodeEncodeError:
        return "has characters that no file name can have"
    if "\0" in name:
        return "has characters that no file name can have"
    return "" if longest <= _MAX_NAME else f"is longer than {_MAX_NAME} bytes"


def _check_files(file: Path, folder: Path, images: Sequence[Entry]) -> None:
    missing = [image["file_name"] for image in images if not _is_file(folder / image["file_name"])]
    if missing:
        examples = ", ".join(missing[:3])
        raise FileNotFoundError(
            f"{file}: {len(missing)} of {len(images)} pictures are not in {folder}: {examples}"
            f"{' …' if len(missing) > 3 else ''}"
        )


def _is_file(path: Path) -> bool:
    with reading(path):
        return path.is_file()


def _by_image(file: Path, annotations: list, images: Sequence[Entry]) -> dict[int, list[_Numbered]]:
    groups: dict[int, list[_Numbered]] = {image["id"]: [] for image in images}
    for number, annotation in enumerate(annotations, 1):
        with _naming(_place(file, annotation)):
            groups[_listed(annotation, "image_id", groups)].append((number, annotation))
    return groups


class _Reader:
    """Checks annotations, and counts what it leaves out."""

    def __init__(self, file: Path, categories: Categories) -> None:
        self.file = file
        self.labels = {id_: label for label, id_ in enumerate(categories.category_ids)}
        self.num_keypoints = len(categories.keypoint_names)
        self.left_out: Counter[str] = Counter()

    def read_all(self, groups: dict[int, list[_Numbered]], images: Sequence[Entry]) -> Iterator[Annotations]:
        """Yield the annotations of each image; `groups` is emptied on the way, to free its memory."""
        for image in images:
            size_hw = image["height"], image["width"]
            annotations = self._stack([self._read(one, size_hw) for one in groups.pop(image["id"])])
            self.left_out["boxes without area"] += len(annotations.ids) - len(
                annotations.to_objects(size_hw).ids
            )
            yield annotations
        if self.left_out.total():
            counts = " and ".join(f"{count} {what}" for what, count in self.left_out.items() if count)
            warnings.warn(f"{self.file}: left out {counts}", stacklevel=4)

    def _read(self, numbered: _Numbered, size_hw: tuple[int, int]) -> tuple:
        """Return the row of `Annotations` of one annotation."""
        number, annotation = numbered
        with _naming(_place(self.file, annotation)):
            return (
                _read_bbox(annotation),
                self._read_area(annotation.get("area")),
                self.labels[_listed(annotation, "category_id", self.labels)],
                _read_crowd(annotation.get("iscrowd")),
                self._read_mask(annotation.get("segmentation"), size_hw),
                _read_keypoints(annotation, self.num_keypoints),
                number,
            )

    def _read_area(self, value: Any) -> float:
        """Return the area in px²; NaN if there is none, for evaluation computes it from the mask."""
        value = value[0] if isinstance(value, list) and len(value) == 1 else value
        try:
            area = math.nan if value is None else float(value)
        except (TypeError, ValueError, OverflowError):
            area = -1.0
        if area < 0 or math.isinf(area):
            self.left_out["areas that are not numbers"] += 1
            return math.nan
        return area

    def _read_mask(self, segmentation: Any, size_hw: tuple[int, int]) -> Mask:
        if isinstance(segmentation, dict):
            return _read_rle(segmentation, size_hw)
        if not segmentation:
            return None
        rings = _read_polygons(segmentation, size_hw)
        self.left_out["polygons of fewer than 3 points"] += len(segmentation) - len(rings)
        return rings

    def _stack(self, rows: list[tuple]) -> Annotations:
        bboxes, areas, labels, crowd, masks, keypoints, ids = zip(*rows, strict=True) if rows else ((),) * 7
        return Annotations(
            bboxes=np.array(bboxes, np.float64).reshape(-1, 4),
            areas=np.array(areas, np.float64),
            labels=np.array(labels, np.int64),
            crowd=np.array(crowd, np.bool_),
            masks=list(masks),
            keypoints=np.array(keypoints, np.float64).reshape(len(rows), self.num_keypoints, 3),
            ids=np.array(ids, np.int64),
        )


def _read_bbox(annotation: Entry) -> np.ndarray:
    bbox = _numbers(annotation["bbox"], "'bbox'")
    if len(bbox) != 4 or min(bbox[2:]) < 0:
        raise ValueError(f"'bbox' is {annotation['bbox']}, where x, y, width, height ≥ 0 was expected")
    return bbox


def _read_crowd(value: Any) -> bool:
    if value not in (None, 0, 1, "0", "1"):
        raise ValueError(f"'iscrowd' is {value!r}, where 0 or 1 was expected")
    return value in (1, "1")


def _numbers(values: Any, what: str) -> np.ndarray:
    try:
        numbers = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        numbers = np.array(np.nan)
    if numbers.ndim != 1 or not np.isfinite(numbers).all():
        raise ValueError(f"{what} is not a list of finite numbers")
    return numbers


def _read_polygons(segmentation: list, size_hw: tuple[int, int]) -> Polygons:
    """Return the rings of at least 3 points; ValueError if there is none."""
    rings = [_numbers(ring, f"polygon {i}") for i, ring in enumerate(segmentation)]
    limit = np.array(size_hw[::-1])
    for i, ring in enumerate(rings):
        if len(ring) % 2:
            raise ValueError(
                f"polygon {i} has {len(ring)} numbers; an even count was expected (x, y, x, y, …)"
            )
        points = ring.reshape(-1, 2)
        if (points < -limit).any() or (points > 2 * limit).any():
            raise ValueError(f"polygon {i} is outside the picture by more than the picture's size")
    valid = [ring.reshape(-1, 2) for ring in rings if len(ring) >= 6]
    if not valid:
        raise ValueError(f"polygon 0 has {len(rings[0]) // 2} points; at least 3 were expected")
    return valid


def _read_rle(segmentation: Entry, size_hw: tuple[int, int]) -> Entry:
    """Check run lengths and return them in compressed form."""
    if list(segmentation["size"]) != list(size_hw):
        raise ValueError(
            f"the run lengths have the size {segmentation['size']}, but the picture has {list(size_hw)}"
            " (height, width)"
        )
    return {"size": list(size_hw), "counts": compress(rle_counts(segmentation))}


def _read_keypoints(annotation: Entry, num_keypoints: int) -> np.ndarray:
    if not num_keypoints or not annotation.get("keypoints"):
        return np.zeros((num_keypoints, 3))
    keypoints = _numbers(annotation["keypoints"], "'keypoints'")
    if len(keypoints) != 3 * num_keypoints:
        raise ValueError(
            f"'keypoints' has {len(keypoints)} numbers; expected {num_keypoints} times x, y, visibility"
        )
    keypoints = keypoints.reshape(-1, 3)
    if not np.isin(keypoints[:, 2], (0, 1, 2)).all():
        raise ValueError("a keypoint's visibility is not 0, 1 or 2")
    return keypoints
