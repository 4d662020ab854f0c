"""`maskrcnn bench` on a small network."""

import json

import pytest
import torch

from maskrcnn.bench.inference import bench, printed
from maskrcnn.bench.networks import ours, picture, theirs
from maskrcnn.bench.stages import stages
from maskrcnn.bench.timing import Timing, operations, peak_memory, take_turns
from maskrcnn.cli import main
from maskrcnn.types import Batch


def test_contestants_take_turns_and_warm_up_turns_do_not_count():
    played = []
    times = take_turns(
        {"a": lambda: played.append("a"), "b": lambda: played.append("b")}, repeats=2, warm_up=1
    )
    assert played == ["a", "b"] * 3
    assert times.keys() == {"a", "b"} and all(0 <= own.best <= own.median for own in times.values())


def test_operations_are_those_of_the_products():
    a, b = torch.ones(3, 4), torch.ones(4, 5)
    assert operations(lambda: a @ b) == 2 * 3 * 4 * 5


def test_the_peak_is_what_a_run_holds_at_once():
    found = peak_memory(lambda: torch.ones(25_000_000).sum(), torch.device("cpu"))
    if found is None:
        pytest.skip("this system does not count a process's resident memory")
    assert 90e6 < found < 150e6


@pytest.mark.parametrize("recipe", ["resnet18_fpn", "resnet18_c4_box", "resnet18_fpn_keypoint"])
def test_stages_add_up_and_leave_the_network_as_it_was(recipe):
    model = ours(recipe).build().eval()
    batch = Batch(picture((64, 96))[None], torch.tensor([[64, 96]]))
    with torch.inference_mode():
        before = model.detect(batch)
        spent = stages(model, batch, repeats=1)
        after = model.detect(batch)
    assert {"body", "RPN head", "proposals, NMS", "box regions", "box head"} < spent.keys()
    assert ("pyramid" in spent) == ("fpn" in recipe) and ("mask head" in spent) == (recipe == "resnet18_fpn")
    assert all(taken >= 0 for taken in spent.values())
    assert torch.equal(before.boxes, after.boxes)
    assert all("forward" not in vars(module) for module in model.modules())


def test_drawn_weights_fill_the_detections():
    model = ours("resnet18_fpn").build().eval()
    with torch.inference_mode():
        found = model.detect(Batch(picture((128, 160))[None], torch.tensor([[128, 160]])))
    assert found.valid.sum() > 50


def test_the_command_prints_and_writes(tmp_path, capsys):
    file = tmp_path / "figures.json"
    words = ["bench", "--recipe", "resnet18_fpn", "--size", "64x96", "--repeats", "1", "--json", str(file)]
    assert main(words) == 0
    told = capsys.readouterr().out
    assert "resnet18_fpn" in told and "RPN head" in told and str(file) in told
    figures = json.loads(file.read_text())
    assert figures["size_hw"] == [64, 96] and Timing(**figures["milliseconds"]["whole"]["ours"]).median > 0
    assert figures["operations"] > 1e9 and 0 < figures["share_of_peak"] < 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--batch", "0"], "--batch must be at least 1"),
        (["--recipe", "resnet19"], "there is no recipe"),
        (["--train", "--capture"], "--compile and --capture are for detection"),
        (["--device", "cpu", "--capture"], "only a network on a CUDA device can be captured"),
    ],
)
def test_mistakes_get_a_sentence(words, said, capsys):
    assert main(["bench", *words]) == 2
    assert said in capsys.readouterr().err


def test_beside_torchvision():
    pytest.importorskip("torchvision", reason="torchvision is not installed")
    figures = bench("resnet18_fpn", (128, 160), against="torchvision", repeats=1, device="cpu")
    assert figures["agreement"]["ours"] == figures["agreement"]["theirs"]
    assert figures["agreement"]["box_px"] < 0.01 and figures["agreement"]["score"] < 1e-4
    assert printed(figures)


def test_torchvision_has_not_all_networks():
    pytest.importorskip("torchvision", reason="torchvision is not installed")
    with pytest.raises(ValueError, match="torchvision has no resnet18_c4"):
        theirs(ours("resnet18_c4"), (64, 64))
