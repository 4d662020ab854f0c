"""Features of whole backbones against torchvision's and Detectron2's for the same deterministic weights."""

import importlib.util
import json
import os
import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from maskrcnn.network.fpn import FPN
from maskrcnn.network.norms import FrozenBatchNorm2d, batch_norm
from maskrcnn.network.resnet import resnet50, resnext101
from maskrcnn.weights.names import to_ours

REFERENCE = Path(os.environ.get("MASKRCNN_SHARED", Path(__file__).parents[3] / "shared")) / "reference"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not REFERENCE.exists(), reason=f"needs {REFERENCE}"),
]

DETECTRON2_NAMES = (
    (r"^bottom_up\.", "body."),
    (r"stem\.conv1\.(?!norm)", "stem.conv."),
    (r"stem\.conv1\.norm\.", "stem.norm."),
    (r"\.conv(\d)\.norm\.", r".norm\1."),
    (r"\.shortcut\.weight", ".shortcut.conv.weight"),
    (r"^fpn_(lateral|output)(\d)\.", lambda match: f"{match[1]}.{int(match[2]) - 2}.conv."),
)


@pytest.mark.parametrize(
    ("model", "backbone"),
    [
        ("maskrcnn_resnet50_fpn", lambda: FPN(resnet50(norm=partial(FrozenBatchNorm2d, eps=0.0)))),
        ("maskrcnn_resnet50_fpn_v2", lambda: FPN(resnet50(norm=batch_norm), norm=batch_norm)),
    ],
)
def test_features_equal_torchvision(model, backbone):
    reference, expected = load(f"torchvision_{model}")
    statistics = [f"feature_{level}" for level in ("0", "1", "2", "3", "pool")]
    weights = torchvision_weights(filled(reference))
    compare(backbone(), weights, torchvision_input(reference), expected, statistics)


@pytest.mark.parametrize(
    ("model", "backbone", "maps"),
    [
        ("mask_rcnn_R_50_C4_3x", lambda: resnet50(stages=("res4",), stride_in_1x1=True), ("res4",)),
        (
            "mask_rcnn_R_50_DC5_3x",
            lambda: resnet50(stages=("res5",), stride_in_1x1=True, dilate_c5=True),
            ("res5",),
        ),
        ("mask_rcnn_X_101_32x8d_FPN_3x", lambda: FPN(resnext101()), ("p2", "p3", "p4", "p5", "p6")),
    ],
)
def test_features_equal_detectron2(model, backbone, maps):
    reference, expected = load(f"detectron2_{model}")
    weights = {rename(name): tensor for name, tensor in filled(reference).items()}
    std = (57.375, 57.12, 58.395) if "X_101" in model else (1.0, 1.0, 1.0)
    images = detectron2_input(reference, std, stride=32 if "FPN" in model else 1)
    compare(backbone(), weights, images, expected, [f"feature_{name}" for name in maps])


def compare(backbone, weights, images, expected, statistics):
    missing, unexpected = backbone.load_state_dict(weights, strict=False)
    assert not missing and all(name.endswith("num_batches_tracked") for name in unexpected)
    with torch.inference_mode():
        maps = backbone.eval()(images)
    for features, name in zip(maps, statistics, strict=True):
        assert tuple(features.shape) == tuple(expected[f"{name}_shape"])
        for statistic in ("mean", "std"):
            theirs = torch.from_numpy(expected[f"{name}_{statistic}"])
            ours = getattr(features[0].double(), statistic)((1, 2))
            assert (ours - theirs).abs().max() < 1e-4 * theirs.abs().max()


def load(name: str) -> tuple[dict, dict[str, np.ndarray]]:
    return json.loads((REFERENCE / f"{name}.json").read_text()), np.load(REFERENCE / f"{name}.npz")


def filled(reference: dict) -> dict[str, torch.Tensor]:
    spec = importlib.util.spec_from_file_location("reference_weights", REFERENCE / "weights.py")
    weights = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(weights)
    backbone = {name: shape for name, shape in reference["layout"].items() if name.startswith("backbone.")}
    values = {name: weights.fill(name, shape, reference["scales"]) for name, shape in backbone.items()}
    return {name.removeprefix("backbone."): torch.from_numpy(np.asarray(v)) for name, v in values.items()}


def torchvision_weights(state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    body = {k.removeprefix("body."): v for k, v in state_dict.items() if k.startswith("body.")}
    renamed = {f"body.{name}": tensor for name, tensor in to_ours(body).items()}
    for name, tensor in state_dict.items():
        if name.startswith("fpn."):
            _, blocks, level, layer, vector = name.split(".")
            kind = {"inner_blocks": "lateral", "layer_blocks": "output"}[blocks]
            renamed[f"{kind}.{level}.{('conv', 'norm')[int(layer)]}.{vector}"] = tensor
    return renamed


def rename(name: str) -> str:
    for pattern, replacement in DETECTRON2_NAMES:
        name = re.sub(pattern, replacement, name)
    return name


def torchvision_input(reference: dict) -> torch.Tensor:
    """Normalise, resize as floats without antialiasing, pad to a multiple of 32."""
    picture = np.array(Image.open(REFERENCE / reference["image"]).convert("RGB"))
    image = torch.from_numpy(picture).permute(2, 0, 1)[None] / 255
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[:, :, None, None]
    size = reference["network_input_size"]
    image = F.interpolate((image - mean) / std, size=size, mode="bilinear", align_corners=False)
    return F.pad(image, (0, -size[1] % 32, 0, -size[0] % 32))


def detectron2_input(reference: dict, std: tuple[float, ...], stride: int) -> torch.Tensor:
    """Resize by Pillow as bytes, turn to BGR, normalise, pad to a multiple of `stride`."""
    height, width = reference["network_input_size"]
    picture = Image.open(REFERENCE / reference["image"]).convert("RGB")
    picture = np.array(picture.resize((width, height), Image.Resampling.BILINEAR))[:, :, ::-1].copy()
    image = torch.from_numpy(picture).permute(2, 0, 1)[None].float()
    mean, std = torch.tensor([(103.53, 116.28, 123.675), std])[:, :, None, None]
    return F.pad((image - mean) / std, (0, -width % stride, 0, -height % stride))
