"""The classes of published weights, and the keypoints of people."""

from __future__ import annotations

from typing import NamedTuple

_COCO = """
1 person, 2 bicycle, 3 car, 4 motorcycle, 5 airplane, 6 bus, 7 train, 8 truck, 9 boat, 10 traffic light,
11 fire hydrant, 13 stop sign, 14 parking meter, 15 bench, 16 bird, 17 cat, 18 dog, 19 horse, 20 sheep,
21 cow, 22 elephant, 23 bear, 24 zebra, 25 giraffe, 27 backpack, 28 umbrella, 31 handbag, 32 tie, 33 suitcase,
34 frisbee, 35 skis, 36 snowboard, 37 sports ball, 38 kite, 39 baseball bat, 40 baseball glove, 41 skateboard,
42 surfboard, 43 tennis racket, 44 bottle, 46 wine glass, 47 cup, 48 fork, 49 knife, 50 spoon, 51 bowl,
52 banana, 53 apple, 54 sandwich, 55 orange, 56 broccoli, 57 carrot, 58 hot dog, 59 pizza, 60 donut, 61 cake,
62 chair, 63 couch, 64 potted plant, 65 bed, 67 dining table, 70 toilet, 72 tv, 73 laptop, 74 mouse,
75 remote,
76 keyboard, 77 cell phone, 78 microwave, 79 oven, 80 toaster, 81 sink, 82 refrigerator, 84 book, 85 clock,
86 vase, 87 scissors, 88 teddy bear, 89 hair drier, 90 toothbrush
"""
_CITYSCAPES = "24 person, 25 rider, 26 car, 27 truck, 28 bus, 31 train, 32 motorcycle, 33 bicycle"


class Classes(NamedTuple):
    """Names of a network's classes, in the order of its labels, and their ids in the data set."""

    names: tuple[str, ...]
    ids: tuple[int, ...]


def _parse(text: str) -> Classes:
    pairs = [pair.split(" ", 1) for pair in " ".join(text.split()).split(", ")]
    return Classes(tuple(name for _, name in pairs), tuple(int(number) for number, _ in pairs))


COCO = _parse(_COCO)
CITYSCAPES = _parse(_CITYSCAPES)
# torchvision's labels are COCO's ids, with their gaps
COCO_WITH_GAPS = Classes(
    tuple(dict(zip(COCO.ids, COCO.names, strict=True)).get(id_, f"unused {id_}") for id_ in range(1, 91)),
    tuple(range(1, 91)),
)
PERSON = Classes(("person",), (1,))

COCO_KEYPOINTS = (
    "nose",
    "left_eye",
    "right_eye",
    "left_ear",
    "right_ear",
    "left_shoulder",
    "right_shoulder",
    "left_elbow",
    "right_elbow",
    "left_wrist",
    "right_wrist",
    "left_hip",
    "right_hip",
    "left_knee",
    "right_knee",
    "left_ankle",
    "right_ankle",
)
COCO_SKELETON = (
    *((15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7), (6, 8)),
    *((7, 9), (8, 10), (1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6)),
)  # pairs of keypoints, from 0

_DATASETS = {"coco": (COCO, COCO_WITH_GAPS), "people": (PERSON,), "cityscapes": (CITYSCAPES,)}


def dataset_classes(count: int, dataset: str) -> Classes:
    """Return the classes of a network with `count` classes that was trained on `dataset`.

    Names are "class 1", "class 2", … where the data set is unknown or has another number of classes.
    """
    numbered = Classes(tuple(f"class {n}" for n in range(1, count + 1)), tuple(range(1, count + 1)))
    return next((classes for classes in _DATASETS.get(dataset, ()) if len(classes.ids) == count), numbered)
