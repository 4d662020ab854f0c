"""Every row of the paper's tables is a network that learns and detects, and its figure stands beside it."""

from typing import NamedTuple

import pytest
import torch
from rich.console import Console

from maskrcnn import recipes
from maskrcnn.ops.roi_align import RoIPooler, flatten_levels
from maskrcnn.paper.tables import TABLES, Row, chosen, listed, with_body
from scenes import scene

ROWS = [pytest.param(row, id=f"{key}-{row.name}") for key, table in TABLES.items() for row in table.rows]


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS)
def test_every_row_learns_and_detects(row: Row):
    torch.manual_seed(0)
    model = recipes.build(
        row.recipe, 3, {**{"boxes.samples_per_image": 8, "proposals.post_nms": 50, **row.arguments}}
    )
    batch, targets = scene([2, 1], keypoints=17)
    losses = model(batch, targets)
    sum(losses.values()).backward()
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert all(parameter.grad.isfinite().all() for parameter in learning)
    with torch.no_grad():
        found = model.eval().detect(batch)
    assert (found.mask_probs is None) == ("loss_mask" not in losses)
    assert (found.keypoint_heatmaps is None) == ("loss_keypoint" not in losses)


# --- the published structure, counted by hand from the shapes of the layers ---

WIDTHS = (256, 512, 1024, 2048)  # of res2 … res5
R50, R101, X101 = (3, 4, 6, 3), (3, 4, 23, 3), (3, 4, 23, 3, 64)  # blocks of each stage; 64 groups, if any
COCO, CITIES, PEOPLE = 80, 8, 1  # classes


class Structure(NamedTuple):
    parameters: int
    strides: tuple[int, ...]
    channels: tuple[int, ...]
    bins: tuple[int | None, ...]  # of a region for boxes, masks, keypoints; None: as for boxes, or no branch


def stage(body: tuple[int, ...], number: int) -> int:
    """Weights of res`number`: 1×1, 3×3 and 1×1 without biases; norms are frozen, so they have none."""
    depth, groups = body[number - 2], (*body, 1)[4]
    before, out = (64, *WIDTHS)[number - 2], WIDTHS[number - 2]
    width = out if groups == 64 else out // 4  # 64 × 4d is as wide inside as outside
    inner = 9 * width * width // groups + width * out
    return before * out + before * width + inner + (depth - 1) * (out * width + inner)


def body(depths: tuple[int, ...], last: int) -> int:
    return 7 * 7 * 3 * 64 + sum(stage(depths, number) for number in range(2, last + 1))


def layer(inputs: int, outputs: int, taps: int = 1) -> int:
    return inputs * outputs * taps + outputs


def rpn(channels: int, anchors: int) -> int:
    return layer(channels, channels, 9) + layer(channels, anchors) + layer(channels, 4 * anchors)


def answers(width: int, classes: int) -> int:
    return layer(width, classes + 1) + layer(width, 4 * classes)


def linear(channels: int, classes: int) -> int:
    return layer(channels * 7 * 7, 1024) + layer(1024, 1024) + answers(1024, classes)


def fcn(channels: int, masks: int) -> int:
    return layer(channels, 256, 9) + 3 * layer(256, 256, 9) + layer(256, 256, 4) + layer(256, masks)


def mlp(masks: int, layers: int) -> int:
    return layer(256 * 14 * 14, 1024) + (layers - 1) * layer(1024, 1024) + layer(1024, masks * 28 * 28)


KEYPOINTS = layer(256, 512, 9) + 7 * layer(512, 512, 9) + layer(512, 17, 16)


def c4(depths: tuple[int, ...], masks: int = COCO) -> Structure:
    """Figure 4, left: res5 on every region, then a mean for boxes, a deconvolution for masks.

    The figure has res5 read 7 × 7 at stride 1, to save time; the published models, 14 × 14 at stride 2.
    """
    mask = layer(2048, 256, 4) + layer(256, masks)
    count = body(depths, 5) + rpn(1024, 15) + answers(2048, COCO) + mask
    return Structure(count, (16,), (1024,), (14, None, None))


