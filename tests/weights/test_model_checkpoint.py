"""A file of any library, or a published name, becomes a network with class names."""

import pickle
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import maskrcnn
from maskrcnn import recipes
from maskrcnn.weights import model_checkpoint as module
from maskrcnn.weights.files import write_state_dict
from maskrcnn.weights.layouts import DETECTRON2, TORCHVISION
from maskrcnn.weights.model_checkpoint import (
    ModelCheckpoint,
    model_from_library,
    model_from_plain,
    read_model,
    write_model,
)
from networks import fitting

TINY = {"pyramid.channels": 8, "masks.channels": 8, "boxes.hidden": 8, "body.frozen": ()}


@pytest.fixture(scope="module")
def native() -> ModelCheckpoint:
    torch.manual_seed(0)
    return ModelCheckpoint(
        recipe="resnet18_fpn",
        arguments=TINY,
        class_names=("cat", "dog"),
        category_ids=(17, 18),
        keypoint_names=(),
        skeleton=(),
        short_side=64,
        long_side=96,
        weights=recipes.build("resnet18_fpn", 2, {**TINY}).state_dict(),
    )


def test_a_file_of_this_library(native, tmp_path):
    write_model(tmp_path / "native.pt", native)
    read = read_model(tmp_path / "native.pt")
    assert replace(read, weights={}) == replace(native, weights={})
    assert all(
        torch.equal(tensor, native.weights[name]) for name, tensor in read.build().state_dict().items()
    )


def test_a_file_without_score_thresholds_has_none(native, tmp_path):
    measured = replace(native, score_thresholds=(0.25, 0.5))
    write_model(tmp_path / "new.pt", measured)
    assert read_model(tmp_path / "new.pt").metadata.score_thresholds == (0.25, 0.5)
    content = torch.load(tmp_path / "new.pt", weights_only=True)
    del content["trained"]["score_thresholds"]
    torch.save(content, tmp_path / "old.pt")
    assert read_model(tmp_path / "old.pt").metadata.score_thresholds == ()


@pytest.mark.parametrize("layout", [TORCHVISION, DETECTRON2])
@pytest.mark.parametrize("suffix", [".pth", ".pkl"])
def test_a_file_of_another_library(native, layout, suffix, tmp_path):
    foreign, path = layout.from_native(native.weights), tmp_path / f"foreign{suffix}"
    if suffix == ".pkl":
        content = {"model": {name: tensor.numpy() for name, tensor in foreign.items()}, "__author__": "x"}
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(foreign, path)
    read = read_model(path)
    assert (read.recipe, read.class_names, read.category_ids) == (
        "resnet18_fpn",
        ("class 1", "class 2"),
        (1, 2),
    )
    assert all(torch.equal(tensor, native.weights[name]) for name, tensor in read.weights.items())
    result = maskrcnn.load(path, device="cpu").predict(torch.zeros(3, 40, 60, dtype=torch.uint8), score=0.0)
    assert result.size_hw == (40, 60)


def test_a_published_file_has_the_classes_of_its_data_set(monkeypatch, tmp_path):
    path = tmp_path / "model_final_af9cf5.pkl"  # the name of Detectron2's file for Cityscapes
    foreign = DETECTRON2.from_native(recipes.build("resnet18_fpn", 8, {**TINY}).state_dict())
    path.write_bytes(pickle.dumps({"model": {name: tensor.numpy() for name, tensor in foreign.items()}}))
    monkeypatch.setattr(module, "fetch", lambda published: path)
    read = read_model("detectron2/Cityscapes/mask_rcnn_R_50_FPN")
    assert (read.class_names[1], read.category_ids[1], read.short_side) == ("rider", 25, 1024)


@pytest.mark.parametrize(
    ("layout", "count", "arguments", "name", "id_"),
    [
        (TORCHVISION, 90, {}, "toothbrush", 90),
        (DETECTRON2, 80, {}, "toothbrush", 90),
        (DETECTRON2, 1, {"masks": None, "keypoints.count": 17}, "person", 1),
        (TORCHVISION, 1, {}, "class 1", 1),
    ],
)
def test_numbers_of_classes_that_a_data_set_has(layout, count, arguments, name, id_):
    read = model_from_library(
        layout.from_native(recipes.build("resnet18_fpn", count, {**TINY, **arguments}).state_dict())
    )
    assert (read.class_names[-1], read.category_ids[-1]) == (name, id_)
    assert len(read.keypoint_names) == arguments.get("keypoints.count", 0)


