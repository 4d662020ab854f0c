"""Data sets: the protocol that training and evaluation use, and the implementation that readers fill."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Sequence
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from maskrcnn.data.categories import Categories, Entry

Polygons = list[np.ndarray]  # the rings of one object, each (points, 2)
Mask = Polygons | Entry | None  # polygons, compressed run lengths {"size": [h, w], "counts": str}, or no mask


class Objects(NamedTuple):
    """Ground truth of one picture for training, in pixels of its file: objects whose box has an area."""

    boxes: Float[np.ndarray, "G 4"]  # clipped to the picture
    labels: Int[np.ndarray, " G"]  # 0 … K-1
    crowd: Bool[np.ndarray, " G"]
    masks: list[Mask]
    keypoints: Float[np.ndarray, "G J 3"] | None  # x, y, visibility; x and y are centres of pixels (+ 0.5)
    ids: Int[np.ndarray, " G"]  # position among all annotations, from 1: files repeat ids, and some use 0


@runtime_checkable
class Dataset(Protocol):
    """Annotated pictures of one split, numbered 0 … len - 1."""

    source: Path  # file or folder of the annotations, for messages
    class_names: tuple[str, ...]  # of the labels 0 … K-1, unique
    category_ids: tuple[int, ...]  # of the same classes in `truth()`
    keypoint_names: tuple[str, ...]
    keypoint_flip: tuple[int, ...]  # index of the keypoint that each becomes in a mirror image
    skeleton: tuple[tuple[int, int], ...]  # pairs of keypoint indices, from 0
    image_ids: Int[np.ndarray, " pictures"]
    sizes_hw: Int[np.ndarray, "pictures 2"]  # upright, as `read_picture` returns them
    white: int | None  # of pictures with more than 8 bits, see `read_picture`

    def __len__(self) -> int:
        """Return the number of pictures."""
        ...

    @property
    def paths(self) -> list[Path]:
        """The paths of all pictures."""
        ...

    def path(self, index: int) -> Path:
        """Return the path of picture `index`."""
        ...

    def objects(self, index: int) -> Objects:
        """Return the objects of picture `index`."""
        ...

    def truth(self) -> Entry:
        """Return all ground truth in COCO's annotation form, for evaluation."""
        ...


class Annotations(NamedTuple):
    """All annotations of one picture with the exact values of their file, in COCO's coordinates.

    This is what a reader yields. `Objects` and COCO's form are two views of it.
    """

    bboxes: Float[np.ndarray, "G 4"]  # x, y, width, height; not clipped, may have no area
    areas: Float[np.ndarray, " G"]  # px²; NaN where the file has none
    labels: Int[np.ndarray, " G"]
    crowd: Bool[np.ndarray, " G"]
    masks: list[Mask]
    keypoints: Float[np.ndarray, "G J 3"]  # x and y are indices of pixels; visibility 0 where not labelled
    ids: Int[np.ndarray, " G"]

    def to_objects(self, size_hw: Sequence[int]) -> Objects:
        """Return the objects to learn from; those whose box has no area within the picture are left out."""
        boxes = clipped_boxes(self.bboxes, size_hw)
        kept = np.flatnonzero(_areas(boxes) > 0)
        labelled = self.keypoints[kept, :, 2:] > 0
        keypoints = (self.keypoints[kept] + np.array([0.5, 0.5, 0])) * labelled
        return Objects(
            boxes=boxes[kept].astype(np.float32),
            labels=self.labels[kept],
            crowd=self.crowd[kept],
            masks=[_to_float32(self.masks[i]) for i in kept],
            keypoints=keypoints.astype(np.float32) if keypoints.shape[1] else None,
            ids=self.ids[kept],
        )

    def to_coco(self, image_id: int, category_ids: Sequence[int]) -> list[Entry]:
        """Return the entries of COCO's list of annotations."""
        entries = []
        for i, (id_, label) in enumerate(zip(self.ids.tolist(), self.labels.tolist(), strict=True)):
            entry = {"id": id_, "image_id": image_id, "category_id": category_ids[label]}
            entry |= {"bbox": self.bboxes[i].tolist(), "iscrowd": int(self.crowd[i])}
            entry |= {"segmentation": _to_lists(self.masks[i])}
            if not np.isnan(self.areas[i]):
                entry["area"] = float(self.areas[i])
            if self.keypoints.shape[1]:
                entry["keypoints"] = self.keypoints[i].ravel().tolist()
            entries.append(entry)
        return entries