def c5(depths: tuple[int, ...]) -> Structure:
    count = body(depths, 5) + rpn(2048, 15) + linear(2048, COCO) + fcn(2048, COCO)
    return Structure(count, (32,), (2048,), (7, 14, None))


def fpn(
    depths: tuple[int, ...], classes: int = COCO, *, mask: int | None = None, keypoints: int = 0
) -> Structure:
    """Figure 4, right; `mask` counts the parameters of the mask branch, where it is not the usual one."""
    pyramid = sum(layer(width, 256) + layer(256, 256, 9) for width in WIDTHS)
    mask = fcn(256, classes) if mask is None else mask
    count = body(depths, 5) + pyramid + rpn(256, 3) + linear(256, classes) + mask + keypoints
    bins = (7, 14 if mask else None, 14 if keypoints else None)
    return Structure(count, (4, 8, 16, 32, 64), (256,) * 5, bins)


PUBLISHED = {
    "main": (c4(R101), fpn(R101), fpn(X101)),
    "2a": (c4(R50), c4(R101), fpn(R50), fpn(R101), fpn(X101)),
    "2b": (c4(R50, masks=81), c4(R50)),
    "2c": (c4(R50),) * 5,
    "2d": (c5(R50),) * 2,
    "2d-box": (c5(R50),) * 2,
    "2e": (fpn(R50, mask=mlp(80, 2)), fpn(R50, mask=mlp(80, 3)), fpn(R50)),
    "agnostic": (c4(R50, masks=1), c4(R50)),
    "box": (fpn(R101, mask=0), fpn(R101, mask=0), fpn(R101)),
    "keypoints": (fpn(R50, PEOPLE, mask=0, keypoints=KEYPOINTS), fpn(R50, PEOPLE, keypoints=KEYPOINTS)),
    "6": (fpn(R50, PEOPLE, mask=0, keypoints=KEYPOINTS),) * 2,
    "cityscapes": (fpn(R50, CITIES),) * 2,
}
CLASSES = {"keypoints": PEOPLE, "6": PEOPLE, "cityscapes": CITIES}

# Column i of a map is i², with straight lines between the columns' centres: 0, 1, 4, 9, 16, 25. A region runs
# from 1.3 to 4.1 cells, in 2 bins of 2 samples. RoIAlign reads at 1.65, 2.35 | 3.05, 3.75, which is 1.15,
# 1.85 | 2.55, 3.25 in columns. RoIWarp, from 1 to 4, reads at 0.875, 1.625 | 2.375, 3.125. RoIPool takes the
# cells 1, 2 | 3, 4, both ends included.
REGION = (1.3, 2.0, 4.1, 4.0)
READS = {
    "RoIPool": (4.0, 16.0),
    "RoIWarp max": (2.875, 9.875),
    "RoIWarp mean": ((0.875 + 2.875) / 2, (5.875 + 9.875) / 2),
    "RoIAlign max": (3.55, 10.75),
    "RoIAlign": ((1.45 + 3.55) / 2, (6.75 + 10.75) / 2),  # the paper's choice, and that of every other row
}


def read(regions) -> tuple[float, ...]:
    stride, zero = regions.strides[0], torch.zeros(1, dtype=torch.int64)
    squares = (torch.arange(6.0) ** 2).expand(1, 1, 6, 6)
    boxes = torch.tensor([REGION]) * stride
    answer = regions.operator(flatten_levels([squares], (stride,)), boxes, zero, zero, 2)
    return tuple(answer[0, 0, 0].tolist())


