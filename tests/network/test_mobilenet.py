import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from maskrcnn.network.init import freeze
from maskrcnn.network.mobilenet import InvertedResidual, MobileNetV2
from maskrcnn.network.norms import batch_norm, frozen_batch_norm

SHARED = Path(os.environ.get("MASKRCNN_SHARED", Path(__file__).parents[3] / "shared"))


def test_maps_are_as_announced():
    body = MobileNetV2(in_channels=2)
    maps = body(torch.randn(1, 2, 65, 40))
    expected = [
        (1, c, -(-65 // s), -(-40 // s)) for s, c in zip(body.strides, body.out_channels, strict=True)
    ]
    assert [tuple(x.shape) for x in maps] == expected


def test_number_of_parameters():
    body = MobileNetV2(norm=batch_norm)
    classifier, last_layer = 1280 * 1000 + 1000, 320 * 1280 + 2 * 1280
    assert sum(p.numel() for p in body.parameters()) == 3_504_872 - classifier - last_layer


def test_blocks_add_their_input_where_the_shapes_agree():
    x = torch.randn(1, 8, 4, 4)
    for channels, stride, adds in [(8, 1, True), (9, 1, False), (8, 2, False)]:
        block = InvertedResidual(8, channels, stride=stride, expansion=2, norm=frozen_batch_norm)
        assert torch.equal(block(x), block.conv(x) + x if adds else block.conv(x))


def test_layers_can_be_frozen():
    body = MobileNetV2(norm=batch_norm)
    freeze(body, [f"features.{i}" for i in range(4)])
    assert {name.split(".")[1] for name, p in body.named_parameters() if p.requires_grad} == {
        str(i) for i in range(4, 18)
    }


@pytest.mark.skipif(not SHARED.exists(), reason=f"needs {SHARED}")
def test_published_weights_load_by_their_names_and_know_photographs():
    """What reaches the last norm from a few photographs has the means that the norm met in its training."""
    body = MobileNetV2(norm=batch_norm).eval()
    weights = torch.load(SHARED / "weights" / "mobilenet_v2_imagenet.pth", weights_only=True)
    account = body.load_state_dict(weights, strict=False)
    assert not account.missing_keys
    assert {".".join(name.split(".")[:2]) for name in account.unexpected_keys} == {
        "features.18",
        "classifier.1",
    }
    seen = []
    last = body.features[17].conv[3]
    last.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].mean((0, 2, 3))))
    with torch.inference_mode():
        body(photographs())
    assert torch.corrcoef(torch.stack([seen[0], last.running_mean]))[0, 1] > 0.9


def photographs() -> torch.Tensor:
    paths = sorted((SHARED / "data" / "coco_small" / "val").glob("*.jpg"))[:4]
    pictures = [np.array(Image.open(path).convert("RGB").resize((224, 224))) for path in paths]
    images = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2) / 255
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[:, :, None, None]
    return (images - mean) / std
