"""The names under which other libraries keep the parameters of the same networks.

A layout is a table of modules, theirs and ours, and what happens to the rows of the classes: torchvision puts
background first and keeps a box and a mask for it, Detectron2 and we put it last and keep none. Reading goes
through the table from left to right, writing from right to left.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

Weights = Mapping[str, Tensor]
Pair = tuple[str, str]  # theirs, ours

_STAGES, _BLOCKS, _LEVELS, _CONVOLUTIONS = range(2, 6), range(40), range(4), range(8)
_FROZEN_EPS = 1e-5  # of Detectron2's norms that have no statistics


class Layout(NamedTuple):
    """How a library names and arranges a detector's parameters."""

    name: str
    modules: tuple[Pair, ...]  # of several names for one module of ours, the first is written
    others: tuple[
        tuple[str, Pair], ...
    ]  # written instead where the network has a module of ours, named first
    read_rows: Callable[[str, Tensor], Tensor]  # of (our module, tensor): the rows of the classes, as ours
    write_rows: Callable[[str, Tensor], Tensor]  # the same back

    def read(self, weights: Weights) -> dict[str, Tensor]:
        """Return weights of this layout under our names; what has no name of ours keeps its own."""
        ours = dict([*self.modules, *(pair for _, pair in self.others)])
        read = {}
        for name, tensor in weights.items():
            module, dot, vector = name.rpartition(".")
            module = ours.get(module, module)
            read[module + dot + vector] = self.read_rows(module, tensor)
        return read

    def write(self, weights: Weights) -> dict[str, Tensor]:
        """Return our weights in this layout. Raises ValueError for a part that it has no name for."""
        modules = [name.rpartition(".")[0] for name in weights]
        theirs = {ours: name for name, ours in reversed(self.modules)}
        theirs |= {ours: name for module, (name, ours) in self.others if module in modules}
        written = {}
        for (name, tensor), module in zip(weights.items(), modules, strict=True):
            vector = name.rpartition(".")[2]
            if module == "normalise":
                continue
            if module not in theirs:
                raise ValueError(f"{self.name} has no place for {name}: it knows no such network")
            written[f"{theirs[module]}.{vector}"] = self.write_rows(module, tensor)
        return written


def layout_of(weights: Weights) -> Layout | None:
    """Return the layout that a detector's weights have, or None where they have ours or another."""
    if any(name.startswith("proposal_generator.") for name in weights):
        return DETECTRON2
    return TORCHVISION if any(name.startswith("roi_heads.box_predictor.") for name in weights) else None


def is_caffe2(weights: Weights) -> bool:
    """Whether weights are a backbone as Caffe2 named them: those that Detectron2's trainings start from."""
    return "conv1_w" in weights


def to_ours(weights: Weights) -> dict[str, Tensor]:
    """Return weights of any known layout, of a detector or of a backbone, under our names.

    Known are the detectors of torchvision and Detectron2, torchvision's classification ResNets, ResNeXts and
    MobileNetV2, the Caffe2 backbones that Detectron2 starts from, and our own. A ``module.`` before every
    name, left by parallel training, is cut. What has no place in a detector keeps its name.
    """
    if weights and all(name.startswith("module.") for name in weights):
        weights = {name.removeprefix("module."): tensor for name, tensor in weights.items()}
    if layout := layout_of(weights):
        return layout.read(weights)
    if any(name.startswith("layer1.") for name in weights):
        return TORCHVISION_BODY.read(weights)
    if is_caffe2(weights):
        return _from_caffe2(weights)
    return dict(weights)


def _as_it_is(module: str, tensor: Tensor) -> Tensor:
    return tensor


_CLASSES, _BOXES = "box_branch.cls_score", "box_branch.bbox_pred"
_MASKS = re.compile(r"branches\.masks\.head\.logits$")


def _background_to_the_end(module: str, tensor: Tensor) -> Tensor:
    if module == _CLASSES:
        return tensor.roll(-1, 0)
    if module == _BOXES:
        return tensor[4:]
    return tensor[1:] if _MASKS.match(module) else tensor


def _background_to_the_front(module: str, tensor: Tensor) -> Tensor:
    if module == _CLASSES:
        return tensor.roll(1, 0)
    if module == _BOXES or _MASKS.match(module):  # nothing is ever read of background's
        unused = tensor.new_zeros(4 if module == _BOXES else 1, *tensor.shape[1:])
        return torch.cat((unused, tensor))
    return tensor


def _torchvision_body(theirs: str = "", ours: str = "") -> Iterator[Pair]:
    yield f"{theirs}conv1", f"{ours}stem.conv"
    yield f"{theirs}bn1", f"{ours}stem.norm"
    for stage in _STAGES:
        for block in _BLOCKS:
            their_block, our_block = f"{theirs}layer{stage - 1}.{block}.", f"{ours}res{stage}.{block}."
            yield f"{their_block}downsample.0", f"{our_block}shortcut.conv"
            yield f"{their_block}downsample.1", f"{our_block}shortcut.norm"
            for n in (1, 2, 3):
                yield f"{their_block}conv{n}", f"{our_block}conv{n}"
                yield f"{their_block}bn{n}", f"{our_block}norm{n}"


def _torchvision() -> Iterator[Pair]:
    yield from _torchvision_body("backbone.body.", "backbone.body.")
    for level in _LEVELS:
        for theirs, ours in (("inner", "lateral"), ("layer", "output")):
            their_block, our_block = f"backbone.fpn.{theirs}_blocks.{level}", f"backbone.{ours}.{level}"
            yield f"{their_block}.0", f"{our_block}.conv"
            yield f"{their_block}.1", f"{our_block}.norm"
            yield their_block, f"{our_block}.conv"  # before 0.13
    yield "rpn.head.cls_logits", "rpn.head.objectness"
    yield "rpn.head.bbox_pred", "rpn.head.deltas"
    yield "roi_heads.box_head.fc6", "box_branch.head.hidden.0"
    yield "roi_heads.box_head.fc7", "box_branch.head.hidden.2"
    yield "roi_heads.box_predictor.cls_score", _CLASSES
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