def parameters(model) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("key", "row", "published"),
    [
        pytest.param(key, *pair, id=f"{key}-{pair[0].name}")
        for key, table in TABLES.items()
        for pair in zip(table.rows, PUBLISHED[key], strict=True)
    ],
)
def test_every_row_has_the_published_structure(key: str, row: Row, published: Structure):
    with torch.device("meta"):
        model = recipes.build(row.recipe, CLASSES.get(key, COCO), {**row.arguments})
    branches = [
        model.box_branch,
        *(dict(model.branches.items()).get(name) for name in ("masks", "keypoints")),
    ]
    poolers = [branch and (branch.pooler or "shared") for branch in branches]
    bins = tuple(getattr(pooler, "bins", None) for pooler in poolers)
    backbone = model.backbone
    assert Structure(parameters(model), backbone.strides, backbone.out_channels, bins) == published
    assert len(model.box_branch.pooler.strides) == (4 if "fpn" in row.recipe else 1)
    reads = next(numbers for name, numbers in READS.items() if name in row.name or name == "RoIAlign")
    for pooler in poolers:
        assert not isinstance(pooler, RoIPooler) or read(pooler) == pytest.approx(reads, abs=1e-5)


def test_the_count_by_hand_gives_what_others_publish():
    # Detectron2's R50-FPN, R50-C4 and R50-DC5, whose layers are those of C5
    assert [one.parameters for one in (fpn(R50), c4(R50), c5(R50))] == [44_343_216, 35_909_612, 172_353_516]
    # torchvision's networks have a box, and a mask, for background too
    assert fpn(R50, 90).parameters + layer(1024, 4) + layer(256, 1) == 44_401_393
    people = fpn(R50, PEOPLE, mask=0, keypoints=KEYPOINTS).parameters
    assert people + layer(1024, 4) == 59_137_258


def test_rows_of_a_table_are_different_networks():
    for table in TABLES.values():
        networks = {(row.recipe, str(row.arguments), row.init) for row in table.rows}
        assert len(networks) == len(table.rows), table.title


def test_figures_are_those_of_the_paper():
    figures = {key: [row.published[0] for row in table.rows] for key, table in TABLES.items()}
    assert figures["2a"] == [30.3, 32.7, 33.6, 35.4, 36.7]
    assert figures["2c"] == [26.9, 27.2, 27.1, 30.2, 30.3]
    assert figures["2e"] == [31.5, 31.5, 33.6]
    assert TABLES["2d"].rows[0].published == (23.6, 46.5, 21.6)
    assert TABLES["main"].rows[1].published[:3] == (35.7, 58.0, 37.8)
    for table in TABLES.values():
        assert all(len(row.published) <= len(table.metrics) for row in table.rows)
    for name, figures in TABLES["cityscapes"].cited:  # AP is the mean of the eight classes' AP
        assert sum(figures[2:]) / 8 == pytest.approx(figures[0], abs=0.1), name


def test_a_row_can_stand_on_another_body():
    moved = {row.recipe: with_body(row, "resnet18").recipe for t in TABLES.values() for row in t.rows}
    assert moved["resnet50_c4"] == "resnet18_c4" and moved["resnext101_64x4d_fpn"] == "resnet18_fpn"
    assert moved["resnet50_fpn_keypoint"] == "resnet18_fpn_keypoint" and moved["resnet50_c5"] == "resnet18_c5"
    for recipe in moved.values():
        assert recipes.options_of_recipe(recipe)


def test_the_list_names_every_row():
    console = Console(width=200, record=True)
    console.print(listed())
    told = console.export_text()
    assert all(row.name in told for table in TABLES.values() for row in table.rows) and "FCIS" in told


def test_rows_are_chosen_by_name():
    assert [row.recipe for row in chosen("2d", ["RoIPool"], "resnet18").rows] == ["resnet18_c5"]
    assert len(chosen("2c").rows) == 5
    with pytest.raises(ValueError, match="there is no table '2f': there are main, 2a"):
        chosen("2f")
    with pytest.raises(ValueError, match="has no row RoIpool: its rows are RoIPool, RoIAlign"):
        chosen("2d", ["RoIpool"])
