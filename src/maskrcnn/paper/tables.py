"""The paper's tables. Each row is a network that can be trained and compared with its published figures.

He, Gkioxari, Dollár and Girshick, "Mask R-CNN", ICCV 2017 (arXiv 1703.06870v3). Published figures are
in percent, on COCO test-dev for the main results and box detection, on minival (5,000 images) for ablations.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from rich.console import Group
from rich.table import Column
from rich.table import Table as Printed

from maskrcnn.data.readers.cityscapes import CLASSES
from maskrcnn.messages import first_few, nearest

Figures = tuple[float | None, ...]  # in the order of the table's metrics; the last ones may be missing

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")


class Row(NamedTuple):
    """A network of this library, and the figures that the paper published for it."""

    name: str
    recipe: str
    arguments: dict[str, Any]
    published: Figures
    init: str | None = None  # initial weights, if they are not the ImageNet weights of the backbone
    schedule: tuple[tuple[str, Any], ...] = ()  # settings in the paper that differ from the table's


class Table(NamedTuple):
    """Rows of one published table, the paper's own choice last."""

    title: str
    kind: str  # of the published metrics: segm, bbox, keypoints or cityscapes
    rows: tuple[Row, ...]
    cited: tuple[tuple[str, Figures], ...] = ()  # of other methods or other images, for comparison only
    schedule: tuple[tuple[str, Any], ...] = ()  # settings in the paper that differ from section 3.1
    metrics: tuple[str, ...] = METRICS  # names of the figures; a class name stands for the AP of that class


_POOL = {"regions.operator": "roi_pool"}
_PEOPLE = {"keypoints.count": 17}

# Section 3.1, section 5 ("Human Pose Estimation") and appendix A ("Experiments on Cityscapes")
_RESNEXT = (("batch_size", 8), ("lr", 0.01))
_KEYPOINT_SCHEDULE = (
    ("steps", 90_000),
    ("decay_at", (60 / 90, 80 / 90)),
    ("short_sides", tuple(range(640, 801, 32))),
)
_CITYSCAPES_SCHEDULE = (
    ("steps", 24_000),
    ("batch_size", 8),
    ("lr", 0.01),
    ("decay_at", (18 / 24,)),
    ("short_sides", tuple(range(800, 1025, 32))),
    ("long_side", 2048),
)
_FROM_COCO = (("steps", 4_000), ("decay_at", (3 / 4,)))
_COCO = "detectron2/COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x"

