"""A trained network: its recipe, its weights, and the names of what it detects, from whichever file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import torch
from torch import Tensor

from maskrcnn import recipes
from maskrcnn.files import replacing
from maskrcnn.network.model import MaskRCNN
from maskrcnn.plain import with_values
from maskrcnn.recipes.options import Options
from maskrcnn.types import Metadata
from maskrcnn.weights.classes import COCO_KEYPOINTS, COCO_SKELETON, dataset_classes
from maskrcnn.weights.download import fetch
from maskrcnn.weights.files import (
    checked_tensors,
    extract_description,
    extract_state_dict,
    read_checkpoint,
)
from maskrcnn.weights.fit import check_fit, meta_state_dict
from maskrcnn.weights.infer import infer_recipe
from maskrcnn.weights.layouts import layout_of, to_native
from maskrcnn.weights.published import find_published, published_by_file_name

_SIDES = {"cityscapes": (1024, 2048)}  # short and long side of pictures, where they are not COCO's
_COCO_SIDES = (800, 1333)
_KEY = "trained"  # of this library's own files


@dataclass(frozen=True)
class ModelCheckpoint:
    """A trained network: its recipe, its weights, and the names of what it detects."""

    recipe: str
    arguments: dict[str, Any]  # of the recipe
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]  # the data set's own, in the order of `class_names`
    keypoint_names: tuple[str, ...]
    skeleton: tuple[tuple[int, ...], ...]  # pairs of keypoints, from 0
    short_side: int | None  # of pictures in evaluation and prediction, pixels; None: as in the file
    long_side: int
    weights: dict[str, Tensor]
    white: int | None = None  # of the 16-bit pictures it was trained on, see `read_picture`; None: of none
    score_thresholds: tuple[float, ...] = ()  # of each class, for prediction; empty: not measured

    def build(self) -> MaskRCNN:
        """Build the network and copy the weights into it.

        Its shapes are compared with those of the weights before any memory is allocated, so that a file whose
        description asks for a huge network cannot get one. Raises ValueError where they differ.
        """
        check_fit(self.recipe, self.meta_state_dict(), self.weights)
        model = self.build_untrained()
        model.load_state_dict(self.weights, strict=False)  # `check_fit` has compared the names
        return model

    def build_untrained(self) -> MaskRCNN:
        """Build the network with weights drawn at random, as at the start of a training."""
        return recipes.build(self.recipe, len(self.class_names), self.arguments)

    @property
    def options(self) -> Options:
        """The options of the recipe. Raises ValueError where the arguments are not the recipe's."""
        return with_values(recipes.options_of_recipe(self.recipe), self.arguments)

    @property
    def metadata(self) -> Metadata:
        """What the network detects."""
        return Metadata(
            self.class_names, self.category_ids, self.keypoint_names, self.skeleton, self.score_thresholds
        )

    def meta_state_dict(self) -> dict[str, Tensor]:
        """Return the state dict of the network on the meta device: names, shapes and dtypes without memory.

        Raises ValueError for a recipe and arguments that build no network.
        """
        return meta_state_dict(self.recipe, len(self.class_names), self.arguments, len(self.weights))

    @property
    def max_detections(self) -> int:
        """How many detections the network gives in a picture."""
        return self.options.boxes.max_detections

    def plain(self) -> dict[str, Any]:
        """Return all fields as plain values and tensors, which `model_from_plain` reads."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def description(self) -> dict[str, Any]:
        """Return all fields but the weights."""
        return {name: value for name, value in self.plain().items() if name != "weights"}


def write_model(path: Path, checkpoint: ModelCheckpoint) -> None:
    """Write a network as a file of this library; the file appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as unfinished:
        torch.save({_KEY: checkpoint.plain()}, unfinished)


