"""A trained network: its recipe and weights, and the names of what it knows. Every origin leads here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import torch
from torch import Tensor

from maskrcnn import recipes
from maskrcnn.network.model import MaskRCNN
from maskrcnn.plain import with_values
from maskrcnn.recipes.options import Options
from maskrcnn.types import Metadata
from maskrcnn.weights.classes import COCO_KEYPOINTS, COCO_SKELETON, classes_of
from maskrcnn.weights.download import fetch
from maskrcnn.weights.files import description_in, read_checkpoint, tensors_in
from maskrcnn.weights.infer import infer_recipe
from maskrcnn.weights.layouts import layout_of, to_ours
from maskrcnn.weights.published import find_published, published_as

_SIDES = {"cityscapes": (1024, 2048)}  # of pictures, where they are not COCO's
_COCO_SIDES = (800, 1333)


@dataclass(frozen=True)
class ModelCheckpoint:
    """What it takes to rebuild a network and to say what it sees."""

    recipe: str
    arguments: dict[str, Any]  # of the recipe
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]  # the data set's own, in the order of `class_names`
    keypoint_names: tuple[str, ...]
    skeleton: tuple[tuple[int, ...], ...]  # pairs of keypoints, from 0
    short_side: int | None  # of pictures in evaluation and prediction, pixels; None: as in the file
    long_side: int
    weights: dict[str, Tensor]

    def build(self) -> MaskRCNN:
        """Build the network with its weights. Raises ValueError when the two do not fit."""
        try:
            model = self.build_untrained()
            constants = {name: value for name, value in model.state_dict().items() if _is_constant(name)}
            model.load_state_dict(constants | self.weights)
        except (TypeError, RuntimeError) as error:
            raise ValueError(f"the weights do not fit the recipe {self.recipe}: {error}") from error
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
        """The names of what the network detects."""
        return Metadata(self.class_names, self.category_ids, self.keypoint_names, self.skeleton)

    @property
    def max_detections(self) -> int:
        """How many detections the network gives in a picture."""
        return self.options.boxes.max_detections

    def plain(self) -> dict[str, Any]:
        """Return it as values that a checkpoint can keep."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def description(self) -> dict[str, Any]:
        """Return all but the weights."""
        return {name: value for name, value in self.plain().items() if name != "weights"}


def _is_constant(name: str) -> bool:
    """Whether a file need not have it: what the recipe sets, and counters of steps."""
    return name.startswith("normalise.") or name.endswith("num_batches_tracked")


def read_model(
    source: str | Path,
    *,
    class_names: Sequence[str] | None = None,
    options: Mapping[str, Any] | None = None,
    sides: tuple[int | None, int] | None = None,
) -> ModelCheckpoint:
    """Read a trained network from a file, ours, torchvision's or Detectron2's, or by its published name.

    Which library a file comes from, and which network it holds, is recognised by names and shapes; a
    published name is downloaded once (see `fetch`). What a fine-tuned file cannot tell may be given: the
    names of its classes (their ids are then 1, 2, …), options of the recipe, such as `anchor_sizes`, and the
    short and the long side of pictures (None: as in the file). Raises FileNotFoundError and ValueError for
    what cannot be found, read or recognised.
    """
    path = locate(source)
    trained = model_in(read_checkpoint(path), path)
    if class_names is not None:
        if len(class_names) != len(trained.class_names):
            raise ValueError(f"{path} has {len(trained.class_names)} classes, not {len(class_names)}")
        ids = tuple(range(1, len(class_names) + 1))
        trained = replace(trained, class_names=tuple(class_names), category_ids=ids)
    if sides is not None:
        trained = replace(trained, short_side=sides[0], long_side=sides[1])
    return replace(trained, arguments={**trained.arguments, **(options or {})})


def model_in(content: Any, path: Path) -> ModelCheckpoint:
    """Return the network that the content of a file holds. Raises ValueError, naming the file, for none."""
    try:
        if isinstance(content, dict) and "trained" in content:
            return model_from_plain(content["trained"])
        if description := description_in(content):
            return model_from_plain({**description, "weights": to_ours(tensors_in(content))})
        published = published_as(path.name)
        return model_from_library(tensors_in(content), published.trained_on if published else "coco")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def locate(source: str | Path) -> Path:
    """Return the file itself, or the one of a published name, downloaded where it is not there yet.

    Raises FileNotFoundError and ValueError, as `find_published` and `fetch` do, where there is neither.
    """
    path = Path(source)
    looks_like_a_file = path.suffix in (".pt", ".pth", ".pkl") or isinstance(source, Path)
    return path if path.exists() or looks_like_a_file else fetch(find_published(str(source)))


def model_from_plain(values: Any) -> ModelCheckpoint:
    """Rebuild what `plain` gave. Raises ValueError where it is not that."""
    kinds = get_type_hints(ModelCheckpoint)
    if not isinstance(values, dict) or values.keys() != kinds.keys():
        raise ValueError(f"a network is described by {', '.join(kinds)}, which is not what the file has")
    for name, kind in kinds.items():
        allowed = get_args(kind) if isinstance(kind, UnionType) else (get_origin(kind) or kind,)
        if not isinstance(values[name], allowed):
            raise ValueError(f"{name} is a {type(values[name]).__name__}")
    return ModelCheckpoint(**values)


def model_from_library(tensors: Mapping[str, Tensor], trained_on: str = "coco") -> ModelCheckpoint:
    """Return the network that weights of torchvision or Detectron2 are for, trained on the data set named.

    Raises ValueError where they belong to neither, or to a network that no recipe makes.
    """
    layout = layout_of(tensors)
    if layout is None:
        raise ValueError(
            "neither a network of this library, nor a detector of torchvision or Detectron2: other weights "
            "start a training by --init"
        )
    weights = to_ours(tensors)
    recipe, arguments, num_classes = infer_recipe(weights, layout.name)
    is_people = arguments.get("keypoints.count") == len(COCO_KEYPOINTS)
    classes = classes_of(num_classes, "people" if is_people else trained_on)
    short_side, long_side = _SIDES.get(trained_on, _COCO_SIDES)
    trained = ModelCheckpoint(
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
    with torch.device("meta"):  # only names are wanted
        known = trained.build_untrained().state_dict()
    return replace(trained, weights={name: tensor for name, tensor in weights.items() if name in known})