TABLES: dict[str, Table] = {
    "main": Table(
        "Table 1: instance segmentation, COCO test-dev",
        "segm",
        (
            Row("R101-C4", "resnet101_c4", {}, (33.1, 54.9, 34.8, 12.1, 35.6, 51.1)),
            Row("R101-FPN", "resnet101_fpn", {}, (35.7, 58.0, 37.8, 15.5, 38.1, 52.4)),
            Row(
                "X101-FPN",
                "resnext101_64x4d_fpn",
                {},
                (37.1, 60.0, 39.4, 16.9, 39.9, 53.5),
                schedule=_RESNEXT,
            ),
        ),
        (
            ("MNC", (24.6, 44.3, 24.8, 4.7, 25.9, 43.6)),
            ("FCIS + OHEM", (29.2, 49.5, None, 7.1, 31.3, 50.0)),
            ("FCIS+++ + OHEM", (33.6, 54.5)),
        ),
    ),
    "2a": Table(
        "Table 2a: backbone",
        "segm",
        (
            Row("R50-C4", "resnet50_c4", {}, (30.3, 51.2, 31.5)),
            Row("R101-C4", "resnet101_c4", {}, (32.7, 54.2, 34.3)),
            Row("R50-FPN", "resnet50_fpn", {}, (33.6, 55.2, 35.3)),
            Row("R101-FPN", "resnet101_fpn", {}, (35.4, 57.3, 37.5)),
            Row("X101-FPN", "resnext101_64x4d_fpn", {}, (36.7, 59.5, 38.9), schedule=_RESNEXT),
        ),
    ),
    "2b": Table(
        "Table 2b: masks with a softmax over classes, or independent sigmoids (R50-C4)",
        "segm",
        (
            Row("softmax", "resnet50_c4", {"masks.coding": "softmax"}, (24.8, 44.1, 25.1)),
            Row("sigmoid", "resnet50_c4", {}, (30.3, 51.2, 31.5)),
        ),
    ),
    "2c": Table(
        "Table 2c: region operator (R50-C4)",
        "segm",
        (
            Row("RoIPool", "resnet50_c4", _POOL, (26.9, 48.8, 26.4)),
            Row("RoIWarp max", "resnet50_c4", {"regions.operator": "roi_warp_max"}, (27.2, 49.2, 27.1)),
            Row("RoIWarp mean", "resnet50_c4", {"regions.operator": "roi_warp"}, (27.1, 48.9, 27.1)),
            Row("RoIAlign max", "resnet50_c4", {"regions.operator": "roi_align_max"}, (30.2, 51.0, 31.8)),
            Row("RoIAlign mean", "resnet50_c4", {}, (30.3, 51.2, 31.5)),
        ),
    ),
    "2d": Table(
        "Table 2d: region operator at stride 32 (R50-C5)",
        "segm",
        (
            Row("RoIPool", "resnet50_c5", _POOL, (23.6, 46.5, 21.6)),
            Row("RoIAlign", "resnet50_c5", {}, (30.9, 51.8, 32.1)),
        ),
    ),
    "2d-box": Table(
        "Table 2d, boxes: region operator at stride 32 (R50-C5)",
        "bbox",
        (
            Row("RoIPool", "resnet50_c5", _POOL, (28.2, 52.7, 26.9)),
            Row("RoIAlign", "resnet50_c5", {}, (34.0, 55.3, 36.4)),
        ),
    ),
    "2e": Table(
        "Table 2e: mask branch (R50-FPN)",
        "segm",
        (
            Row("MLP 1024-1024", "resnet50_fpn", {"masks.head": "mlp"}, (31.5, 53.7, 32.8)),
            Row(
                "MLP 1024-1024-1024",
                "resnet50_fpn",
                {"masks.head": "mlp", "masks.mlp_layers": 3},
                (31.5, 54.0, 32.6),
            ),
            Row("FCN", "resnet50_fpn", {}, (33.6, 55.2, 35.3)),
        ),
    ),
    "agnostic": Table(
        "Section 4.2: one mask for all classes, or one for each class (R50-C4)",
        "segm",
        (
            Row("class-agnostic", "resnet50_c4", {"masks.coding": "class_agnostic"}, (29.7,)),
            Row("class-specific", "resnet50_c4", {}, (30.3, 51.2, 31.5)),
        ),
    ),
    "box": Table(
        "Table 3: box detection, COCO test-dev (R101-FPN)",
        "bbox",
        (
            Row(
                "Faster R-CNN, RoIPool",
                "resnet101_fpn_box",
                _POOL,
                (36.2, 59.1, 39.0, 18.2, 39.0, 48.2),
            ),
            Row("Faster R-CNN, RoIAlign", "resnet101_fpn_box", {}, (37.3, 59.6, 40.3, 19.8, 40.2, 48.8)),
            Row("Mask R-CNN", "resnet101_fpn", {}, (38.2, 60.3, 41.7, 20.1, 41.1, 50.2)),
        ),
    ),
    "keypoints": Table(
        "Table 4: keypoints of people, COCO test-dev (R50-FPN)",
        "keypoints",
        (
            Row("keypoint-only", "resnet50_fpn_keypoint", {}, (62.7, 87.0, 68.4, None, 57.4, 71.1)),
            Row("keypoint & mask", "resnet50_fpn", _PEOPLE, (63.1, 87.3, 68.7, None, 57.8, 71.4)),
        ),
        schedule=_KEYPOINT_SCHEDULE,
    ),
    "6": Table(
        "Table 6: region operator for keypoints, minival (R50-FPN)",
        "keypoints",
        (
            Row("RoIPool", "resnet50_fpn_keypoint", _POOL, (59.8, 86.2, 66.7, None, 55.1, 67.4)),
            Row("RoIAlign", "resnet50_fpn_keypoint", {}, (64.2, 86.6, 69.7, None, 58.7, 73.0)),
        ),
        schedule=_KEYPOINT_SCHEDULE,
    ),
    "cityscapes": Table(
        "Table 7: Cityscapes, val (R50-FPN); cited figures are on test",
        "cityscapes",
        (
            Row("fine", "resnet50_fpn", {}, (31.5,)),
            Row("fine + COCO", "resnet50_fpn", {}, (36.4,), init=_COCO, schedule=_FROM_COCO),
        ),
        (
            ("InstanceCut, test", (13.0, 27.9, 10.0, 8.0, 23.7, 14.0, 19.5, 15.2, 9.3, 4.7)),
            ("DWT, test", (15.6, 30.0, 15.1, 11.7, 32.9, 17.1, 20.4, 15.0, 7.9, 4.9)),
            ("SAIS, test", (17.4, 36.7, 14.6, 12.9, 35.7, 16.0, 23.2, 19.0, 10.3, 7.8)),
            ("DIN, test", (20.0, 38.8, 16.5, 16.7, 25.7, 20.6, 30.0, 23.4, 17.1, 10.1)),
            ("SGN, test", (25.0, 44.9, 21.8, 20.1, 39.4, 24.8, 33.2, 30.8, 17.7, 12.4)),
            ("Mask R-CNN fine, test", (26.2, 49.9, 30.5, 23.7, 46.9, 22.8, 32.2, 18.6, 19.1, 16.0)),
            ("Mask R-CNN fine + COCO, test", (32.0, 58.1, 34.8, 27.0, 49.1, 30.1, 40.9, 30.9, 24.1, 18.7)),
        ),
        schedule=_CITYSCAPES_SCHEDULE,
        metrics=("AP", "AP50", *CLASSES.values()),
    ),
}


