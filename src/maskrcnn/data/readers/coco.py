"""COCO's JSON format."""

from __future__ import annotations

import json
import pickle
import re
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from jaxtyping import Int

from maskrcnn.data.dataset import Entry, Objects, Polygons
from maskrcnn.masks.rle import compress, rle_counts


class CocoDataset:
    """Pictures of one split and their objects.

    Labels are 0 … K-1 in the order of the category ids; classes without examples and pictures without objects
    are kept. Keypoints, which the file gives as indices of pixels, are read as the pixels' centres (+ 0.5).

    Raises ValueError that names file, picture and annotation for what cannot be meant, and FileNotFoundError
    when pictures are missing. Boxes without area, and polygons of fewer than 3 points beside good ones, are
    left out with a warning that counts them.
    """

    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]  # as in the file
    keypoint_names: tuple[str, ...]
    keypoint_flip: tuple[int, ...]  # which keypoint each becomes in a mirror: left and right change places
    skeleton: tuple[tuple[int, int], ...]  # pairs of keypoints, counted from 0
    image_ids: Int[np.ndarray, " pictures"]
    sizes_hw: Int[np.ndarray, "pictures 2"]

    def __init__(self, annotation_file: str | Path, image_folder: str | Path) -> None:
        self.annotation_file, self.image_folder = Path(annotation_file), Path(image_folder)
        content = _read_json(self.annotation_file)
        with _naming(str(self.annotation_file)):
            categories = _by_id(content, "categories")
            images = _by_id(content, "images")
            self.category_ids = tuple(sorted(categories))
            self.class_names = _unique_names([categories[id_] for id_ in self.category_ids])
            self.keypoint_names, self.skeleton = _keypoint_scheme(categories)
            self.keypoint_flip = _mirrored(self.keypoint_names)
            self.image_ids = np.array(list(images), dtype=np.int64)
            self.sizes_hw = np.array([_size_hw(image) for image in images.values()], dtype=np.int64)
            self._file_names = np.array([_file_name(image) for image in images.values()])
        self._check_files()
        self._records, self._ends = _pack(self._read_objects(content["annotations"]))

    def __len__(self) -> int:
        return len(self.image_ids)

    @property
    def paths(self) -> list[Path]:
        """Where every picture lies."""
        return [self.path(i) for i in range(len(self))]

    def path(self, index: int) -> Path:
        """Where picture `index` lies."""
        return self.image_folder / str(self._file_names[index])

    def objects(self, index: int) -> Objects:
        """The objects of picture `index`."""
        end = self._ends[index]
        start = self._ends[index - 1] if index else 0
        record = self._records[start:end].numpy().data
        return pickle.loads(record)  # written by _pack in this process, never from a file

    def _check_files(self) -> None:
        missing = [path for path in self.paths if not path.is_file()]
        if missing:
            examples = ", ".join(path.name for path in missing[:3])
            raise FileNotFoundError(
                f"{self.annotation_file}: {len(missing)} of {len(self)} pictures are not in"
                f" {self.image_folder}: {examples}{' …' if len(missing) > 3 else ''}"
            )

    def _read_objects(self, annotations: list) -> Iterator[Objects]:
        labels = {id_: label for label, id_ in enumerate(self.category_ids)}
        groups: dict[int, list[tuple[int, Entry]]] = {int(id_): [] for id_ in self.image_ids}
        for number, annotation in enumerate(annotations, 1):
            with _naming(_place(self.annotation_file, annotation)):
                groups[_known(annotation, "image_id", groups)].append((number, annotation))
        left_out: Counter[str] = Counter()
        for group, (height, width) in zip(groups.values(), self.sizes_hw.tolist(), strict=True):
            rows = []
            for number, annotation in group:
                with _naming(_place(self.annotation_file, annotation)):
                    label = labels[_known(annotation, "category_id", labels)]
                    row = _read_object(annotation, (height, width), len(self.keypoint_names), left_out)
                    rows.append((*row, label, number))
            yield _stack([row for row in rows if _area(row[0]) > 0], len(self.keypoint_names))
            left_out["boxes without area"] += sum(_area(row[0]) <= 0 for row in rows)
        if left_out.total():
            counts = " and ".join(f"{count} {what}" for what, count in left_out.items() if count)
            warnings.warn(f"{self.annotation_file}: left out {counts}", stacklevel=3)


