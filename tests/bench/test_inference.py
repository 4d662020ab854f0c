"""`maskrcnn bench` on a small network."""

import json

import pytest
import torch
from rich.console import Console

from maskrcnn.bench.inference import active_accelerations, bench_detection, detection_report
from maskrcnn.bench.networks import noise_picture, random_checkpoint
from maskrcnn.bench.stages import time_stages
from maskrcnn.bench.timing import Timing, count_flops, peak_memory, take_turns
from maskrcnn.bench.torchvision import torchvision_network
from maskrcnn.cli import main
from maskrcnn.fast.cpu import optimize_for_cpu
from maskrcnn.fast.fold_norms import fold_norms
from maskrcnn.types import Batch


def test_contestants_take_turns_and_warm_up_turns_do_not_count():
    played = []
    timings = take_turns(
        {"a": lambda: played.append("a"), "b": lambda: played.append("b")}, repeats=2, warm_up=1
    )
    assert played == ["a", "b"] * 3
    assert timings.keys() == {"a", "b"}
    assert all(0 <= timing.best <= timing.median for timing in timings.values())


def test_flops_of_a_matrix_product():
    a, b = torch.ones(3, 4), torch.ones(4, 5)
    assert count_flops(lambda: a @ b) == 2 * 3 * 4 * 5


def test_peak_memory_is_what_a_run_allocates():
    peak = peak_memory(lambda: torch.ones(25_000_000).sum(), torch.device("cpu"))
    if peak is None:
        pytest.skip("this system does not count a process's resident memory")
    assert 90e6 < peak < 150e6


@pytest.mark.parametrize("recipe", ["resnet18_fpn", "resnet18_c4_box", "resnet18_fpn_keypoint"])
def test_stages_add_up_and_leave_the_network_as_it_was(recipe):
    model = random_checkpoint(recipe).build().eval()
    batch = Batch(noise_picture((64, 96))[None], torch.tensor([[64, 96]]))
    with torch.inference_mode():
        before = model.detect(batch)
        stages = time_stages(model, batch, repeats=1)
        after = model.detect(batch)
    assert {"body", "RPN head", "proposals, NMS", "box regions", "box head"} < stages.keys()
    assert ("pyramid" in stages) == ("fpn" in recipe)
    assert ("masks branch" in stages) == (recipe == "resnet18_fpn")
    assert all(duration >= 0 for duration in stages.values())
    assert torch.equal(before.boxes, after.boxes)
    assert all("forward" not in vars(module) for module in model.modules())


def test_random_weights_fill_the_detections():
    model = random_checkpoint("resnet18_fpn").build().eval()
    with torch.inference_mode():
        detections = model.detect(Batch(noise_picture((128, 160))[None], torch.tensor([[128, 160]])))
    assert detections.valid.sum() > 50


def test_active_accelerations_are_the_replaced_layers():
    model = random_checkpoint("resnet18_fpn").build().eval()
    assert active_accelerations(model) == {}
    optimized = active_accelerations(optimize_for_cpu(fold_norms(model)))
    assert optimized["ConvTranspose2x2"] == 1  # the mask head's
    assert sum(optimized.values()) > 1


def figures(**changes):
    """Figures as `bench_detection` returns them."""
    timing = Timing(20.0, 19.0)._asdict()
    return {
        "recipe": "resnet18_fpn",
        "size_hw": (64, 96),
        "batch_size": 1,
        "precision": "float32",
        "compiled": False,
        "cuda_graph": False,
        "accelerated_layers": {},
        "winograd_probe_ms": None,
        "milliseconds": {part: {"ours": timing} for part in ("network", "whole")},
        "peak_bytes": {"ours": 123e6},
        "stages": {"body": 12.0, "rest": 8.0},
        "operations": 2e9,
        "product_peak": 2e11,
        "share_of_peak": 0.5,
        **changes,
    }


def printed(figures):
    console = Console(width=100)
    with console.capture() as capture:
        console.print(detection_report(figures))
    return capture.get()


