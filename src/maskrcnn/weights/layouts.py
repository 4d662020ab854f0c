"""The names under which other libraries keep the parameters of the same networks.

A layout is a table of module names, foreign and native (this library's), and of what happens to the rows of
the classes: torchvision puts background first and has a box and a mask for it; Detectron2 and this library
put it last and have neither.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

Weights = Mapping[str, Tensor]
Pair = tuple[str, str]  # foreign name, native name

_STAGES, _BLOCKS, _LEVELS, _CONVOLUTIONS = range(2, 6), range(40), range(4), range(8)
_FROZEN_EPS = 1e-5  # of Detectron2's norms that have no statistics


class Layout(NamedTuple):
    """How a library names and arranges a detector's parameters."""

    name: str
    modules: tuple[Pair, ...]  # where several foreign names mean one module, the first is written
    exceptions: tuple[
        tuple[str, Pair], ...
    ]  # pairs to write instead, if the network has the module named first
    rows_to_native: Callable[
        [str, Tensor], Tensor
    ]  # of (native module, tensor): reorders the rows of classes
    rows_from_native: Callable[[str, Tensor], Tensor]  # the inverse

    def to_native(self, weights: Weights) -> dict[str, Tensor]:
        """Return foreign weights under native names. A name that is not in the table stays."""
        natives = dict([*self.modules, *(pair for _, pair in self.exceptions)])
        renamed = {}
        for name, tensor in weights.items():
            module, dot, parameter = name.rpartition(".")
            module = natives.get(module, module)
            renamed[module + dot + parameter] = self.rows_to_native(module, tensor)
        return renamed

    def from_native(self, weights: Weights) -> dict[str, Tensor]:
        """Return native weights in this layout. Raises ValueError for a module that it has no name for."""
        modules = [name.rpartition(".")[0] for name in weights]
        foreign = {native: name for name, native in reversed(self.modules)}
        foreign |= {native: name for module, (name, native) in self.exceptions if module in modules}
        renamed = {}
        for (name, tensor), module in zip(weights.items(), modules, strict=True):
            parameter = name.rpartition(".")[2]
            if module == "normalise":
                continue
            if module not in foreign:
                raise ValueError(
                    f"{self.name} has no network with {name}: it cannot be written in its layout"
                )
            renamed[f"{foreign[module]}.{parameter}"] = self.rows_from_native(module, tensor)
        return renamed


def layout_of(weights: Weights) -> Layout | None:
    """Return the layout of a detector's weights, or None where it is native or unknown."""
    if any(name.startswith("proposal_generator.") for name in weights):
        return DETECTRON2
    return TORCHVISION if any(name.startswith("roi_heads.box_predictor.") for name in weights) else None


def is_caffe2_backbone(weights: Weights) -> bool:
    """Return whether weights are a backbone with the names of Caffe2, from which Detectron2 trains."""
    return "conv1_w" in weights


def to_native(weights: Weights) -> dict[str, Tensor]:
    """Return weights of any known layout, of a detector or of a backbone, under native names.

    Known are the detectors of torchvision and Detectron2, torchvision's classification ResNets, ResNeXts and
    MobileNetV2, the Caffe2 backbones from which Detectron2 trains, and native weights. The prefix
    ``module.`` of every name, which parallel training adds, is removed. Parameters that no detector has, such
    as a classifier's, keep their names.
    """
    if weights and all(name.startswith("module.") for name in weights):
        weights = {name.removeprefix("module."): tensor for name, tensor in weights.items()}
    if layout := layout_of(weights):
        return layout.to_native(weights)
    if any(name.startswith("layer1.") for name in weights):
        return _TORCHVISION_BODY.to_native(weights)
    if is_caffe2_backbone(weights):
        return _from_caffe2(weights)
    return dict(weights)


def _unchanged(module: str, tensor: Tensor) -> Tensor:
    return tensor


_SCORES, _BOXES, _MASKS = "box_branch.cls_score", "box_branch.bbox_pred", "branches.masks.head.logits"


def _background_last(module: str, tensor: Tensor) -> Tensor:
    if tensor.dim() == 0:  # a file may hold anything; the recipe refuses the shape
        return tensor
    if module == _SCORES:
        return tensor.roll(-1, 0)
    if module == _BOXES:
        return tensor[4:]
    return tensor[1:] if module == _MASKS else tensor


