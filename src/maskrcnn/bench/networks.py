"""The network and the picture that benchmarks run on, both from fixed random numbers: no download is needed.

The weights are scaled so that activations stay finite and all slots of proposals and detections are filled,
as with trained weights on a crowded picture.
"""

from __future__ import annotations

import re

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from maskrcnn.weights.infer import library_defaults
from maskrcnn.weights.model_checkpoint import ModelCheckpoint

NUM_CLASSES = 90
_NORM_EPS = 1e-5  # of torchvision's frozen norms, unless it loads published weights
# Factors on variance-preserving weights: they damp residual branches and spread scores over the thresholds.
_FACTORS = {
    r"backbone\..*res\d\.\d+\.norm3\.weight": 0.2,
    r"lateral.*weight": 0.3,
    r"rpn\.head\.deltas\.weight": 0.1,
    r"cls_score\.weight": 0.6,
    r"bbox_pred\.weight": 0.7,
    r"branches\.masks\.head\.logits\.weight": 2.0,
}


def random_checkpoint(recipe: str) -> ModelCheckpoint:
    """Return a network with torchvision's defaults and random weights, the same at each call.

    Raises ValueError for an unknown recipe.
    """
    num_classes = 1 if recipe.endswith("_keypoint") else NUM_CLASSES
    checkpoint = ModelCheckpoint(
        recipe=recipe,
        arguments={**library_defaults("torchvision", recipe), "body.norm_eps": _NORM_EPS},
        class_names=tuple(f"class {number}" for number in range(num_classes)),
        category_ids=tuple(range(1, num_classes + 1)),
        keypoint_names=(),
        skeleton=(),
        short_side=None,
        long_side=100_000,
        weights={},
    )
    generator = torch.Generator().manual_seed(0)
    for name, value in checkpoint.build_untrained().state_dict().items():
        is_constant = name.startswith("normalise.") or "running_" in name or name.endswith("tracked")
        checkpoint.weights[name] = value if is_constant else _random_weight(name, value.shape, generator)
    return checkpoint


def _random_weight(name: str, shape: torch.Size, generator: torch.Generator) -> Tensor:
    value = torch.randn(shape, generator=generator)
    factor = next((factor for pattern, factor in _FACTORS.items() if re.search(pattern, name)), 1.0)
    if len(shape) > 1:
        return value * factor * (2 / shape[1:].numel()) ** 0.5
    return (1 + 0.1 * value) * factor if name.endswith("weight") else 0.02 * value


def noise_picture(size_hw: tuple[int, int]) -> UInt8[Tensor, "3 H W"]:
    """Return noise on several scales, the same at each call."""
    generator = torch.Generator().manual_seed(0)
    layers: list[Float[Tensor, "1 3 _h _w"]] = [
        torch.rand(1, 3, max(1, size_hw[0] // scale), max(1, size_hw[1] // scale), generator=generator)
        for scale in (1, 8, 32)
    ]
    mean = torch.stack([F.interpolate(layer, size_hw, mode="bilinear")[0] for layer in layers]).mean(0)
    return (mean * 255).to(torch.uint8)
