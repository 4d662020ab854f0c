"""Detection is one graph: no break, whatever the size and the number of pictures.

Each check runs in a process of its own, because the shapes that are checked in tests break graphs.
"""

import subprocess
import sys

import pytest
import torch

from maskrcnn.network.model import MaskRCNN
from maskrcnn.plain import options_of
from maskrcnn.recipes import build, options_of_recipe
from maskrcnn.types import Batch


def small(recipe: str) -> MaskRCNN:
    torch.manual_seed(0)
    options = {
        "proposals.post_nms": 30,
        "boxes.max_detections": 10,
        "boxes.hidden": 32,
        "pyramid.channels": 32,
        "masks.channels": 32,
        "boxes.score_threshold": 0.1,
    }
    usual = options_of_recipe(recipe)
    known = [name for name in options_of(usual) if usual.masks or not name.startswith("masks.")]
    return build(recipe, 3, {name: options[name] for name in options if name in known}).eval()


def pictures(count: int, height: int, width: int) -> Batch:
    sizes_hw = torch.tensor([[height, width - 8 * i] for i in range(count)])
    return Batch(torch.rand(count, 3, height, width) * 255, sizes_hw)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "sizes"),
    [
        ("resnet18_fpn", "static"),
        ("resnet18_fpn", "dynamic"),
        ("resnet18_c4", "dynamic"),
        ("resnet18_fpn_keypoint", "dynamic"),
    ],
)
def test_one_graph_answers_as_the_network_does(recipe: str, sizes: str) -> None:
    done = subprocess.run([sys.executable, __file__, recipe, sizes], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "one graph\n"


@torch.inference_mode()
def check(recipe: str, sizes: str) -> None:
    """Compare compiled detection with plain detection, and print how many graphs it took."""
    model = small(recipe)
    graphs = []

    def keep(graph: torch.fx.GraphModule, _: object) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    # a first size that is also another dimension, such as 3, would be taken for it
    is_dynamic = sizes == "dynamic"
    detect = torch.compile(model.detect, fullgraph=True, dynamic=is_dynamic, backend=keep)
    for size in [(4, 128, 160), (5, 160, 192)] if is_dynamic else [(2, 64, 96)]:
        batch = pictures(*size)
        ours, plain = detect(batch), model.detect(batch)
        assert torch.equal(ours.valid, plain.valid) and plain.valid.any()
        torch.testing.assert_close(ours.boxes, plain.boxes, atol=1e-3, rtol=0)
        torch.testing.assert_close(ours.scores, plain.scores, atol=1e-5, rtol=0)
    print("one graph" if len(graphs) == 1 else f"{len(graphs)} graphs")


if __name__ == "__main__":
    check(*sys.argv[1:])