def read_model(
    source: str | Path,
    *,
    class_names: Sequence[str] | None = None,
    options: Mapping[str, Any] | None = None,
    test_sides: tuple[int | None, int] | None = None,
) -> ModelCheckpoint:
    """Read a trained network of this library, torchvision or Detectron2: a file or a published name.

    The library and the network are inferred from the names and shapes of the weights; a published file is
    downloaded once (see `fetch`). The arguments replace what a fine-tuned file does not hold: the class names
    (their ids become 1, 2, …), options of the recipe, such as ``proposals.anchor_sizes``, and the short and
    the long side of pictures (short None: not resized). Raises FileNotFoundError and ValueError for a file
    that is missing, unreadable or of an unknown network.
    """
    path = locate(source)
    checkpoint = extract_model(read_checkpoint(path), path)
    if class_names is not None:
        if len(class_names) != len(checkpoint.class_names):
            raise ValueError(
                f"{path} has {len(checkpoint.class_names)} classes, "
                f"but {len(class_names)} class names were given"
            )
        ids = tuple(range(1, len(class_names) + 1))
        checkpoint = replace(checkpoint, class_names=tuple(class_names), category_ids=ids)
    if test_sides is not None:
        checkpoint = replace(checkpoint, short_side=test_sides[0], long_side=test_sides[1])
    return replace(checkpoint, arguments={**checkpoint.arguments, **(options or {})})


def is_native(content: Any) -> bool:
    """Return whether the content of a file is a network or a training of this library."""
    return isinstance(content, dict) and _KEY in content


def extract_model(content: Any, path: Path) -> ModelCheckpoint:
    """Return the network in the content of a file. Raises ValueError, naming the file, for other content."""
    try:
        if is_native(content):
            return model_from_plain(content[_KEY])
        if description := extract_description(content):
            return model_from_plain({**description, "weights": to_native(extract_state_dict(content))})
        published = published_by_file_name(path.name)
        return model_from_library(extract_state_dict(content), published.trained_on if published else "coco")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def locate(source: str | Path) -> Path:
    """Return the path of a file, or of the file of a published name, which is downloaded where necessary.

    Raises FileNotFoundError and ValueError, as `find_published` and `fetch` do, for a source that is neither.
    """
    path = Path(source)
    looks_like_a_file = path.suffix in (".pt", ".pth", ".pkl") or isinstance(source, Path)
    return path if looks_like_a_file or path.exists() else fetch(find_published(str(source)))


def model_from_plain(values: Any) -> ModelCheckpoint:
    """Return the checkpoint whose `plain` is `values`. Raises ValueError for any other values."""
    kinds = get_type_hints(ModelCheckpoint)
    if isinstance(values, dict):
        values = {"white": None, "score_thresholds": (), **values}  # absent in older files
    if not isinstance(values, dict) or values.keys() != kinds.keys():
        raise ValueError(f"expected the fields of a network: {', '.join(kinds)}")
    for name, kind in kinds.items():
        allowed = get_args(kind) if isinstance(kind, UnionType) else (get_origin(kind) or kind,)
        if not isinstance(values[name], allowed):
            raise ValueError(f"{name} is a {type(values[name]).__name__}")
    return ModelCheckpoint(**{**values, "weights": checked_tensors(values["weights"])})


def model_from_library(tensors: Mapping[str, Tensor], trained_on: str = "coco") -> ModelCheckpoint:
    """Return the network of a state dict of torchvision or Detectron2, trained on the data set named.

    Raises ValueError where the state dict is of neither, or of a network that no recipe builds.
    """
    layout = layout_of(tensors)
    if layout is None:
        raise ValueError(
            "expected a network of this library, or a detector of torchvision or Detectron2; pass other "
            "weights to a training by --init"
        )
    try:
        weights = to_native(tensors)
        recipe, arguments, num_classes = infer_recipe(weights, layout.name)
    except (ArithmeticError, LookupError, RuntimeError, TypeError) as error:
        raise ValueError(
            f"the names and shapes of the weights are of no known network of {layout.name} ({error!r})"
        ) from error
    is_people = arguments.get("keypoints.count") == len(COCO_KEYPOINTS)
    classes = dataset_classes(num_classes, "people" if is_people else trained_on)
    short_side, long_side = _SIDES.get(trained_on, _COCO_SIDES)
    checkpoint = ModelCheckpoint(
        recipe=recipe,
        arguments=arguments,
        class_names=classes.names,
        category_ids=classes.ids,
        keypoint_names=COCO_KEYPOINTS if is_people else (),
        skeleton=COCO_SKELETON if is_people else (),
        short_side=short_side,
        long_side=long_side,
        weights=weights,
    )
    names = checkpoint.meta_state_dict()
    return replace(checkpoint, weights={name: tensor for name, tensor in weights.items() if name in names})
