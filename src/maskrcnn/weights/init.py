"""Initialising a model from weights that need not cover all of it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from maskrcnn.weights.files import extract_state_dict, read_checkpoint
from maskrcnn.weights.fit import shape_and_dtype
from maskrcnn.weights.infer import backbone_defaults
from maskrcnn.weights.layouts import is_caffe2_backbone, layout_of, to_native
from maskrcnn.weights.model_checkpoint import extract_model, is_native, locate

_BODY = re.compile(r"(stem|res[2-5]|features)\.")
_FIRST_CONVOLUTION = re.compile(r"(stem\.conv|features\.0\.0)\.weight$")


class InitialWeights(NamedTuple):
    """Weights to initialise a model from, under native names."""

    weights: Mapping[str, Tensor]
    recipe: str | None  # of a detector; None for a backbone
    arguments: dict[str, Any]  # of the recipe, with which the weights were trained
    class_names: tuple[str, ...]  # of a detector


def read_initial_weights(source: str | Path) -> InitialWeights:
    """Read the weights of a detector or a backbone, from a file or by their published name.

    Raises FileNotFoundError and ValueError for a file that is missing or unreadable.
    """
    path = locate(source)
    return extract_initial_weights(read_checkpoint(path), path)


def extract_initial_weights(content: Any, path: Path) -> InitialWeights:
    """Return the weights in the content of a file. Raises ValueError, naming the file, for other content."""
    if not is_native(content):
        try:
            tensors = extract_state_dict(content)
            if layout_of(tensors) is None:
                weights = to_native(tensors)
                defaults = backbone_defaults(weights) if is_caffe2_backbone(tensors) else {}
                return InitialWeights(weights, None, defaults, ())
        except (ArithmeticError, LookupError, ValueError) as error:  # of shapes that no backbone has
            raise ValueError(f"{path}: {error}") from error
    checkpoint = extract_model(content, path)
    return InitialWeights(checkpoint.weights, checkpoint.recipe, checkpoint.arguments, checkpoint.class_names)


@dataclass(frozen=True)
class LoadReport:
    """What happened to each tensor: names in the model, except `unexpected`, which are names in the file."""

    loaded: tuple[str, ...]
    adapted: tuple[str, ...]  # loaded, after a change to another number of input channels
    mismatched: tuple[str, ...]  # with both shapes: "name (shape in the file, shape in the model)"
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"loaded      {len(self.loaded):5d}  {_summary(self.loaded)}"]
        if self.adapted:
            lines.append(f"adapted     {len(self.adapted):5d}  {', '.join(self.adapted)}")
        if self.mismatched:
            lines.append(f"mismatched  {len(self.mismatched):5d}  {', '.join(self.mismatched)}")
        for title, names in (("missing", self.missing), ("unexpected", self.unexpected)):
            if names:
                lines.append(f"{title:11} {len(names):5d}  {_summary(names)}")
        return "\n".join(lines)


def load_matching(model: nn.Module, state_dict: Mapping[str, Tensor]) -> LoadReport:
    """Copy into `model` the tensors of `state_dict`, under native names, that fit; return a report.

    A parameter of the model is looked up by its full name (weights of a whole model), then by the part of its
    name from the body on (weights of a body: ``backbone.body.res2.…`` loads ``res2.…``, and a C4 head's
    ``….res5.…`` loads ``res5.…``). The first convolution is adapted to another number of input channels: each
    gets the mean over the file's channels, scaled so that a grey picture gives the same output. Raises
    ValueError, with the model unchanged, where nothing fits.
    """
    parameters = {name: tensor for name, tensor in model.state_dict().items() if not _is_counter(name)}
    sources = {name: source for name in parameters if (source := _source(name, state_dict)) is not None}
    fitted = {name: _fit(name, state_dict[source], parameters[name]) for name, source in sources.items()}
    loaded = {name: tensor for name, tensor in fitted.items() if tensor is not None}
    if not loaded:
        raise ValueError(
            f"none of the {len(state_dict)} weights fits the model: their names are {_first(state_dict)}, "
            f"the model's are {_first(parameters)}"
        )
    with torch.no_grad():
        for name, tensor in loaded.items():
            parameters[name].copy_(tensor)
    used = set(sources.values())
    return LoadReport(
        loaded=tuple(loaded),
        adapted=tuple(name for name in loaded if state_dict[sources[name]].shape != parameters[name].shape),
        mismatched=tuple(
            f"{name} ({shape_and_dtype(state_dict[sources[name]])} in the file, "
            f"{shape_and_dtype(parameters[name])} in the model)"
            for name, tensor in fitted.items()
            if tensor is None
        ),
        missing=tuple(name for name in parameters if name not in sources),
        unexpected=tuple(name for name in state_dict if name not in used and not _is_counter(name)),
    )


def _source(name: str, state_dict: Mapping[str, Tensor]) -> str | None:
    """Return the longest name in the file that `name` of the model can load, or None."""
    if name in state_dict:
        return name
    starts = (match.start() + 1 for match in re.finditer(r"\.", name))
    return next((name[i:] for i in starts if _BODY.match(name, i) and name[i:] in state_dict), None)


def _fit(name: str, tensor: Tensor, parameter: Tensor) -> Tensor | None:
    """Return `tensor` as it can be copied into `parameter`, or None."""
    if not tensor.is_floating_point():
        return None
    if tensor.shape == parameter.shape:
        return tensor
    is_first = _FIRST_CONVOLUTION.search(name) and tensor.dim() == 4
    if is_first and tensor[:, :1].shape == parameter[:, :1].shape:
        return tensor.mean(dim=1, keepdim=True) * (tensor.shape[1] / parameter.shape[1])
    return None


def _is_counter(name: str) -> bool:
    return name.endswith("num_batches_tracked")  # of training steps; frozen norms have none


def _summary(names: Iterable[str]) -> str:
    """Return the modules of `names`, with the number of names in each."""
    parts = Counter(".".join(name.split(".")[:-1][:2]) for name in names)
    return ", ".join(f"{part} ({count})" for part, count in parts.items())


def _first(names: Iterable[str]) -> str:
    return ", ".join(list(names)[:3]) + ", …"