def clipped_boxes(bboxes: Float[np.ndarray, "G 4"], size_hw: Sequence[int]) -> Float[np.ndarray, "G 4"]:
    """Convert COCO's boxes to x1, y1, x2, y2, clipped to a picture of `size_hw`."""
    corners = np.concatenate([bboxes[:, :2], bboxes[:, :2] + bboxes[:, 2:]], 1)
    height, width = size_hw
    return np.clip(corners, 0, [width, height, width, height])


def _areas(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def _to_float32(mask: Mask) -> Mask:
    return [ring.astype(np.float32) for ring in mask] if isinstance(mask, list) else mask


def _to_lists(mask: Mask) -> list | Entry:
    return [ring.ravel().tolist() for ring in mask] if isinstance(mask, list) else mask or []


class PackedDataset:
    """A `Dataset` in one buffer of bytes, which worker processes share without copying it."""

    def __init__(
        self,
        source: Path,
        image_folder: Path,
        categories: Categories,
        images: Sequence[Entry],
        annotations: Iterable[Annotations],
        white: int | None = None,
    ) -> None:
        """Pack a data set; `annotations` yields those of each of `images`, in their order.

        `images` are COCO's entries with "id", "file_name" (relative to `image_folder`), "height", "width".
        Further fields are kept for evaluation (LVIS' "neg_category_ids", the "void" of Cityscapes).
        """
        self.source, self.image_folder, self.white = source, image_folder, white
        self.class_names, self.category_ids = categories.class_names, categories.category_ids
        self.keypoint_names, self.keypoint_flip = categories.keypoint_names, categories.keypoint_flip
        self.skeleton = categories.skeleton
        self.image_ids = np.array([image["id"] for image in images], np.int64)
        sizes_hw = [(image["height"], image["width"]) for image in images]
        self.sizes_hw = np.array(sizes_hw, np.int64).reshape(-1, 2)
        self._categories = PackedList([categories.entries])
        self._images, self._annotations = PackedList(images), PackedList(annotations)

    def __len__(self) -> int:
        return len(self.image_ids)

    @property
    def paths(self) -> list[Path]:
        """The paths of all pictures."""
        return [self.path(i) for i in range(len(self))]

    def path(self, index: int) -> Path:
        """Return the path of picture `index`."""
        return self.image_folder / self._images[index]["file_name"]

    def objects(self, index: int) -> Objects:
        """Return the objects of picture `index`."""
        return self._annotations[index].to_objects(self.sizes_hw[index].tolist())

    def truth(self) -> Entry:
        """Return all ground truth in COCO's annotation form, for evaluation.

        Annotations have the exact values of their file and its order, also those without area, which
        training leaves out; polygons of fewer than 3 points are gone. Their ids count from 1.
        """
        images = [self._images[i] for i in range(len(self))]
        entries = (
            self._annotations[i].to_coco(image["id"], self.category_ids) for i, image in enumerate(images)
        )
        annotations = sorted(chain.from_iterable(entries), key=itemgetter("id"))
        return {"images": images, "annotations": annotations, "categories": list(self._categories[0])}


class PackedList:
    """Pickled values in one tensor of bytes; each access unpickles one.

    Reference counts are written into Python objects, so forked workers would copy them page by page. The
    bytes of a tensor are only read, and spawned workers receive them through shared memory.
    """

    def __init__(self, values: Iterable[Any]) -> None:
        data, ends = bytearray(), []
        for value in values:
            data += pickle.dumps(value, protocol=5)
            ends.append(len(data))
        self._data = torch.frombuffer(data, dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)
        self._ends = np.array(ends, np.int64)

    def __getitem__(self, index: int) -> Any:
        start = self._ends[index - 1] if index else 0
        return pickle.loads(self._data[start : self._ends[index]].numpy().data)  # never bytes from a file