def chosen(key: str, rows: Sequence[str] = (), body: str | None = None) -> Table:
    """Return a table, or the named rows of it in the table's order, with another backbone if one is named.

    Raises ValueError for an unknown table or unknown rows.
    """
    if key not in TABLES:
        raise ValueError(f"there is no table '{key}': {nearest(key, TABLES)}")
    table = TABLES[key]
    names = [row.name for row in table.rows]
    if unknown := [name for name in rows if name not in names]:
        raise ValueError(f"table {key} has no row {first_few(unknown)}: its rows are {', '.join(names)}")
    kept = tuple(row for row in table.rows if not rows or row.name in rows)
    return table._replace(rows=tuple(with_body(row, body) for row in kept) if body else kept)


def with_body(row: Row, body: str) -> Row:
    """Return the row with another backbone, such as resnet18 for smaller machines."""
    form = row.recipe.partition("_fpn" if "_fpn" in row.recipe else "_c")
    return row._replace(recipe=f"{body}{form[1]}{form[2]}")


def listed(tables: Iterable[tuple[str, Table]] = TABLES.items()) -> Group:
    """Return the tables with their published figures, as tables to print with rich."""
    return Group(*(_published(key, table) for key, table in tables))


def _published(key: str, table: Table) -> Printed:
    recipe = Column("recipe", overflow="fold")
    printed = Printed("row", recipe, *table.metrics, title=f"{key}  {table.title}", title_justify="left")
    for row in table.rows:
        arguments = ", ".join(f"{name}={value}" for name, value in row.arguments.items())
        printed.add_row(row.name, f"{row.recipe}({arguments})", *cells(row.published, len(table.metrics)))
    for name, figures in table.cited:
        printed.add_row(name, "cited", *cells(figures, len(table.metrics)))
    return printed


def cells(figures: Figures, count: int) -> list[str]:
    """Return the first `count` figures as cells of a table, empty where there is no figure."""
    padded = (*figures, *(None,) * count)[:count]
    return ["" if figure is None else f"{figure:.1f}" for figure in padded]
