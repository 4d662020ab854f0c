"""Every row of the paper's tables is a network that learns and detects, and its figure stands beside it."""

import pytest
import torch
from rich.console import Console

from maskrcnn import recipes
from maskrcnn.paper.tables import TABLES, Row, chosen, listed, with_body
from scenes import scene

ROWS = [pytest.param(row, id=f"{key}-{row.name}") for key, table in TABLES.items() for row in table.rows]


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS)
def test_every_row_learns_and_detects(row: Row):
    torch.manual_seed(0)
    model = recipes.find(row.recipe)(3, **{"budget": 8, "proposals": 50, **row.arguments})
    batch, targets = scene([2, 1], keypoints=17)
    losses = model(batch, targets)
    sum(losses.values()).backward()
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert all(parameter.grad.isfinite().all() for parameter in learning)
    with torch.no_grad():
        found = model.eval().detect(batch)
    assert (found.mask_probs is None) == ("loss_mask" not in losses)
    assert (found.keypoint_heatmaps is None) == ("loss_keypoint" not in losses)


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


def test_a_row_can_stand_on_another_body():
    moved = {row.recipe: with_body(row, "resnet18").recipe for t in TABLES.values() for row in t.rows}
    assert moved["resnet50_c4"] == "resnet18_c4" and moved["resnext101_64x4d_fpn"] == "resnet18_fpn"
    assert moved["resnet50_fpn_keypoint"] == "resnet18_fpn_keypoint" and moved["resnet50_c5"] == "resnet18_c5"
    for recipe in moved.values():
        recipes.find(recipe)


def test_the_list_names_every_row():
    console = Console(width=200, record=True)
    console.print(listed())
    told = console.export_text()
    assert all(row.name in told for table in TABLES.values() for row in table.rows) and "FCIS" in told


def test_rows_are_chosen_by_name():
    assert [row.recipe for row in chosen("2d", ["RoIPool"], "resnet18").rows] == ["resnet18_c5"]
    assert len(chosen("2c").rows) == 5
    with pytest.raises(ValueError, match="there is no table 2f; there are main, 2a"):
        chosen("2f")
    with pytest.raises(ValueError, match="has no row 'RoIpool': its rows are RoIPool, RoIAlign"):
        chosen("2d", ["RoIpool"])
