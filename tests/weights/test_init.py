import pytest
import torch
from torch import nn

from maskrcnn.network.backbone import FPN, ResNet
from maskrcnn.network.norms import batch_norm
from maskrcnn.network.resnets import BasicBlock, resnet50
from maskrcnn.weights.init import load_matching, read_initial_weights
from maskrcnn.weights.layouts import to_native


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


def test_all_weights_of_a_whole_model_are_loaded():
    model = Network(FPN(small_body(), 8))
    source = filled(model)
    report = load_matching(model, source)
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in source.items())
    assert report.loaded == tuple(source)
    assert not (report.missing or report.mismatched or report.unexpected or report.adapted)


@pytest.mark.parametrize(
    ("backbone", "prefix"), [(FPN(small_body(), 8), "backbone.body."), (small_body(), "backbone.")]
)
def test_weights_of_a_body_are_loaded_into_the_backbone(backbone, prefix):
    model = Network(backbone)
    source = filled(small_body(norm=batch_norm)) | {"fc.weight": torch.zeros(1000, 128)}
    report = load_matching(model, source)
    body = [name for name in source if not name.endswith("num_batches_tracked") and name != "fc.weight"]
    assert report.loaded == tuple(prefix + name for name in body)
    assert all((model.state_dict()[prefix + name] == source[name]).all() for name in body)
    assert report.unexpected == ("fc.weight",)  # counters of steps are not reported
    assert {name.split(".")[0] for name in report.missing} <= {"backbone", "classes"}
    assert "classes.weight" in report.missing and not report.mismatched


def test_a_c4_head_loads_res5_of_a_body():
    body = small_body()
    model = Network(small_body(stages=("res4",)), stage=small_body().res5)
    source = filled(body)
    report = load_matching(model, source)
    assert not report.unexpected
    assert report.missing == ("classes.weight", "classes.bias")
    assert (model.box["res5"][0].conv1.weight == source["res5.0.conv1.weight"]).all()
    assert model.box["res5"] is model.mask["res5"]


def test_mismatched_shapes_are_reported_and_not_loaded():
    model = Network(small_body(), classes=3)
    source = filled(Network(small_body(), classes=5))
    before = model.classes.weight.clone()
    report = load_matching(model, source)
    assert report.mismatched == (
        "classes.weight ((5, 8) in the file, (3, 8) in the model)",
        "classes.bias ((5,) in the file, (3,) in the model)",
    )
    assert torch.equal(model.classes.weight, before)
    assert "classes.weight" not in report.missing + report.unexpected + report.loaded


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_the_first_convolution_has_the_same_output_for_a_grey_picture(channels):
    source, model = small_body(), small_body(in_channels=channels)
    report = load_matching(model, source.state_dict())
    assert report.adapted == ("stem.conv.weight",)
    grey = torch.rand(1, 1, 32, 32)
    expected = source.stem(grey.expand(-1, 3, -1, -1))
    torch.testing.assert_close(model.stem(grey.expand(-1, channels, -1, -1)), expected)


def test_weights_of_which_none_fits_are_refused():
    model = small_body()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(
        ValueError, match=r"none of the 2 weights fits the model: their names are conv\.weight, b"
    ):
        load_matching(model, {"conv.weight": torch.zeros(1), "b": torch.zeros(2)})
    with pytest.raises(ValueError, match="none of the 1 weights"):
        load_matching(model, {"stem.norm.weight": torch.zeros(3)})
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_short_names_are_not_loaded_into_other_layers():
    """A name such as conv1.weight ends many of the model's names, but means none of them."""
    source = {"conv1.weight": torch.zeros(64, 3, 7, 7), "stem.norm.weight": torch.zeros(64)}
    assert load_matching(small_body(), source).unexpected == ("conv1.weight",)


def test_the_report_is_a_few_lines():
    model = Network(FPN(resnet50(in_channels=4)))
    source = filled(resnet50(norm=batch_norm)) | {"fc.weight": torch.zeros(3)}
    assert str(load_matching(model, to_native(source))).splitlines() == [
        "loaded        265  backbone.body (265)",
        "adapted         1  backbone.body.stem.conv.weight",
        "missing        18  backbone.lateral (8), backbone.output (8), classes (2)",
        "unexpected      1  fc (1)",
    ]


@pytest.mark.parametrize(
    "change",
    [lambda weight: weight.to(torch.int8), lambda weight: weight[:, :0], lambda weight: weight.sum()],
)
def test_a_first_convolution_that_cannot_be_adapted_is_mismatched(change):
    source = filled(small_body())
    source["stem.conv.weight"] = change(source["stem.conv.weight"])
    report = load_matching(small_body(in_channels=4), source)
    assert not report.adapted and report.mismatched[0].startswith("stem.conv.weight (")


def test_integers_are_not_loaded_into_parameters():
    source = {name: tensor.to(torch.int8) for name, tensor in filled(small_body()).items()}
    source["stem.conv.weight"] = source["stem.conv.weight"].float()
    report = load_matching(small_body(), source)
    assert report.loaded == ("stem.conv.weight",) and report.mismatched[0] == (
        "stem.norm.weight ((64,) torch.int8 in the file, (64,) in the model)"
    )


def test_a_hostile_backbone_is_named(tmp_path):
    weights = {
        "conv1_w": torch.zeros(1),
        "res2_0_branch2b_w": torch.zeros(3),
        "res2_0_branch9z_w": torch.zeros(1),
    }
    torch.save(weights, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"w\.pth: "):
        read_initial_weights(tmp_path / "w.pth")
