import pytest
import torch
from torch import nn

from maskrcnn.network.fpn import FPN
from maskrcnn.network.norms import batch_norm
from maskrcnn.network.resnet import BasicBlock, ResNet, resnet50
from maskrcnn.weights.init import init_from
from maskrcnn.weights.layouts import to_ours


def small_body(**form) -> ResNet:
    return ResNet(BasicBlock, (1, 1, 1, 1), channels=16, **form)


class Network(nn.Module):
    def __init__(self, backbone, classes=3, stage=None):
        super().__init__()
        self.backbone = backbone
        self.classes = nn.Linear(8, classes)
        if stage is not None:
            self.box = nn.ModuleDict({"res5": stage})
            self.mask = nn.ModuleDict({"res5": stage})


def filled(module: nn.Module) -> dict[str, torch.Tensor]:
    """A state dict of `module`'s shapes, with 1, 2, 3, … as the values of its tensors."""
    return {name: torch.full_like(x, i) for i, (name, x) in enumerate(module.state_dict().items(), start=1)}


def test_a_whole_model_is_taken_whole():
    model = Network(FPN(small_body(), 8))
    source = filled(model)
    account = init_from(model, source)
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in source.items())
    assert account.taken == tuple(source)
    assert not (account.missing or account.mismatched or account.unused or account.adapted)


@pytest.mark.parametrize(
    ("backbone", "prefix"), [(FPN(small_body(), 8), "backbone.body."), (small_body(), "backbone.")]
)
def test_weights_of_a_body_find_their_place(backbone, prefix):
    model = Network(backbone)
    source = filled(small_body(norm=batch_norm)) | {"fc.weight": torch.zeros(1000, 128)}
    account = init_from(model, source)
    body = [name for name in source if not name.endswith("num_batches_tracked") and name != "fc.weight"]
    assert account.taken == tuple(prefix + name for name in body)
    assert all((model.state_dict()[prefix + name] == source[name]).all() for name in body)
    assert account.unused == ("fc.weight",)  # counters of frozen norms are not worth a word
    assert {name.split(".")[0] for name in account.missing} <= {"backbone", "classes"}
    assert "classes.weight" in account.missing and not account.mismatched


def test_a_c4_head_takes_the_body_s_res5():
    body = small_body()
    model = Network(small_body(stages=("res4",)), stage=small_body().res5)
    source = filled(body)
    account = init_from(model, source)
    assert not account.unused
    assert account.missing == ("classes.weight", "classes.bias")
    assert (model.box["res5"][0].conv1.weight == source["res5.0.conv1.weight"]).all()
    assert model.box["res5"] is model.mask["res5"]


def test_other_shapes_are_named_and_left_alone():
    model = Network(small_body(), classes=3)
    source = filled(Network(small_body(), classes=5))
    before = model.classes.weight.clone()
    account = init_from(model, source)
    assert account.mismatched == (
        "classes.weight ((5, 8) against (3, 8))",
        "classes.bias ((5,) against (3,))",
    )
    assert torch.equal(model.classes.weight, before)
    assert "classes.weight" not in account.missing + account.unused + account.taken


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_the_first_convolution_answers_a_grey_picture_the_same(channels):
    source, model = small_body(), small_body(in_channels=channels)
    account = init_from(model, source.state_dict())
    assert account.adapted == ("stem.conv.weight",)
    grey = torch.rand(1, 1, 32, 32)
    expected = source.stem(grey.expand(-1, 3, -1, -1))
    torch.testing.assert_close(model.stem(grey.expand(-1, channels, -1, -1)), expected)


def test_nothing_that_fits_is_an_error_and_changes_nothing():
    model = small_body()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(
        ValueError, match=r"none of the 2 weights fits the model: they are named conv\.weight, b"
    ):
        init_from(model, {"conv.weight": torch.zeros(1), "b": torch.zeros(2)})
    with pytest.raises(ValueError, match="none of the 1 weights"):
        init_from(model, {"stem.norm.weight": torch.zeros(3)})
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_short_names_do_not_stray_into_other_layers():
    """A name such as conv1.weight ends many of the model's names, and means none of them."""
    source = {"conv1.weight": torch.zeros(64, 3, 7, 7), "stem.norm.weight": torch.zeros(64)}
    assert init_from(small_body(), source).unused == ("conv1.weight",)


def test_the_account_fits_on_a_few_lines():
    model = Network(FPN(resnet50(in_channels=4)))
    source = filled(resnet50(norm=batch_norm)) | {"fc.weight": torch.zeros(3)}
    assert str(init_from(model, to_ours(source))).splitlines() == [
        "taken         265  backbone.body (265)",
        "adapted         1  backbone.body.stem.conv.weight",
        "missing        18  backbone.lateral (8), backbone.output (8), classes (2)",
        "unused          1  fc (1)",
    ]