def _detectron2_stage(theirs: str, ours: str, stage: int) -> Iterator[Pair]:
    for block in _BLOCKS:
        their_block, our_block = f"{theirs}res{stage}.{block}.", f"{ours}res{stage}.{block}."
        yield f"{their_block}shortcut", f"{our_block}shortcut.conv"
        yield f"{their_block}shortcut.norm", f"{our_block}shortcut.norm"
        for n in (1, 2, 3):
            yield f"{their_block}conv{n}", f"{our_block}conv{n}"
            yield f"{their_block}conv{n}.norm", f"{our_block}norm{n}"


def _detectron2() -> Iterator[Pair]:
    for theirs, ours in (("backbone.bottom_up.", "backbone.body."), ("backbone.", "backbone.")):
        yield f"{theirs}stem.conv1", f"{ours}stem.conv"
        yield f"{theirs}stem.conv1.norm", f"{ours}stem.norm"
        for stage in _STAGES:
            yield from _detectron2_stage(theirs, ours, stage)
    yield from _detectron2_stage("roi_heads.", "box_branch.", 5)
    for level in _LEVELS:
        for kind in ("lateral", "output"):
            yield f"backbone.fpn_{kind}{level + 2}", f"backbone.{kind}.{level}.conv"
            yield f"backbone.fpn_{kind}{level + 2}.norm", f"backbone.{kind}.{level}.norm"
    rpn = "proposal_generator.rpn_head."
    yield f"{rpn}conv", "rpn.head.convs.0"
    yield f"{rpn}objectness_logits", "rpn.head.objectness"
    yield f"{rpn}anchor_deltas", "rpn.head.deltas"
    yield "roi_heads.box_predictor.cls_score", _CLASSES
    yield "roi_heads.box_predictor.bbox_pred", _BOXES
    yield "roi_heads.mask_head.deconv", "branches.masks.head.deconv"
    yield "roi_heads.mask_head.predictor", "branches.masks.head.logits"
    yield "roi_heads.keypoint_head.score_lowres", "branches.keypoints.deconv"
    for n in _CONVOLUTIONS:
        yield f"{rpn}conv.conv{n}", f"rpn.head.convs.{n}"
        yield f"roi_heads.box_head.fc{n + 1}", f"box_branch.head.hidden.{2 * n}"
        for theirs, ours in (("box_head.conv", "box_branch"), ("mask_head.mask_fcn", "branches.masks")):
            yield f"roi_heads.{theirs}{n + 1}", f"{ours}.head.convs.{2 * n}.conv"
            yield f"roi_heads.{theirs}{n + 1}.norm", f"{ours}.head.convs.{2 * n}.norm"
        yield f"roi_heads.keypoint_head.conv_fcn{n + 1}", f"branches.keypoints.convs.{2 * n}"


TORCHVISION = Layout(
    "torchvision",
    tuple(_torchvision()),
    (("box_branch.head.convs.0.conv", ("roi_heads.box_head.5", "box_branch.head.hidden.0")),),
    _background_to_the_end,
    _background_to_the_front,
)
TORCHVISION_BODY = Layout("torchvision", tuple(_torchvision_body()), (), _as_it_is, _as_it_is)
DETECTRON2 = Layout(
    "detectron2",
    tuple(_detectron2()),
    (("rpn.head.convs.1", ("proposal_generator.rpn_head.conv.conv0", "rpn.head.convs.0")),),
    _as_it_is,
    _as_it_is,
)

_CAFFE2_BRANCHES = {"branch2a": "1", "branch2b": "2", "branch2c": "3"}
_CAFFE2_VECTORS = {
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
    r"(res\d)_(\d+)_(branch\w+?)(_bn)?_(w|b|s|gamma|beta|rm|riv|running_mean|running_var)$"
)
_CAFFE2_STEM = re.compile(r"(?:res_)?conv1(_bn)?_(w|b|s|gamma|beta|rm|riv|running_mean|running_var)$")


def _from_caffe2(weights: Weights) -> dict[str, Tensor]:
    """Return a Caffe2 backbone under our names; norms that are a scale and a shift get idle statistics."""
    read = {_from_caffe2_name(name): tensor for name, tensor in weights.items() if "_momentum" not in name}
    for name, tensor in list(read.items()):
        module, _, vector = name.rpartition(".")
        if vector == "bias" and re.search(r"norm\d?$", module):
            read.setdefault(f"{module}.running_mean", torch.zeros_like(tensor))
            read.setdefault(f"{module}.running_var", torch.ones_like(tensor) - _FROZEN_EPS)
    return read


def _from_caffe2_name(name: str) -> str:
    if stem := _CAFFE2_STEM.match(name):
        return f"stem.{'norm' if stem[1] else 'conv'}.{_CAFFE2_VECTORS[stem[2]]}"
    if not (block := _CAFFE2_BLOCK.match(name)):
        return name
    stage, number, branch, is_norm, vector = block.groups()
    kind = "norm" if is_norm else "conv"
    layer = f"shortcut.{kind}" if branch == "branch1" else f"{kind}{_CAFFE2_BRANCHES[branch]}"
    return f"{stage}.{number}.{layer}.{_CAFFE2_VECTORS[vector]}"