def _background_first(module: str, tensor: Tensor) -> Tensor:
    if module == _SCORES:
        return tensor.roll(1, 0)
    if module in (_BOXES, _MASKS):  # background's box and mask are never read
        unused = tensor.new_zeros(4 if module == _BOXES else 1, *tensor.shape[1:])
        return torch.cat((unused, tensor))
    return tensor


def _torchvision_body(foreign: str = "", native: str = "") -> Iterator[Pair]:
    yield f"{foreign}conv1", f"{native}stem.conv"
    yield f"{foreign}bn1", f"{native}stem.norm"
    for stage in _STAGES:
        for block in _BLOCKS:
            foreign_block, native_block = (
                f"{foreign}layer{stage - 1}.{block}.",
                f"{native}res{stage}.{block}.",
            )
            yield f"{foreign_block}downsample.0", f"{native_block}shortcut.conv"
            yield f"{foreign_block}downsample.1", f"{native_block}shortcut.norm"
            for n in (1, 2, 3):
                yield f"{foreign_block}conv{n}", f"{native_block}conv{n}"
                yield f"{foreign_block}bn{n}", f"{native_block}norm{n}"


def _torchvision() -> Iterator[Pair]:
    yield from _torchvision_body("backbone.body.", "backbone.body.")
    for level in _LEVELS:
        for foreign, native in (("inner", "lateral"), ("layer", "output")):
            foreign_block, native_block = (
                f"backbone.fpn.{foreign}_blocks.{level}",
                f"backbone.{native}.{level}",
            )
            yield f"{foreign_block}.0", f"{native_block}.conv"
            yield f"{foreign_block}.1", f"{native_block}.norm"
            yield foreign_block, f"{native_block}.conv"  # before 0.13
    yield "rpn.head.cls_logits", "rpn.head.objectness"
    yield "rpn.head.bbox_pred", "rpn.head.deltas"
    yield "roi_heads.box_head.fc6", "box_branch.head.hidden.0"
    yield "roi_heads.box_head.fc7", "box_branch.head.hidden.2"
    yield "roi_heads.box_predictor.cls_score", _SCORES
    yield "roi_heads.box_predictor.bbox_pred", _BOXES
    yield "roi_heads.mask_predictor.conv5_mask", "branches.masks.head.deconv"
    yield "roi_heads.mask_predictor.mask_fcn_logits", "branches.masks.head.logits"
    yield "roi_heads.keypoint_predictor.kps_score_lowres", "branches.keypoints.deconv"
    for n in _CONVOLUTIONS:
        yield f"rpn.head.conv.{n}.0", f"rpn.head.convs.{n}"
        for theirs, ours in (("box_head", "box_branch"), ("mask_head", "branches.masks")):
            yield f"roi_heads.{theirs}.{n}.0", f"{ours}.head.convs.{2 * n}.conv"
            yield f"roi_heads.{theirs}.{n}.1", f"{ours}.head.convs.{2 * n}.norm"
        yield f"roi_heads.mask_head.mask_fcn{n + 1}", f"branches.masks.head.convs.{2 * n}.conv"  # before 0.13
        yield f"roi_heads.keypoint_head.{2 * n}", f"branches.keypoints.convs.{2 * n}"
    yield "rpn.head.conv", "rpn.head.convs.0"  # before 0.13


def _detectron2_stage(foreign: str, native: str, stage: int) -> Iterator[Pair]:
    for block in _BLOCKS:
        foreign_block, native_block = f"{foreign}res{stage}.{block}.", f"{native}res{stage}.{block}."
        yield f"{foreign_block}shortcut", f"{native_block}shortcut.conv"
        yield f"{foreign_block}shortcut.norm", f"{native_block}shortcut.norm"
        for n in (1, 2, 3):
            yield f"{foreign_block}conv{n}", f"{native_block}conv{n}"
            yield f"{foreign_block}conv{n}.norm", f"{native_block}norm{n}"


