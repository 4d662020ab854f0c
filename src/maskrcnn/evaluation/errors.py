"""What went wrong where: detections and truth in COCO's form, matched picture by picture.

Matching is COCO's (see `matching`), from the surest detection down. So what is matched above a score does not
depend on what is below it, and one matching serves every threshold of the score. Crowd regions are neither
found nor missed: a detection that lies in one of its own class is ignored.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from maskrcnn.evaluation import matching
from maskrcnn.evaluation.matching import NOTHING, RECALLS

Entry = dict[str, Any]

LEAST_IOU = 0.5  # a detection is right from here on
NEAR_IOU = 0.1  # under it, a detection is of nothing at all (TIDE's background threshold)
IGNORED = -2  # what a detection is matched with that lies in a crowd

KINDS = {
    "localisation": "an object of its class is there, but the overlap is only 0.1 to 0.5",
    "class": "an object is there, overlap at least 0.5, but of another class",
    "both": "an object of another class is near, overlap 0.1 to 0.5: class and place are wrong",
    "duplicate": "the object, overlap at least 0.5, is already taken by a surer detection",
    "background": "no object is near: all overlaps are under 0.1",
    "missed": "an object that no detection found, nor mistook for another class or place",
}


class ImageMatches(NamedTuple):
    """One picture: what was found, surest first, what is there, and how much they overlap.

    Labels count the classes in order of their ids. With a crowd, the overlap is the share of the detection
    that lies inside. `found` and `there` are places in the lists of detections and annotations.
    """

    image_id: int
    scores: Float[np.ndarray, " D"]
    labels: Int[np.ndarray, " D"]
    true_labels: Int[np.ndarray, " G"]
    crowd: Bool[np.ndarray, " G"]
    ious: Float[np.ndarray, "D G"]
    found: Int[np.ndarray, " D"]
    there: Int[np.ndarray, " G"]

    def above(self, threshold: float) -> ImageMatches:
        """Keep the detections of at least this score."""
        count = int((self.scores >= threshold).sum())
        return self._replace(
            scores=self.scores[:count],
            labels=self.labels[:count],
            ious=self.ious[:count],
            found=self.found[:count],
        )


class Quality(NamedTuple):
    """How good the detections above a threshold are, all classes together; shares of 1."""

    threshold: float
    precision: float
    recall: float
    f1: float


class Errors(NamedTuple):
    """Of one picture: the kind of each detection, None where it is not wrong; which objects are missed."""

    kinds: list[str | None]
    missed: Bool[np.ndarray, " G"]

    def by_kind(self) -> Counter[str]:
        """How many there are of each kind."""
        counts = Counter(kind for kind in self.kinds if kind)
        counts["missed"] = int(self.missed.sum())
        return +counts


def match_images(
    truth: Entry, detections: Sequence[Entry], *, by_masks: bool, max_detections: int = 100
) -> list[ImageMatches]:
    """Pair detections and annotations of every picture, with their overlaps as boxes or as masks.

    As in COCO's evaluation, only the `max_detections` surest of a class count in a picture, detections of
    classes that the truth does not list do not count, and by masks, an object without one counts as a crowd.
    Raises ValueError for a detection in a picture that the truth does not list.
    """
    there = _by_picture(truth, truth["annotations"])
    found = _by_picture(truth, detections)
    labels = {category["id"]: label for label, category in enumerate(categories_of(truth))}
    made = []
    for image in truth["images"]:
        known = [i for i in found[image["id"]] if detections[i]["category_id"] in labels]
        rows, columns = _surest(known, detections, max_detections), there[image["id"]]
        kept, objects = [detections[i] for i in rows], [truth["annotations"][i] for i in columns]
        crowd = [bool(o.get("iscrowd")) or (by_masks and not _has_mask(o)) for o in objects]
        made.append(
            ImageMatches(
                image_id=image["id"],
                scores=np.array([d["score"] for d in kept], float),
                labels=np.array([labels[d["category_id"]] for d in kept], int),
                true_labels=np.array([labels[o["category_id"]] for o in objects], int),
                crowd=np.array(crowd, bool),
                ious=_overlaps(kept, objects, crowd, (image["height"], image["width"]), by_masks),
                found=np.array(rows, int),
                there=np.array(columns, int),
            )
        )
    return made


def _by_picture(truth: Entry, entries: Sequence[Entry]) -> dict[int, list[int]]:
    """The places of entries in their list, for each picture."""
    places: dict[int, list[int]] = {image["id"]: [] for image in truth["images"]}
    for i, entry in enumerate(entries):
        if entry["image_id"] not in places:
            raise ValueError(f"entry {i} is of picture {entry['image_id']}, which the truth does not list")
        places[entry["image_id"]].append(i)
    return places


def categories_of(truth: Entry) -> list[Entry]:
    """Return the classes in the order of their labels, which is that of their ids."""
    return sorted(truth["categories"], key=lambda category: category["id"])


def _surest(rows: Sequence[int], detections: Sequence[Entry], cap: int) -> list[int]:
    """Rows from the highest score down, of each class at most `cap`."""
    taken: Counter[int] = Counter()
    kept = []
    for row in sorted(rows, key=lambda row: -detections[row]["score"]):
        taken[detections[row]["category_id"]] += 1
        if taken[detections[row]["category_id"]] <= cap:
            kept.append(row)
    return kept


def _overlaps(
    found: Sequence[Entry],
    there: Sequence[Entry],
    crowd: Sequence[bool],
    size_hw: tuple[int, int],
    by_masks: bool,
) -> Float[np.ndarray, "D G"]:
    from faster_coco_eval import mask

    if not found or not there:
        return np.zeros((len(found), len(there)))

    def shapes(entries: Sequence[Entry]) -> Any:
        if by_masks:
            return [run_lengths(entry, size_hw) for entry in entries]
        return np.array([entry["bbox"] for entry in entries], float)

    ious = mask.iou(shapes(found), shapes(there), [int(c) for c in crowd])
    return np.asarray(ious, float).reshape(len(found), len(there))


def _has_mask(entry: Entry) -> bool:
    segmentation = entry.get("segmentation")
    return isinstance(segmentation, dict) or any(len(ring) >= 6 for ring in segmentation or [])


def run_lengths(entry: Entry, size_hw: tuple[int, int]) -> Entry:
    """Return an annotation's or a detection's mask as compressed run lengths; its box where it has none."""
    from faster_coco_eval import mask

    segmentation = entry.get("segmentation")
    if not _has_mask(entry):
        x, y, width, height = entry["bbox"]
        segmentation = [[x, y, x + width, y, x + width, y + height, x, y + height]]
    if isinstance(segmentation, list):
        rings = [ring for ring in segmentation if len(ring) >= 6]
        return mask.merge(mask.frPyObjects(rings, *size_hw))
    assert segmentation is not None
    return (
        segmentation
        if isinstance(segmentation["counts"], str | bytes)
        else mask.frPyObjects(segmentation, *size_hw)
    )


def match(scene: ImageMatches, least_iou: float = LEAST_IOU) -> Int[np.ndarray, " D"]:
    """For each detection, the object that it is matched with, or NOTHING, or IGNORED."""
    ious = np.where(scene.labels[:, None] == scene.true_labels, scene.ious, 0)
    [matched] = matching.match(ious, scene.crowd, scene.crowd, np.array([least_iou]))
    return np.where(np.append(scene.crowd, False)[matched], IGNORED, matched)  # NOTHING reads the last one


def _pooled(
    found: Sequence[ImageMatches], matches: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores, labels, and whether right, of all pictures' detections that are not ignored, surest first."""
    if not found:
        return np.zeros(0), np.zeros(0, int), np.zeros(0, bool)
    matched = np.concatenate(list(matches))
    counted = matched != IGNORED
    scores = np.concatenate([scene.scores for scene in found])[counted]
    labels = np.concatenate([scene.labels for scene in found])[counted]
    order = np.argsort(-scores, kind="stable")
    return scores[order], labels[order], (matched[counted] >= 0)[order]