def test_arguments_replace_what_a_fine_tuned_file_does_not_hold(native, tmp_path):
    torch.save(TORCHVISION.from_native(native.weights), tmp_path / "foreign.pth")
    options = {"proposals.anchor_sizes": (8.0, 16.0, 32.0, 64.0, 128.0)}
    checkpoint = read_model(tmp_path / "foreign.pth", class_names=["cat", "dog"], options=options)
    assert (checkpoint.class_names, checkpoint.category_ids) == (("cat", "dog"), (1, 2))
    resized = read_model(tmp_path / "foreign.pth", test_sides=(None, 500))
    assert (checkpoint.short_side, resized.short_side, resized.long_side) == (800, None, 500)
    assert checkpoint.build().rpn.anchors.sizes[0] == (8.0,)
    with pytest.raises(ValueError, match="has 2 classes, but 1 class names were given"):
        read_model(tmp_path / "foreign.pth", class_names=["cat"])


def test_a_backbone_is_not_a_network(tmp_path):
    torch.save({"layer1.0.conv1.weight": torch.zeros(2)}, tmp_path / "body.pth")
    with pytest.raises(ValueError, match=r"body\.pth: expected a network of this library.*by --init"):
        read_model(tmp_path / "body.pth")


def test_an_unknown_name():
    with pytest.raises(ValueError, match="neither a file nor a published checkpoint"):
        read_model("maskrcn_resnet50")
    with pytest.raises(FileNotFoundError, match=r"no weights file at none\.pt"):
        read_model("none.pt")


@pytest.mark.parametrize("change", [{"recipe": 3}, {"short_side": "long"}, {"more": 1}])
def test_a_description_with_other_fields_is_refused(native, change):
    with pytest.raises(ValueError, match=r"expected the fields of a network|is a"):
        model_from_plain(native.plain() | change)


def differing(native, **changes):
    """The checkpoint with other weights, by name; None for none."""
    weights = native.weights | changes
    return replace(native, weights={name: tensor for name, tensor in weights.items() if tensor is not None})


def test_all_differences_of_the_weights_are_in_one_sentence(native):
    names = list(native.weights)
    changes = dict.fromkeys(names[:7], None) | {"more": torch.zeros(3), names[20]: torch.zeros(2, 1)}
    shape = tuple(native.weights[names[20]].shape)
    with pytest.raises(ValueError, match="do not fit the recipe resnet18_fpn") as raised:
        differing(native, **changes).build()
    sentence = str(raised.value)
    required = [name for name in names[:7] if not name.startswith("normalise.")]
    assert f"{len(required)} missing ({', '.join(required)})" in sentence
    assert "1 unexpected (more)" in sentence
    assert f"1 of another shape ({names[20]} (2, 1) instead of {shape})" in sentence


def test_long_lists_of_differences_are_cut(native):
    changes = {f"layer{i}" + "x" * 10_000: torch.zeros(1) for i in range(500)}
    with pytest.raises(ValueError, match=r"500 unexpected \(layer0x.*and 495 more\)") as raised:
        differing(native, **changes).build()
    assert len(str(raised.value)) < 2000


def test_weights_that_are_no_fractions_are_refused(native):
    name = "box_branch.cls_score.bias"
    with pytest.raises(ValueError, match=r"cls_score.bias \(3,\) torch.int8 instead of \(3,\)"):
        differing(native, **{name: torch.zeros(3, dtype=torch.int8)}).build()


def test_half_precision_weights_are_built_in_float32(native):
    halves = {name: tensor.half() for name, tensor in native.weights.items()}
    model = replace(native, weights=halves).build()
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_weights_that_share_memory_are_refused(native):
    square = torch.zeros(8, 8)
    shared = {"box_branch.head.hidden.2.weight": square, "box_branch.cls_score.weight": square[:3]}
    with pytest.raises(ValueError, match="several share the same memory"):
        differing(native, **shared).build()


@pytest.mark.parametrize("weights", [{"a": 3}, {3: torch.zeros(1)}, {"a": torch.zeros(1).expand(10**9)}])
def test_weights_of_a_native_file_are_plain_tensors(native, weights):
    with pytest.raises(ValueError, match=r"expected (a tensor|text)|not a dense one"):
        model_from_plain(native.plain() | {"weights": weights})


HOSTILE = [
    {"boxes.hidden": 10**9},
    {"boxes.hidden": 10**7},
    {"pyramid.channels": 10**7, "masks.channels": 10**7},
    {"keypoints.count": 10**6, "masks": None},
    {"input.channels": 10**6},
    {"proposals.convolutions": 10**7},
    {"masks.head": "mlp", "masks.mlp_layers": 10**6},
    {"proposals.anchor_sizes": tuple(float(n) for n in range(1, 100_000))},
    {"proposals.aspect_ratios": (1.0,) * 10_000},
    {"boxes.hidden": "wide"},
    {"boxes.hidden": -1},
    {"pyramid.channels": 0.5, "masks.channels": 0.5},
    {"body.norm": "none of these"},
    {"colour": 3},
    {"input.mean": ("a", "b", "c")},
    {"pyramid.channels": 16, "masks.channels": 16},
]