def _detectron2() -> Iterator[Pair]:
    for foreign, native in (("backbone.bottom_up.", "backbone.body."), ("backbone.", "backbone.")):
        yield f"{foreign}stem.conv1", f"{native}stem.conv"
        yield f"{foreign}stem.conv1.norm", f"{native}stem.norm"
        for stage in _STAGES:
            yield from _detectron2_stage(foreign, native, stage)
    yield from _detectron2_stage("roi_heads.", "box_branch.", 5)
    for level in _LEVELS:
        for kind in ("lateral", "output"):
            yield f"backbone.fpn_{kind}{level + 2}", f"backbone.{kind}.{level}.conv"
            yield f"backbone.fpn_{kind}{level + 2}.norm", f"backbone.{kind}.{level}.norm"
    rpn = "proposal_generator.rpn_head."
    yield f"{rpn}conv", "rpn.head.convs.0"
    yield f"{rpn}objectness_logits", "rpn.head.objectness"
    yield f"{rpn}anchor_deltas", "rpn.head.deltas"
    yield "roi_heads.box_predictor.cls_score", _SCORES
    yield "roi_heads.box_predictor.bbox_pred", _BOXES
    yield "roi_heads.mask_head.deconv", "branches.masks.head.deconv"
    yield "roi_heads.mask_head.predictor", "branches.masks.head.logits"
    yield "roi_heads.keypoint_head.score_lowres", "branches.keypoints.deconv"
    for n in _CONVOLUTIONS:
        yield f"{rpn}conv.conv{n}", f"rpn.head.convs.{n}"
        yield f"roi_heads.box_head.fc{n + 1}", f"box_branch.head.hidden.{2 * n}"
        for foreign, native in (("box_head.conv", "box_branch"), ("mask_head.mask_fcn", "branches.masks")):
            yield f"roi_heads.{foreign}{n + 1}", f"{native}.head.convs.{2 * n}.conv"
            yield f"roi_heads.{foreign}{n + 1}.norm", f"{native}.head.convs.{2 * n}.norm"
        yield f"roi_heads.keypoint_head.conv_fcn{n + 1}", f"branches.keypoints.convs.{2 * n}"


TORCHVISION = Layout(
    "torchvision",
    tuple(_torchvision()),
    (("box_branch.head.convs.0.conv", ("roi_heads.box_head.5", "box_branch.head.hidden.0")),),
    _background_last,
    _background_first,
)
_TORCHVISION_BODY = Layout("torchvision", tuple(_torchvision_body()), (), _unchanged, _unchanged)
DETECTRON2 = Layout(
    "detectron2",
    tuple(_detectron2()),
    (("rpn.head.convs.1", ("proposal_generator.rpn_head.conv.conv0", "rpn.head.convs.0")),),
    _unchanged,
    _unchanged,
)

_CAFFE2_BRANCHES = {"branch2a": "1", "branch2b": "2", "branch2c": "3"}
_CAFFE2_PARAMETERS = {
    "w": "weight",
    "b": "bias",
    "s": "weight",
    "gamma": "weight",
    "beta": "bias",
    "rm": "running_mean",
    "running_mean": "running_mean",
    "riv": "running_var",
    "running_var": "running_var",
}
_CAFFE2_BLOCK = re.compile(
    r"(res\d)_(\d+)_(branch1|branch2[abc])(_bn)?_(w|b|s|gamma|beta|rm|riv|running_mean|running_var)$"
)
_CAFFE2_STEM = re.compile(r"(?:res_)?conv1(_bn)?_(w|b|s|gamma|beta|rm|riv|running_mean|running_var)$")


def _from_caffe2(weights: Weights) -> dict[str, Tensor]:
    """Return a Caffe2 backbone under native names.

    Norms without statistics, only a scale and a shift, get a mean of 0 and a variance that with epsilon is 1.
    """
    renamed = {_from_caffe2_name(name): tensor for name, tensor in weights.items() if "_momentum" not in name}
    for name, tensor in list(renamed.items()):
        module, _, parameter = name.rpartition(".")
        if parameter == "bias" and re.search(r"norm\d?$", module):
            renamed.setdefault(f"{module}.running_mean", torch.zeros_like(tensor))
            renamed.setdefault(f"{module}.running_var", torch.ones_like(tensor) - _FROZEN_EPS)
    return renamed


def _from_caffe2_name(name: str) -> str:
    if stem := _CAFFE2_STEM.match(name):
        return f"stem.{'norm' if stem[1] else 'conv'}.{_CAFFE2_PARAMETERS[stem[2]]}"
    if not (block := _CAFFE2_BLOCK.match(name)):
        return name
    stage, number, branch, is_norm, parameter = block.groups()
    kind = "norm" if is_norm else "conv"
    layer = f"shortcut.{kind}" if branch == "branch1" else f"{kind}{_CAFFE2_BRANCHES[branch]}"
    return f"{stage}.{number}.{layer}.{_CAFFE2_PARAMETERS[parameter]}"