def test_the_report_names_the_active_accelerations():
    assert "accelerations active on this machine: none" in printed(figures())
    layers = {"WinogradConv2d": 17, "OnePassSum": 16}
    text = printed(figures(accelerated_layers=layers, compiled=True))
    assert "accelerations active on this machine: compiled, 17 WinogradConv2d, 16 OnePassSum" in text


def test_the_report_says_whether_winograd_pays():
    verdicts = {(14.0, 2.7): "14.0 ms by PyTorch, 2.7 ms by", (2.0, 1.9): "which does not pay"}
    for (plain, winograd), verdict in verdicts.items():
        probe = {"plain_ms": plain, "winograd_ms": winograd}
        assert verdict in printed(figures(winograd_probe_ms=probe)).replace("\n", " ")
    assert "Winograd" not in printed(figures())


def test_the_report_compares_by_ratios():
    ours, theirs = Timing(20.0, 19.0)._asdict(), Timing(40.0, 39.0)._asdict()
    both = {part: {"ours": ours, "torchvision": theirs} for part in ("network", "whole")}
    difference = {"ours": 100, "theirs": 99, "box_px": 0.004, "score": 2e-5}
    memory = {"ours": 100e6, "torchvision": 400e6}
    text = printed(figures(milliseconds=both, agreement=difference, peak_bytes=memory))
    assert "ours / theirs" in text and "0.50" in text and "0.25" in text
    assert "100 detections, theirs 99" in text and "0.004 px" in text


def test_the_command_prints_and_writes(tmp_path, capsys):
    file = tmp_path / "figures.json"
    words = ["bench", "--recipe", "resnet18_fpn", "--size", "64x96", "--repeats", "1", "--json", str(file)]
    assert main(words) == 0
    output = capsys.readouterr().out
    assert "resnet18_fpn" in output and "RPN head" in output and str(file) in output
    assert "accelerations active on this machine: " in output
    figures = json.loads(file.read_text())
    assert figures["size_hw"] == [64, 96] and Timing(**figures["milliseconds"]["whole"]["ours"]).median > 0
    assert figures["operations"] > 1e9
    speed = figures["operations"] / (figures["milliseconds"]["network"]["ours"]["median"] / 1000)
    assert figures["share_of_peak"] == pytest.approx(speed / figures["product_peak"])


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--batch", "0"], "--batch must be at least 1, not 0"),
        (["--train", "--objects", "0"], "--objects must be at least 1, not 0"),
        (["--recipe", "resnet19"], "there is no recipe"),
        (["--train", "--capture"], "--compile and --capture apply to detection only"),
        (
            ["--train", "--against", "torchvision"],
            "benchmarks/train_torchvision.py in the repository compares",
        ),
        (["--objects", "5"], "--objects applies to training steps only"),
        (["--device", "cpu", "--capture"], "CUDA device"),
    ],
)
def test_mistakes_get_a_sentence(words, sentence, capsys):
    assert main(["bench", *words]) == 2
    assert sentence in capsys.readouterr().err


def test_beside_torchvision():
    pytest.importorskip("torchvision", reason="torchvision is not installed")
    figures = bench_detection("resnet18_fpn", (128, 160), against="torchvision", repeats=1, device="cpu")
    assert figures["agreement"]["ours"] == figures["agreement"]["theirs"]
    assert figures["agreement"]["box_px"] < 0.01 and figures["agreement"]["score"] < 1e-4
    assert "torchvision, ms" in printed(figures)


@pytest.mark.parametrize("recipe", ["resnet18_c4", "mobilenet_v2_fpn", "resnet18_fpn_keypoint"])
def test_networks_that_torchvision_does_not_have(recipe):
    pytest.importorskip("torchvision", reason="torchvision is not installed")
    with pytest.raises(
        ValueError, match=rf"{recipe} cannot be compared with torchvision; expected resnext101_fpn"
    ):
        torchvision_network(random_checkpoint(recipe), (64, 64))