@pytest.mark.parametrize("arguments", HOSTILE, ids=lambda arguments: next(iter(arguments)))
def test_a_hostile_description_allocates_nothing(native, arguments, monkeypatch):
    """All tensors are on the meta device, and not many more than there are weights."""
    tensors = []

    class Recorder(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            tensors.append(result)
            return result

    with Recorder(), pytest.raises(ValueError, match=r"do not fit the recipe|an argument of the recipe"):
        replace(native, arguments={**TINY, **arguments}).build()
    assert sum(x.numel() for x in tensors if isinstance(x, Tensor) and x.device.type != "meta") < 1000
    assert len(tensors) < 100_000
    assert torch.is_grad_enabled()


def test_a_million_classes_allocate_nothing(native):
    names, ids = tuple(map(str, range(10**6))), tuple(range(10**6))
    with pytest.raises(ValueError, match=r"cls_score.weight \(3, 8\) instead of \(1000001, 8\)"):
        replace(native, class_names=names, category_ids=ids).build()


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("backbone.body.conv1.weight", torch.zeros(0, 10**12, 7, 7)),  # as many channels of the picture
        ("roi_heads.box_head.fc6.weight", torch.zeros(10**12, 0)),  # as many hidden numbers
        ("roi_heads.box_predictor.cls_score.weight", torch.tensor(1.0)),
        ("roi_heads.box_predictor.cls_score.bias", torch.tensor(1.0)),
        ("backbone.body.layer1.0.conv2.weight", torch.zeros(3, 0)),
        ("backbone.body.conv1.weight", None),
        ("backbone.fpn.inner_blocks.0.0.weight", torch.tensor(1.0)),
    ],
)
def test_hostile_shapes_of_another_library_are_refused(native, name, tensor):
    foreign = TORCHVISION.from_native(native.weights) | {name: tensor}
    with pytest.raises(ValueError, match=r"of no known network|do not fit|an argument of|no recipe has"):
        model_from_library({name: tensor for name, tensor in foreign.items() if tensor is not None}).build()


@pytest.mark.parametrize("layer", ["cls_score", "bbox_pred"])
def test_hostile_shapes_of_a_converted_file_are_refused(native, layer, tmp_path):
    weights = TORCHVISION.from_native(native.weights)
    weights[f"roi_heads.box_predictor.{layer}.bias"] = torch.tensor(1.0)
    write_state_dict(tmp_path / "w.pth", weights, "torchvision", native.description())
    with pytest.raises(ValueError, match="do not fit the recipe"):
        read_model(tmp_path / "w.pth").build()


@pytest.mark.parametrize("recipe", ["resnet18_fpn", "resnet18_c4", "resnet18_c5", "mobilenet_v2_fpn"])
def test_what_no_file_holds_is_right_in_a_built_network(recipe):
    arguments = {
        "pyramid.channels": 8,
        "masks.channels": 8,
        "boxes.hidden": 8,
        "body.norm": "batch",
        "pyramid.norm": "batch",
        "boxes.norm": "batch",
        "masks.norm": "batch",
        "input.mean": (1.0, 2.0, 3.0),
    }
    arguments = fitting(recipe, arguments)
    checkpoint = ModelCheckpoint(recipe, arguments, ("a", "b"), (1, 2), (), (), None, 64, {})
    source = checkpoint.build_untrained()
    optional = ("normalise.", "num_batches_tracked")
    weights = {name: x for name, x in source.state_dict().items() if not any(o in name for o in optional)}
    model = replace(checkpoint, weights=weights).build()
    assert torch.equal(model.rpn.anchor_shapes, source.rpn.anchor_shapes)
    assert model.rpn.anchor_shapes.device.type == "cpu"
    assert model.normalise.mean.flatten().tolist() == [1, 2, 3]
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, source.state_dict()[name]), name
    for buffer in model.buffers():
        assert buffer.device.type == "cpu"


def test_networks_built_from_one_checkpoint_share_no_memory(native):
    first, second = native.build(), native.build()
    with torch.no_grad():
        first.box_branch.cls_score.weight.zero_()
    assert second.box_branch.cls_score.weight.any()
    assert native.weights["box_branch.cls_score.weight"].any()


def test_a_network_is_written_whole_or_not_at_all(native, tmp_path, monkeypatch):
    write_model(tmp_path / "deep" / "w.pt", native)
    before = (tmp_path / "deep" / "w.pt").read_bytes()
    monkeypatch.setattr(torch, "save", lambda content, path: path.write_bytes(b"half") and 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_model(tmp_path / "deep" / "w.pt", native)
    assert (tmp_path / "deep" / "w.pt").read_bytes() == before
    assert len(list((tmp_path / "deep").iterdir())) == 1