def object_counts(found: Sequence[ImageMatches], num_classes: int) -> Int[np.ndarray, " K"]:
    """How many objects of each class there are to be found."""
    counts = np.zeros(num_classes, int)
    for scene in found:
        counts += np.bincount(scene.true_labels[~scene.crowd], minlength=num_classes)
    return counts


def precision_recall(
    found: Sequence[ImageMatches], matches: Sequence[np.ndarray], num_classes: int
) -> Float[np.ndarray, "K 101"]:
    """Precision of each class at `RECALLS`, made monotone as COCO does; NaN for a class without objects.

    The mean of a row is that class's average precision at the overlap of the matching.
    """
    _, labels, right = _pooled(found, matches)
    objects = object_counts(found, num_classes)
    curves = np.full((num_classes, len(RECALLS)), np.nan)
    for label in np.flatnonzero(objects):
        hits = right[labels == label].cumsum()
        precision = hits / np.arange(1, len(hits) + 1)
        precision = np.maximum.accumulate(precision[::-1])[::-1]
        # recalls beyond the last one read the zero at the end
        curves[label] = np.append(precision, 0)[np.searchsorted(hits / objects[label], RECALLS)]
    return curves


def quality(found: Sequence[ImageMatches], matches: Sequence[np.ndarray], threshold: float) -> Quality:
    """Precision, recall and F1 of the detections of at least `threshold`; 0 where there is nothing."""
    scores, _, right = _pooled(found, matches)
    kept = int((scores >= threshold).sum())
    hits, objects = int(right[:kept].sum()), sum(int((~scene.crowd).sum()) for scene in found)
    return Quality(threshold, hits / max(kept, 1), hits / max(objects, 1), 2 * hits / max(kept + objects, 1))


