"""A validation split for data that has none: drawn once, by whole groups of pictures that belong together."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int

from maskrcnn.data.categories import Entry
from maskrcnn.data.dataset import Dataset, Objects
from maskrcnn.data.near_duplicates import near_duplicates, read_thumbnail

_COMPARED = 5000  # pictures that are compared by content; more are grouped by their names alone
# What tools add to the name of a picture: Roboflow's ".rf." and hash, the row and column of a tile
_ADDED = re.compile(r"(_jpe?g|_png)?\.rf\.[0-9a-f]+$|[-_][xy]?\d+[-_][xy]?\d+$")


class Subset:
    """Some pictures of a `Dataset`, as a data set of their own."""

    def __init__(self, dataset: Dataset, indices: Sequence[int] | np.ndarray) -> None:
        self._dataset, self._indices = dataset, np.array(indices, np.int64)
        self.source = dataset.source
        self.class_names, self.category_ids = dataset.class_names, dataset.category_ids
        self.keypoint_names, self.keypoint_flip = dataset.keypoint_names, dataset.keypoint_flip
        self.skeleton, self.white = dataset.skeleton, dataset.white
        self.image_ids, self.sizes_hw = dataset.image_ids[self._indices], dataset.sizes_hw[self._indices]

    def __len__(self) -> int:
        return len(self._indices)

    @property
    def paths(self) -> list[Path]:
        """The paths of all pictures."""
        return [self.path(i) for i in range(len(self))]

    def path(self, index: int) -> Path:
        """Return the path of picture `index`."""
        return self._dataset.path(int(self._indices[index]))

    def objects(self, index: int) -> Objects:
        """Return the objects of picture `index`."""
        return self._dataset.objects(int(self._indices[index]))

    def truth(self) -> Entry:
        """Return the ground truth of these pictures in COCO's annotation form."""
        truth, own = self._dataset.truth(), set(self.image_ids.tolist())
        return {
            **truth,
            "images": [image for image in truth["images"] if image["id"] in own],
            "annotations": [entry for entry in truth["annotations"] if entry["image_id"] in own],
        }


def validation_share(pictures: int) -> float:
    """Return the share of the pictures that is held back: 0.2 of few, 500 of some, 0.01 of very many."""
    if pictures < 5000:
        return max(0.1, min(0.2, 500 / max(pictures, 1)))
    return max(0.01, min(0.1, 2500 / pictures))


def draw_validation(dataset: Dataset, seed: int) -> list[int]:
    """Return the indices, ascending, of the pictures that are held back for validation.

    Pictures of one group (`groups_of`) stay together. Classes are served from the rarest to the most
    frequent: each gives its share of its pictures, rounded, so that a class of one or two pictures stays in
    training. The list is empty where all pictures are one group.
    """
    share, members = validation_share(len(dataset)), _shuffled_groups(dataset, seed)
    if len(members) < 2:
        return []
    counts = _pictures_of_classes(dataset, members)
    sizes, total = np.array([len(group) for group in members]), counts.sum(0)
    limit = max(1, round(1.5 * share * len(dataset)))
    chosen, decided = np.zeros(len(members), np.bool_), np.zeros(len(members), np.bool_)
    for label in _rarest_first(total):
        wanted = round(share * total[label])
        for group in np.flatnonzero((counts[:, label] > 0) & ~decided):
            decided[group] = True
            missing = wanted - counts[chosen, label].sum()
            chosen[group] = counts[group, label] <= missing and sizes[chosen].sum() + sizes[group] <= limit
    if not chosen.any():
        chosen[sizes.argmin()] = True
    return sorted(np.concatenate([members[group] for group in np.flatnonzero(chosen)]).tolist())


def draw_folds(dataset: Dataset, count: int, seed: int) -> list[list[int]]:
    """Distribute all pictures over `count` folds; return the indices of each, ascending.

    Pictures of one group (`groups_of`) stay together. Classes are served from the rarest to the most
    frequent: each group goes to the fold with the fewest pictures of its class, and of these to the one with
    the fewest pictures. Raises ValueError for fewer than 2 folds, and where there are fewer groups.
    """
    members = _shuffled_groups(dataset, seed)
    if not 2 <= count <= len(members):
        raise ValueError(
            f"--folds {count}: expected from 2 to {len(members)}, which is how many groups of pictures "
            f"{dataset.source} has (near duplicates and tiles stay together)"
        )
    counts = _pictures_of_classes(dataset, members)
    folds: list[list[int]] = [[] for _ in range(count)]
    given, decided = np.zeros((count, counts.shape[1]), np.int64), np.zeros(len(members), np.bool_)
    for label in _rarest_first(counts.sum(0)):
        for group in np.flatnonzero((counts[:, label] > 0) & ~decided):
            decided[group] = True
            fold = min(range(count), key=lambda fold: (given[fold, label], len(folds[fold])))
            folds[fold] += members[group].tolist()
            given[fold] += counts[group]
    return [sorted(fold) for fold in folds]


def _shuffled_groups(dataset: Dataset, seed: int) -> list[np.ndarray]:
    """Return the indices of the pictures of each group, the groups in random order."""
    groups, generator = groups_of(dataset), np.random.default_rng(seed)
    return [np.flatnonzero(groups == group) for group in generator.permutation(groups.max(initial=-1) + 1)]


def _pictures_of_classes(
    dataset: Dataset, members: Sequence[np.ndarray]
) -> Int[np.ndarray, "groups classes_and_none"]:
    """Count in each group the pictures with each class; pictures without objects are the last one."""
    classes = np.zeros((len(dataset), len(dataset.class_names)), np.bool_)
    for index in range(len(dataset)):
        classes[index, dataset.objects(index).labels] = True
    classes = np.concatenate([classes, ~classes.any(1, keepdims=True)], 1)
    return np.stack([classes[group].sum(0) for group in members])


def _rarest_first(total: np.ndarray) -> list[int]:
    """Return the classes from the rarest to the most frequent; pictures without objects are served last."""
    return sorted(range(len(total)), key=lambda label: (label == len(total) - 1, total[label]))


def groups_of(dataset: Dataset) -> Int[np.ndarray, " pictures"]:
    """Return the number of the group, from 0, that each picture belongs to.

    A group is what must not stand on both sides of a split: near duplicates (see `near_duplicates`), copies
    that an annotation tool augmented, and tiles of one picture, which their names tell. What would make one
    group of more than half of the pictures is not used: numbered names, or a camera that always shows the
    same scene.
    """
    paths = dataset.paths
    groups = np.arange(len(paths))
    alike = near_duplicates([read_thumbnail(path) for path in paths] if len(paths) <= _COMPARED else [])
    for pairs in (_same_names(paths), alike):
        merged = _merge(groups, pairs)
        if np.bincount(merged).max(initial=0) <= max(1, len(paths) // 2):
            groups = merged
    return np.unique(groups, return_inverse=True)[1]


def _same_names(paths: Sequence[Path]) -> Iterator[tuple[int, int]]:
    """Yield the first picture of each name without what tools add, and each other one of the name."""
    first: dict[str, int] = {}
    for index, path in enumerate(paths):
        yield first.setdefault(_ADDED.sub("", str(path.with_suffix(""))), index), index


def _merge(groups: np.ndarray, pairs: Iterable[tuple[int, int]]) -> np.ndarray:
    """Return the groups, those of the pictures of each pair made one."""
    merged = groups.copy()
    for one, other in pairs:
        merged[merged == merged[other]] = merged[one]
    return merged