@contextmanager
def _naming(place: str) -> Iterator[None]:
    """Say where it was that something was wrong."""
    try:
        yield
    except KeyError as error:
        raise ValueError(f"{place}: the field {error} is missing") from None
    except (TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{place}: {error}") from None


def _place(file: Path, annotation: Any) -> str:
    if not isinstance(annotation, dict):
        return f"{file}: an entry of 'annotations'"
    return f"{file}: annotation {annotation.get('id')} of image {annotation.get('image_id')}"


def _read_json(file: Path) -> Entry:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{file}: not a JSON file: {error}") from None
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise ValueError(f"{file}: not in COCO format: no list of {key!r}")
    return content


def _by_id(content: Entry, key: str) -> dict[int, Entry]:
    entries = {_whole(entry, "id"): entry for entry in content[key]}
    if not entries:
        raise ValueError(f"the list of {key!r} is empty")
    if len(entries) < len(content[key]):
        (id_, times), *_ = Counter(entry["id"] for entry in content[key]).most_common(1)
        raise ValueError(f"the id {id_} stands {times} times in {key!r}; each needs an id of its own")
    return entries


def _whole(entry: Any, key: str) -> int:
    value = entry[key]
    if not isinstance(value, int):
        raise ValueError(f"{key!r} is {value!r}, where a whole number was expected")
    return value


def _known(annotation: Any, key: str, ids: dict[int, Any]) -> int:
    id_ = _whole(annotation, key)
    if id_ not in ids:
        raise ValueError(f"{key!r} is {id_}, which the file does not list")
    return id_


def _unique_names(categories: list[Entry]) -> tuple[str, ...]:
    times = Counter(str(category["name"]) for category in categories)
    return tuple(
        f"{category['name']} ({category['id']})"
        if times[str(category["name"])] > 1
        else str(category["name"])
        for category in categories
    )


def _keypoint_scheme(categories: dict[int, Entry]) -> tuple[tuple[str, ...], tuple[tuple[int, int], ...]]:
    with_keypoints = [category for category in categories.values() if category.get("keypoints")]
    if not with_keypoints:
        return (), ()
    names = tuple(str(name) for name in with_keypoints[0]["keypoints"])
    if any(list(category["keypoints"]) != list(names) for category in with_keypoints):
        raise ValueError("the categories name different keypoints; one scheme for all of them was expected")
    return names, tuple((first - 1, second - 1) for first, second in with_keypoints[0].get("skeleton", ()))


def _mirrored(names: tuple[str, ...]) -> tuple[int, ...]:
    other = {"left": "right", "right": "left"}
    swapped = [re.sub("left|right", lambda found: other[found.group()], name) for name in names]
    return tuple(names.index(name) if name in names else i for i, name in enumerate(swapped))


def _size_hw(image: Entry) -> tuple[int, int]:
    size_hw = _whole(image, "height"), _whole(image, "width")
    if min(size_hw) < 1:
        raise ValueError(f"image {image['id']} is {size_hw[0]} by {size_hw[1]} pixels large")
    return size_hw


def _file_name(image: Entry) -> str:
    name = str(image["file_name"]).replace("\\", "/")
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
        raise ValueError(f"image {image['id']}: the file name {name!r} leads out of the folder of pictures")
    return name


def _read_object(
    annotation: Entry, size_hw: tuple[int, int], num_keypoints: int, left_out: Counter[str]
) -> tuple:
    """Box, crowd, mask and keypoints of one annotation."""
    box = _read_box(annotation, size_hw)
    crowd = bool(annotation.get("iscrowd", 0))
    segmentation = annotation.get("segmentation")
    if isinstance(segmentation, dict):
        return box, crowd, _read_runs(segmentation, size_hw), _read_keypoints(annotation, num_keypoints)
    mask = _read_polygons(segmentation, size_hw, left_out) if segmentation else None
    return box, crowd, mask, _read_keypoints(annotation, num_keypoints)


def _read_box(annotation: Entry, size_hw: tuple[int, int]) -> np.ndarray:
    box = _numbers(annotation["bbox"], "'bbox'")
    if len(box) != 4 or min(box[2:]) < 0:
        raise ValueError(f"'bbox' is {annotation['bbox']}, where x, y, width, height ≥ 0 was expected")
    height, width = size_hw
    return np.clip([box[0], box[1], box[0] + box[2], box[1] + box[3]], 0, [width, height, width, height])


def _area(box: np.ndarray) -> float:
    return float((box[2] - box[0]) * (box[3] - box[1]))


def _numbers(values: Any, what: str) -> np.ndarray:
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.ndim != 1 or not np.isfinite(numbers).all():
        raise ValueError(f"{what} is not a list of finite numbers")
    return numbers


def _read_polygons(segmentation: list, size_hw: tuple[int, int], left_out: Counter[str]) -> Polygons:
    rings = [_numbers(ring, f"polygon {i}") for i, ring in enumerate(segmentation)]
    limit = np.array(size_hw[::-1])
    for i, ring in enumerate(rings):
        if len(ring) % 2:
            raise ValueError(
                f"polygon {i} has {len(ring)} numbers; an even count was expected (x, y, x, y, …)"
            )
        points = ring.reshape(-1, 2)
        if (points < -limit).any() or (points > 2 * limit).any():
            raise ValueError(f"polygon {i} lies more than a picture's size outside the picture")
    good = [ring.reshape(-1, 2).astype(np.float32) for ring in rings if len(ring) >= 6]
    if not good:
        raise ValueError(f"polygon 0 has {len(rings[0]) // 2} points; at least 3 were expected")
    left_out["polygons of fewer than 3 points"] += len(rings) - len(good)
    return good


def _read_runs(segmentation: Entry, size_hw: tuple[int, int]) -> Entry:
    """Check run lengths, and bring them into one form, compressed."""
    if list(segmentation["size"]) != list(size_hw):
        raise ValueError(f"run lengths of size {segmentation['size']} on a picture of size {list(size_hw)}")
    counts = rle_counts(segmentation)
    return {"size": list(size_hw), "counts": compress(counts)}


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
    return (keypoints + np.array([0.5, 0.5, 0])) * (keypoints[:, 2:] > 0)


def _stack(rows: list[tuple], num_keypoints: int) -> Objects:
    boxes, crowd, masks, keypoints, labels, ids = zip(*rows, strict=True) if rows else ((),) * 6
    return Objects(
        boxes=np.array(boxes, dtype=np.float32).reshape(-1, 4),
        labels=np.array(labels, dtype=np.int64),
        crowd=np.array(crowd, dtype=np.bool_),
        masks=list(masks),
        keypoints=np.array(keypoints, dtype=np.float32).reshape(-1, num_keypoints, 3)
        if num_keypoints
        else None,
        ids=np.array(ids, dtype=np.int64),
    )


def _pack(objects: Iterator[Objects]) -> tuple[torch.Tensor, np.ndarray]:
    """All pictures' objects in one tensor of bytes, and where each record ends.

    Counting references writes to Python objects, so forked workers would copy them page by page. A tensor's
    bytes stay untouched, and spawned workers get them through shared memory.
    """
    records = [pickle.dumps(record, protocol=5) for record in objects]
    return torch.frombuffer(bytearray(b"".join(records)), dtype=torch.uint8), np.cumsum([*map(len, records)])