def best_threshold(found: Sequence[ImageMatches], matches: Sequence[np.ndarray]) -> float | None:
    """Return the score from which on F1 is highest, the highest of several; None if nothing is right."""
    scores, _, right = _pooled(found, matches)
    if not right.any():
        return None
    objects = sum(int((~scene.crowd).sum()) for scene in found)
    f1 = 2 * right.cumsum() / (np.arange(1, len(right) + 1) + objects)
    last = np.append(scores[1:] < scores[:-1], True)  # a threshold takes all of one score or none
    return float(scores[np.where(last, f1, -1).argmax()])


def score_histogram(
    found: Sequence[ImageMatches], matches: Sequence[np.ndarray], bins: int = 20
) -> tuple[Int[np.ndarray, " bins"], Int[np.ndarray, " bins"]]:
    """How many right and how many wrong detections have a score in each of `bins` parts of 0 … 1."""
    scores, _, right = _pooled(found, matches)
    edges = np.linspace(0, 1, bins + 1)
    return np.histogram(scores[right], edges)[0], np.histogram(scores[~right], edges)[0]


def confusion(found: Sequence[ImageMatches], num_classes: int) -> Int[np.ndarray, "K1 K1"]:
    """Count which class was said (rows) of which class of object (columns).

    The last column counts detections of nothing, the last row objects that were missed. Objects go first to
    detections of their own class, then what is left on both sides is matched whatever the class; so the
    diagonal counts the true positives.
    """
    counts = np.zeros((num_classes + 1, num_classes + 1), int)
    for scene in found:
        matched, none = match(scene), np.zeros(len(scene.crowd), bool)
        taken = np.isin(np.arange(len(scene.crowd)), matched)
        left = (matched == NOTHING)[:, None] & ~(taken | scene.crowd)
        [others] = matching.match(np.where(left, scene.ious, 0), none, none, np.array([LEAST_IOU]))
        matched = np.where(matched == NOTHING, others, matched)
        kept = matched != IGNORED
        columns = np.append(scene.true_labels, num_classes)[matched]  # NOTHING reads the last one
        np.add.at(counts, (scene.labels[kept], columns[kept]), 1)
        missed = ~np.isin(np.arange(len(scene.crowd)), matched) & ~scene.crowd
        np.add.at(counts, (num_classes, scene.true_labels[missed]), 1)
    return counts


def classify_errors(scene: ImageMatches) -> Errors:
    """Say of each wrong detection in which way it is wrong, and which objects are missed: see `KINDS`.

    The kinds of TIDE (Bolya et al., ECCV 2020, section 2.2), counted, not weighed by the AP that each costs.
    Where several fit, the first of duplicate, class, localisation, both and background counts. An object is
    not missed if a detection's error of class or localisation is about it.
    """
    matched = match(scene)
    wrong = matched == NOTHING
    same = scene.labels[:, None] == scene.true_labels
    ious = np.where(scene.crowd, 0, scene.ious)
    own, other = np.where(same, ious, 0), np.where(same, 0, ious)
    fits = {
        "duplicate": own.max(1, initial=0) >= LEAST_IOU,
        "class": other.max(1, initial=0) >= LEAST_IOU,
        "localisation": own.max(1, initial=0) >= NEAR_IOU,
        "both": other.max(1, initial=0) >= NEAR_IOU,
    }
    kinds = np.select(list(fits.values()), list(fits), "background")
    explained = [matched]
    if ious.size:
        explained += [
            own[wrong & (kinds == "localisation")].argmax(1),
            other[wrong & (kinds == "class")].argmax(1),
        ]
    missed = ~scene.crowd & ~np.isin(np.arange(len(scene.crowd)), np.concatenate(explained))
    return Errors([str(kind) if w else None for kind, w in zip(kinds, wrong, strict=True)], missed)


def capped_pictures(detections: Sequence[Entry], max_detections: int, capacity: int | None = None) -> int:
    """Count the pictures whose detections a cap has, or may have, cut off.

    Those with `capacity` detections in all, which is as many as the network gives, and those with more than
    `max_detections` of one class, of which the evaluation counts no more. None for
    `capacity` is the same number.
    """
    in_all = Counter(detection["image_id"] for detection in detections)
    of_class = Counter((detection["image_id"], detection["category_id"]) for detection in detections)
    full = {image for image, count in in_all.items() if count >= (capacity or max_detections)}
    return len(full | {image for (image, _), count in of_class.items() if count > max_detections})
