"""Every network, as a page of functions: a body, an architecture, and its options.

A recipe is a function of the number of object classes (background not counted) and of its architecture's
options (`maskrcnn.recipes.options`). `build` takes options by their dotted names, as a checkpoint keeps them.
The endings ``_box`` (Faster R-CNN) and ``_keypoint`` (17 keypoints, no masks) of a name are short for the
usual ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from inspect import signature
from typing import Any

from maskrcnn.network import resnets
from maskrcnn.network.mobilenet import MobileNetV2
from maskrcnn.network.model import MaskRCNN
from maskrcnn.plain import Option, options_of, with_values
from maskrcnn.recipes.c4 import c4
from maskrcnn.recipes.c5 import c5
from maskrcnn.recipes.options import Body, Bottlenecks, C4Options, C5Options, Options, PyramidOptions
from maskrcnn.recipes.pyramid import pyramid

_PYRAMID, _C4, _C5 = (
    PyramidOptions(body=Bottlenecks()),
    C4Options(body=Bottlenecks()),
    C5Options(body=Bottlenecks()),
)


def resnet18_fpn(num_classes: int, options: PyramidOptions = PyramidOptions()) -> MaskRCNN:
    """ResNet-18 with a feature pyramid: for small data and small machines."""
    return pyramid(resnets.resnet18, num_classes, options)


def resnet34_fpn(num_classes: int, options: PyramidOptions = PyramidOptions()) -> MaskRCNN:
    """ResNet-34 with a feature pyramid: between resnet18_fpn and resnet50_fpn."""
    return pyramid(resnets.resnet34, num_classes, options)


def resnet50_fpn(num_classes: int, options: PyramidOptions = _PYRAMID) -> MaskRCNN:
    """ResNet-50-FPN, the usual choice: mask AP 33.6 on COCO in the paper's Table 2a."""
    return pyramid(resnets.resnet50, num_classes, options)


def resnet101_fpn(num_classes: int, options: PyramidOptions = _PYRAMID) -> MaskRCNN:
    """ResNet-101-FPN: mask AP 35.4 in Table 2a."""
    return pyramid(resnets.resnet101, num_classes, options)


def resnext101_fpn(num_classes: int, options: PyramidOptions = PyramidOptions()) -> MaskRCNN:
    """ResNeXt-101 (32×8d) with a pyramid; the paper's 64×4d has mask AP 36.7 in Table 2a."""
    return pyramid(resnets.resnext101, num_classes, options)


def resnext101_64x4d_fpn(num_classes: int, options: PyramidOptions = PyramidOptions()) -> MaskRCNN:
    """ResNeXt-101 (64×4d) with a pyramid: mask AP 36.7 in Table 2a."""
    return pyramid(partial(resnets.resnext101, 64, 4), num_classes, options)


def mobilenet_v2_fpn(
    num_classes: int, options: PyramidOptions = PyramidOptions(body=Body(frozen=()))
) -> MaskRCNN:
    """MobileNetV2 with a pyramid: light enough to train on a CPU from ImageNet weights."""
    return pyramid(MobileNetV2, num_classes, options)


def resnet18_c4(num_classes: int, options: C4Options = C4Options()) -> MaskRCNN:
    """ResNet-18-C4: the form of the paper's C4 networks for small machines."""
    res5 = partial(resnets.res5_stage, resnets.BasicBlock, depth=2)
    return c4(resnets.resnet18, num_classes, options, res5=res5)


def resnet18_c5(num_classes: int, options: C5Options = C5Options()) -> MaskRCNN:
    """ResNet-18-C5, regions read at stride 32: for small machines."""
    return c5(resnets.resnet18, num_classes, options)


def resnet50_c4(num_classes: int, options: C4Options = _C4) -> MaskRCNN:
    """ResNet-50-C4, where res5 works on every region: mask AP 30.3 in Table 2a."""
    return c4(resnets.resnet50, num_classes, options)


def resnet101_c4(num_classes: int, options: C4Options = _C4) -> MaskRCNN:
    """ResNet-101-C4: mask AP 32.7 in Table 2a."""
    return c4(resnets.resnet101, num_classes, options)


def resnet50_c5(num_classes: int, options: C5Options = _C5) -> MaskRCNN:
    """ResNet-50-C5, regions read at stride 32: mask AP 30.9 with RoIAlign, 23.6 with RoIPool in Table 2d."""
    return c5(resnets.resnet50, num_classes, options)


def resnet50_dc5(num_classes: int, options: C5Options = _C5) -> MaskRCNN:
    """ResNet-50 with a dilated C5 at stride 16."""
    return c5(partial(resnets.resnet50, dilate_c5=True), num_classes, options)


def resnet101_dc5(num_classes: int, options: C5Options = _C5) -> MaskRCNN:
    """ResNet-101 with a dilated C5 at stride 16."""
    return c5(partial(resnets.resnet101, dilate_c5=True), num_classes, options)


RECIPES: dict[str, Callable[..., MaskRCNN]] = {
    recipe.__name__: recipe
    for recipe in (
        resnet18_fpn,
        resnet34_fpn,
        resnet50_fpn,
        resnet101_fpn,
        resnext101_fpn,
        resnext101_64x4d_fpn,
        mobilenet_v2_fpn,
        resnet18_c4,
        resnet18_c5,
        resnet50_c4,
        resnet101_c4,
        resnet50_c5,
        resnet50_dc5,
        resnet101_dc5,
    )
}
FORMS: dict[str, dict[str, Any]] = {
    "_box": {"masks": None},
    "_keypoint": {"masks": None, "keypoints.count": 17},
}


def build(name: str, num_classes: int, values: Mapping[str, Any] | None = None) -> MaskRCNN:
    """Build the network of a recipe's name, such as "resnet50_fpn" or "resnet50_fpn_box".

    `values` are the options that are not the recipe's own, by their dotted names. Raises ValueError for an
    unknown recipe or option and for a value that makes no sense.
    """
    return RECIPES[_split(name)[0]](num_classes, with_values(options_of_recipe(name), values or {}))


def options_of_recipe(name: str) -> Options:
    """Return the options that a recipe has by itself. Raises ValueError for an unknown name."""
    recipe, form = _split(name)
    options: Options = signature(RECIPES[recipe]).parameters["options"].default
    return with_values(options, form)


def all_options() -> dict[str, Option]:
    """Return the options that at least one recipe has, by their dotted names."""
    return {name: entry for options in (_C4, _C5, _PYRAMID) for name, entry in options_of(options).items()}


def _split(name: str) -> tuple[str, dict[str, Any]]:
    """Return the recipe that a name is of, and the options of its ending."""
    for ending, values in FORMS.items():
        if name.endswith(ending) and name.removesuffix(ending) in RECIPES:
            return name.removesuffix(ending), values
    if name not in RECIPES:
        known = ", ".join(RECIPES)
        raise ValueError(
            f"there is no recipe {name!r}; there are {known}, each also with {' and '.join(FORMS)}"
        )
    return name, {}
