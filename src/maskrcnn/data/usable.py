"""What of a data set can be used as it is: pictures that can be read, and classes that are known by name."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from maskrcnn.data.categories import Entry
from maskrcnn.data.dataset import Dataset, Objects
from maskrcnn.data.notes import Notes
from maskrcnn.data.picture_files import checked_header
from maskrcnn.data.split import Subset
from maskrcnn.messages import Faults


def with_usable_pictures(dataset: Dataset) -> Dataset:
    """Return the data set without the pictures that cannot be read or have another size than it says.

    Headers are read, nothing is decoded (see `checked_header`). A warning counts the pictures that are left
    out and names the first. Raises ValueError that names all where none is left.
    """
    faults = {index: fault for index in range(len(dataset)) if (fault := _fault(dataset, index))}
    if not faults:
        return dataset
    if len(faults) == len(dataset):
        raise Faults(list(faults.values()))
    notes = Notes(dataset.source)
    for fault in faults.values():
        notes.leave_out("pictures that cannot be used", fault)
    notes.warn()
    return Subset(dataset, [index for index in range(len(dataset)) if index not in faults])


def _fault(dataset: Dataset, index: int) -> str:
    path, stated_hw = dataset.path(index), tuple(dataset.sizes_hw[index].tolist())
    header = checked_header(path)
    if isinstance(header, str):
        return header
    if header.upright_hw == stated_hw:
        return ""
    turned = ", stored turned by EXIF" if header.is_turned else ""
    exchanged = " (height and width are exchanged)" if header.upright_hw == stated_hw[::-1] else ""
    sizes = [f"{width} x {height}" for height, width in (header.upright_hw, stated_hw)]
    return f"{path}: the picture has {sizes[0]} pixels{turned}, its entry says {sizes[1]}{exchanged}"


def with_classes(dataset: Dataset, class_names: Sequence[str], category_ids: Sequence[int]) -> Dataset:
    """Return the data set with the classes of a network, which are matched by name.

    Where the network does not have all classes of the data set, this stays as it is.
    """
    has_same = dataset.class_names == tuple(class_names) and dataset.category_ids == tuple(category_ids)
    if has_same or not set(dataset.class_names) <= set(class_names):
        return dataset
    ids = dict(zip(class_names, category_ids, strict=True))
    pairs = zip(dataset.class_names, dataset.category_ids, strict=True)
    if other := [name for name, id_ in pairs if ids[name] != id_]:
        warnings.warn(
            f"{dataset.source}: {len(other)} classes have other category ids than the training's; they are "
            "matched by name",
            stacklevel=2,
        )
    return _Relabelled(dataset, tuple(class_names), tuple(category_ids))


class _Relabelled:
    """A `Dataset` with the labels and category ids of other classes, among which are its own."""

    def __init__(self, dataset: Dataset, class_names: tuple[str, ...], category_ids: tuple[int, ...]) -> None:
        self._dataset = dataset
        self.class_names, self.category_ids = class_names, category_ids
        self._labels = np.array([class_names.index(name) for name in dataset.class_names], np.int64)
        self.source, self.white, self.skeleton = dataset.source, dataset.white, dataset.skeleton
        self.keypoint_names, self.keypoint_flip = dataset.keypoint_names, dataset.keypoint_flip
        self.image_ids, self.sizes_hw = dataset.image_ids, dataset.sizes_hw

    def __len__(self) -> int:
        return len(self._dataset)

    @property
    def paths(self) -> list[Path]:
        """The paths of all pictures."""
        return self._dataset.paths

    def path(self, index: int) -> Path:
        """Return the path of picture `index`."""
        return self._dataset.path(index)

    def objects(self, index: int) -> Objects:
        """Return the objects of picture `index`."""
        objects = self._dataset.objects(index)
        return objects._replace(labels=self._labels[objects.labels])

    def truth(self) -> Entry:
        """Return the ground truth in COCO's form, with the new category ids; of the classes only its own."""
        truth = self._dataset.truth()
        new = [self.category_ids[label] for label in self._labels]
        ids = dict(zip(self._dataset.category_ids, new, strict=True))
        categories, annotations = (
            [{**entry, key: ids[entry[key]]} for entry in truth[name]]
            for name, key in (("categories", "id"), ("annotations", "category_id"))
        )
        return {**truth, "categories": categories, "annotations": annotations}
