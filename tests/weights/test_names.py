import pytest
import torch

from maskrcnn.network.mobilenet import MobileNetV2
from maskrcnn.network.norms import batch_norm
from maskrcnn.network.resnet import resnet18, resnet50
from maskrcnn.weights.names import to_ours


def torchvision_names(depths: list[int], convolutions: int, projected: set[int]) -> set[str]:
    """The names of torchvision's ResNet, written down from its structure."""
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    names = {"conv1.weight", *(f"bn1.{v}" for v in norm), "fc.weight", "fc.bias"}
    for stage, depth in enumerate(depths, start=1):
        for block in range(depth):
            for i in range(1, convolutions + 1):
                names |= {f"layer{stage}.{block}.conv{i}.weight"}
                names |= {f"layer{stage}.{block}.bn{i}.{v}" for v in norm}
        if stage in projected:
            names |= {f"layer{stage}.0.downsample.0.weight"}
            names |= {f"layer{stage}.0.downsample.1.{v}" for v in norm}
    return names


@pytest.mark.parametrize(
    ("make", "theirs"),
    [
        (resnet18, torchvision_names([2, 2, 2, 2], 2, {2, 3, 4})),
        (resnet50, torchvision_names([3, 4, 6, 3], 3, {1, 2, 3, 4})),
    ],
)
def test_torchvision_resnets_get_our_names(make, theirs):
    with torch.device("meta"):
        ours = set(make(norm=batch_norm).state_dict())
    assert set(to_ours(dict.fromkeys(theirs, torch.zeros(1)))) == ours | {"fc.weight", "fc.bias"}


def test_each_tensor_keeps_its_meaning():
    theirs = ["conv1.weight", "bn1.bias", "layer1.0.bn2.weight", "layer3.0.downsample.1.running_var"]
    ours = to_ours({name: torch.tensor(float(i)) for i, name in enumerate(theirs)})
    assert {name: int(tensor) for name, tensor in ours.items()} == {
        "stem.conv.weight": 0,
        "stem.norm.bias": 1,
        "res2.0.norm2.weight": 2,
        "res4.0.shortcut.norm.running_var": 3,
    }


@pytest.mark.parametrize("body", [MobileNetV2, resnet18])
def test_our_own_names_pass_unchanged(body):
    state_dict = body().state_dict()
    assert list(to_ours(state_dict)) == list(state_dict)
    assert list(to_ours({f"module.{name}": x for name, x in state_dict.items()})) == list(state_dict)
