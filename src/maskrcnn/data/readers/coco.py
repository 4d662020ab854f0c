"""Reader of COCO's JSON format."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from maskrcnn.data.categories import Categories, Entry, to_categories
from maskrcnn.data.dataset import Annotations, Mask, PackedDataset
from maskrcnn.data.file_names import file_name_within
from maskrcnn.data.notes import Notes
from maskrcnn.data.picture_files import read_header
from maskrcnn.data.readers.coco_masks import bbox_of, read_numbers, read_polygons, read_rle, without_pairs
from maskrcnn.data.white import common_white
from maskrcnn.files import read_json, reading
from maskrcnn.messages import Faults, all_faults

_INTEGER = r"\s*-?[0-9]{1,19}\s*"  # a text that is read as one
_LONGEST_NAME = 1000  # letters of an id

_Numbered = tuple[int, Any]  # position in the list of annotations, from 1, and the annotation


def read_coco(annotation_file: str | Path, image_folder: str | Path) -> PackedDataset:
    """Read an annotation file in COCO's format; its pictures are in `image_folder`.

    Labels are 0 … K-1 in the order of the category ids. Classes without examples and pictures without objects
    are kept.

    What can be meant is repaired: a number written as a text, a name in place of an id, a polygon that is not
    in a list, a box that is missing beside a mask, the size of a picture, which its file tells. An annotation
    that cannot be used is left out, and so is a picture that is not there or has no valid name and size;
    boxes without area are left out of training, and so are keypoints that differ between the classes. A
    warning counts all of these and names the first of each kind.

    Raises ValueError that names file, picture and annotation where none of these can be used, and for
    categories and ids that are not valid, all at once; FileNotFoundError where no picture is there.
    """
    file, folder = Path(annotation_file), Path(image_folder)
    content, notes = read_annotations(file), Notes(file)
    with all_faults() as attempt:
        with attempt(), _naming(str(file)):
            classes = _by_id(content["categories"], "categories", notes)
            categories = to_categories({entry["id"]: entry for entry in classes.values()})
        with attempt(), _naming(str(file)):
            entries = _by_id(content["images"], "images", notes)
    if not categories.keypoint_names:
        differing = sum(bool(entry.get("keypoints")) for entry in categories.entries)
        notes.leave_out("keypoint schemes, which differ between the classes", count=differing)
    images = _present(file, folder, _usable(file, folder, entries.values(), notes), notes)
    white = common_white([folder / image["file_name"] for image in images])
    groups = _by_image(content.pop("annotations"), _ids(entries), images, notes)
    annotations = _Reader(categories, _ids(classes), notes).read_all(groups, images)
    return PackedDataset(file, folder, categories, images, annotations, white)


_UNUSABLE, _ABSENT = "annotations that cannot be used", "pictures that are not there"
_UNUSABLE_PICTURES = "pictures that cannot be used"
_TEXTS = "numbers that are written as texts"

Key = int | str  # an integer of 64 bits, or what a file uses in its place, as a text


def first_file_name(annotation_file: Path) -> str:
    """Return the name of the first picture of an annotation file. Raises ValueError as `read_coco` does."""
    with _naming(str(annotation_file)):
        entries = _by_id(read_annotations(annotation_file)["images"], "images", Notes(annotation_file))
        return file_name_within(next(iter(entries.values()))["file_name"])


@contextmanager
def _naming(place: str) -> Iterator[None]:
    """Put `place` in front of the message of an error."""
    try:
        yield
    except KeyError as error:
        raise ValueError(f"{place}: the field {error} is missing") from None
    except Faults as faults:
        raise Faults([f"{place}: {sentence}" for sentence in faults.sentences]) from None
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ValueError(f"{place}: {error}") from None


def _place(annotation: Any) -> str:
    if not isinstance(annotation, dict):
        return "an entry of 'annotations'"
    return f"annotation {annotation.get('id')} of image {annotation.get('image_id')}"


def read_annotations(file: Path) -> Entry:
    """Return the content of an annotation file with its three lists. Raises ValueError for any other."""
    content = read_json(file)
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise ValueError(f"{file}: not in COCO's format: it has no list {key!r}")
    return content


def _by_id(entries: list, key: str, notes: Notes) -> dict[Key, Entry]:
    """Return the entries by the ids of the file; ids that are names get numbers of their own.

    Raises ValueError for ids that repeat or are neither, and where there is none.
    """
    if wrong := [entry for entry in entries if not isinstance(entry, dict)]:
        raise ValueError(f"the list {key!r} contains {str(wrong[0])[:80]!r}, where an object was expected")
    if not entries:
        raise ValueError(f"the list {key!r} is empty")
    keys: list[Key] = []
    with all_faults() as attempt:
        for entry in entries:
            with attempt(), _naming(f"an entry of {key!r}"):
                keys.append(_key(entry, "id", notes))
    repeated = [(id_, count) for id_, count in Counter(keys).items() if count > 1]
    if repeated:
        raise Faults([f"the id {id_} occurs {n} times in {key!r}; ids must be unique" for id_, n in repeated])
    names = [id_ for id_ in keys if isinstance(id_, str)]
    notes.repaired[f"ids of {key} that are no numbers of 64 bits, and were numbered,"] += len(names)
    free = 1 + max((id_ for id_ in keys if isinstance(id_, int)), default=0)
    numbers = {name: number for number, name in enumerate(names, free)}
    return {
        id_: {**entry, "id": numbers.get(id_, id_) if isinstance(id_, str) else id_}
        for id_, entry in zip(keys, entries, strict=True)
    }


def _ids(entries: Mapping[Key, Entry]) -> dict[Key, int]:
    return {key: entry["id"] for key, entry in entries.items()}


def _key(entry: Any, key: str, notes: Notes) -> Key:
    """Return an id of the file: an integer, or the text of a name or of a number beyond 64 bits."""
    value = entry[key]
    is_name = isinstance(value, str) and not re.fullmatch(_INTEGER, value) and 0 < len(value) <= _LONGEST_NAME
    is_huge = type(value) is int and not -(2**63) <= value < 2**63 and value.bit_length() < 1024
    return str(value) if is_name or is_huge else _integer(entry, key, notes)


def _integer(entry: Any, key: str, notes: Notes) -> int:
    value = entry[key]
    if isinstance(value, str) and re.fullmatch(_INTEGER, value):
        notes.repaired[_TEXTS] += 1
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{key!r} is {repr(value)[:80]}, where an integer was expected")
    if not -(2**63) <= value < 2**63:
        raise ValueError(f"{key!r} does not fit into 64 bits")
    return value


def _listed(annotation: Any, key: str, ids: Mapping[Key, int], notes: Notes) -> int:
    id_ = _key(annotation, key, notes)
    if id_ not in ids:
        raise ValueError(f"{key!r} is {id_}, which the file does not list")
    return ids[id_]


def _usable(file: Path, folder: Path, entries: Iterable[Entry], notes: Notes) -> list[Entry]:
    """Return the images whose names and sizes can be used. Raises ValueError where there is none."""
    images, faults = [], []
    for entry in entries:
        try:
            with _naming(f"image {entry['id']}"):
                images.append(_read_image(folder, entry, notes))
        except ValueError as error:
            notes.leave_out(_UNUSABLE_PICTURES, str(error))
            faults.append(f"{file}: {error}")
    if not images:
        raise Faults(faults)
    return images


def _read_image(folder: Path, entry: Entry, notes: Notes) -> Entry:
    name = file_name_within(entry["file_name"])
    if None in (entry.get("height"), entry.get("width")) and _is_file(folder / name):
        height, width = read_header(folder / name).upright_hw
        entry = {**entry, "height": height, "width": width}
        notes.repaired["sizes of pictures from their files"] += 1
    height, width = _integer(entry, "height", notes), _integer(entry, "width", notes)
    if not (1 <= height < 2**31 and 1 <= width < 2**31):
        raise ValueError(f"its height is {height} and its width is {width} pixels")
    return {**entry, "file_name": name, "height": height, "width": width}


def _present(file: Path, folder: Path, images: Sequence[Entry], notes: Notes) -> list[Entry]:
    """Return the images whose pictures are in the folder. Raises FileNotFoundError where none is."""
    present = [image for image in images if _is_file(folder / image["file_name"])]
    is_present = {image["id"] for image in present}
    for image in images:
        if image["id"] not in is_present:
            notes.leave_out(_ABSENT, image["file_name"])
    if not present:
        names = "; ".join(notes.examples[_ABSENT])
        raise FileNotFoundError(f"{file}: none of its {len(images)} pictures is in {folder}: {names}")
    return present


def _is_file(path: Path) -> bool:
    with reading(path):
        return path.is_file()


def _by_image(
    annotations: list, known: Mapping[Key, int], images: Sequence[Entry], notes: Notes
) -> dict[int, list[_Numbered]]:
    """Group annotations by their image; those of absent pictures fall away with these."""
    groups: dict[int, list[_Numbered]] = {image["id"]: [] for image in images}
    for number, annotation in enumerate(annotations, 1):
        try:
            with _naming(_place(annotation)):
                image_id = _listed(annotation, "image_id", known, notes)
        except ValueError as error:
            notes.leave_out(_UNUSABLE, str(error))
        else:
            if image_id in groups:
                groups[image_id].append((number, annotation))
    return groups


class _Reader:
    """Checks annotations, and notes what it leaves out."""

    def __init__(self, categories: Categories, ids: Mapping[Key, int], notes: Notes) -> None:
        self.labels = {key: categories.category_ids.index(id_) for key, id_ in ids.items()}
        self.num_keypoints = len(categories.keypoint_names)
        self.notes = notes

    def read_all(self, groups: dict[int, list[_Numbered]], images: Sequence[Entry]) -> Iterator[Annotations]:
        """Yield the annotations of each image; `groups` is emptied on the way, to free its memory.

        Raises ValueError where there are annotations and none can be used.
        """
        usable = 0
        for image in images:
            size_hw = image["height"], image["width"]
            rows = [self._row(one, size_hw) for one in groups.pop(image["id"])]
            annotations = self._stack([row for row in rows if row is not None])
            usable += len(annotations.ids)
            flat = len(annotations.ids) - len(annotations.to_objects(size_hw).ids)
            self.notes.leave_out("boxes without area", count=flat)
            yield annotations
        if not usable and self.notes.left_out[_UNUSABLE]:
            raise ValueError(f"{self.notes.file}: there are only {self.notes.described(_UNUSABLE)}")
        self.notes.warn()

    def _row(self, numbered: _Numbered, size_hw: tuple[int, int]) -> tuple | None:
        """Return the row of `Annotations` of one annotation, None where it cannot be used."""
        try:
            return self._read(numbered, size_hw)
        except ValueError as error:
            self.notes.leave_out(_UNUSABLE, str(error))
            return None

    def _read(self, numbered: _Numbered, size_hw: tuple[int, int]) -> tuple:
        number, annotation = numbered
        with _naming(_place(annotation)):
            mask = self._read_mask(annotation.get("segmentation"), size_hw)
            return (
                self._read_bbox(annotation, mask),
                self._read_area(annotation.get("area")),
                _listed(annotation, "category_id", self.labels, self.notes),
                _read_crowd(annotation.get("iscrowd")),
                mask,
                _read_keypoints(annotation, self.num_keypoints),
                number,
            )

    def _read_bbox(self, annotation: Entry, mask: Mask) -> np.ndarray:
        if not annotation.get("bbox") and mask:
            self.notes.repaired["boxes from their masks"] += 1
            return bbox_of(mask)
        bbox = annotation["bbox"]
        if isinstance(bbox, dict):
            bbox = [bbox[side] for side in ("x", "y", "width", "height")]
            self.notes.repaired["boxes that are objects with x, y, width and height"] += 1
        bbox = read_numbers(bbox, "'bbox'")
        if len(bbox) != 4 or min(bbox[2:]) < 0:
            raise ValueError(
                f"'bbox' is {str(annotation['bbox'])[:80]}, where x, y, width, height ≥ 0 was expected"
            )
        return bbox

    def _read_area(self, value: Any) -> float:
        """Return the area in px²; NaN if there is none, for evaluation computes it from the mask."""
        value = value[0] if isinstance(value, list) and len(value) == 1 else value
        try:
            area = math.nan if value is None else float(value)
        except (TypeError, ValueError, OverflowError):
            area = -1.0
        if area < 0 or math.isinf(area):
            self.notes.leave_out("areas that are not numbers")
            return math.nan
        return area

    def _read_mask(self, segmentation: Any, size_hw: tuple[int, int]) -> Mask:
        if isinstance(segmentation, dict):
            return read_rle(segmentation, size_hw)
        if not segmentation:
            return None
        if not isinstance(segmentation, list):
            raise ValueError(f"'segmentation' is {str(segmentation)[:80]!r}, where a list was expected")
        if not any(isinstance(ring, list) for ring in segmentation):
            segmentation = [segmentation]
            self.notes.repaired["polygons that are not in a list"] += 1
        segmentation, pairs = without_pairs(segmentation)
        self.notes.repaired["polygons of pairs [x, y]"] += pairs
        rings = read_polygons(segmentation, size_hw)
        self.notes.leave_out("polygons of fewer than 3 points", count=len(segmentation) - len(rings))
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


def _read_crowd(value: Any) -> bool:
    if value not in (None, 0, 1, "0", "1"):
        raise ValueError(f"'iscrowd' is {value!r}, where 0 or 1 was expected")
    return value in (1, "1")


def _read_keypoints(annotation: Entry, num_keypoints: int) -> np.ndarray:
    if not num_keypoints or not annotation.get("keypoints"):
        return np.zeros((num_keypoints, 3))
    keypoints = read_numbers(annotation["keypoints"], "'keypoints'")
    if len(keypoints) != 3 * num_keypoints:
        raise ValueError(
            f"'keypoints' has {len(keypoints)} numbers; expected {num_keypoints} times x, y, visibility"
        )
    keypoints = keypoints.reshape(-1, 3)
    if not np.isin(keypoints[:, 2], (0, 1, 2)).all():
        raise ValueError("a keypoint's visibility is not 0, 1 or 2")
    return keypoints
