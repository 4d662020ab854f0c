"""Starting a model from weights that need not cover all of it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from maskrcnn.weights.files import read_checkpoint, tensors_in
from maskrcnn.weights.infer import backbone_defaults
from maskrcnn.weights.layouts import is_caffe2, layout_of, to_ours
from maskrcnn.weights.model_checkpoint import locate, model_in

_BODY = re.compile(r"(stem|res[2-5]|features)\.")
_FIRST_CONVOLUTION = re.compile(r"(stem\.conv|features\.0\.0)\.weight$")


class Origin(NamedTuple):
    """Weights to start from, under our names."""

    weights: Mapping[str, Tensor]
    recipe: str | None  # of a detector; None where the weights are a backbone's
    arguments: dict[str, Any]  # of the recipe, that the weights were trained with
    class_names: tuple[str, ...]


def read_origin(source: str | Path) -> Origin:
    """Read weights to start from: a detector's or a backbone's, from a file or by their published name.

    Raises FileNotFoundError and ValueError for what cannot be found or read.
    """
    path = locate(source)
    return origin_in(read_checkpoint(path), path)


def origin_in(content: Any, path: Path) -> Origin:
    """Return the weights that the content of a file holds. Raises ValueError, naming the file, for none."""
    if not (isinstance(content, dict) and "trained" in content):
        try:
            tensors = tensors_in(content)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        if layout_of(tensors) is None:
            weights = to_ours(tensors)
            return Origin(weights, None, backbone_defaults(weights) if is_caffe2(tensors) else {}, ())
    trained = model_in(content, path)
    return Origin(trained.weights, trained.recipe, trained.arguments, trained.class_names)


@dataclass(frozen=True)
class Account:
    """What became of each tensor: names in the model, but for `unused`, which are names in the file."""

    taken: tuple[str, ...]
    adapted: tuple[str, ...]  # taken, and fitted to another number of input channels
    mismatched: tuple[str, ...]  # with both shapes: "name (file's against model's)"
    missing: tuple[str, ...]
    unused: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"taken       {len(self.taken):5d}  {_summary(self.taken)}"]
        if self.adapted:
            lines.append(f"adapted     {len(self.adapted):5d}  {', '.join(self.adapted)}")
        if self.mismatched:
            lines.append(f"other shape {len(self.mismatched):5d}  {', '.join(self.mismatched)}")
        for title, names in (("missing", self.missing), ("unused", self.unused)):
            if names:
                lines.append(f"{title:11} {len(names):5d}  {_summary(names)}")
        return "\n".join(lines)


def init_from(model: nn.Module, state_dict: Mapping[str, Tensor]) -> Account:
    """Copy into `model` what fits of `state_dict`, which has our names (see `to_ours`); return the account.

    A name of the model is looked for in full (weights of a whole model), then from its body on (weights of a
    body alone: ``backbone.body.res2.…`` takes ``res2.…``, and a C4 head's ``….res5.…`` takes ``res5.…``). The
    first convolution is fitted to another number of input channels: each gets the mean of the file's, scaled
    so that a grey picture gives the same answer. Raises ValueError, before any change, when nothing fits.
    """
    own = {name: tensor for name, tensor in model.state_dict().items() if not _is_counter(name)}
    sources = {name: source for name in own if (source := _source(name, state_dict)) is not None}
    fitted = {name: _fit(name, state_dict[source], own[name]) for name, source in sources.items()}
    taken = {name: tensor for name, tensor in fitted.items() if tensor is not None}
    if not taken:
        raise ValueError(
            f"none of the {len(state_dict)} weights fits the model: they are named {_first(state_dict)}, "
            f"the model's {_first(own)}"
        )
    with torch.no_grad():
        for name, tensor in taken.items():
            own[name].copy_(tensor)
    used = set(sources.values())
    return Account(
        taken=tuple(taken),
        adapted=tuple(name for name in taken if state_dict[sources[name]].shape != own[name].shape),
        mismatched=tuple(
            f"{name} ({tuple(state_dict[sources[name]].shape)} against {tuple(own[name].shape)})"
            for name, tensor in fitted.items()
            if tensor is None
        ),
        missing=tuple(name for name in own if name not in sources),
        unused=tuple(name for name in state_dict if name not in used and not _is_counter(name)),
    )


def _source(name: str, state_dict: Mapping[str, Tensor]) -> str | None:
    """Return the name in the file that `name` of the model takes, the longest that fits."""
    if name in state_dict:
        return name
    starts = (match.start() + 1 for match in re.finditer(r"\.", name))
    return next((name[i:] for i in starts if _BODY.match(name, i) and name[i:] in state_dict), None)


def _fit(name: str, tensor: Tensor, own: Tensor) -> Tensor | None:
    if tensor.shape == own.shape:
        return tensor
    if _FIRST_CONVOLUTION.search(name) and tensor.dim() == 4 and tensor[:, :1].shape == own[:, :1].shape:
        return tensor.mean(dim=1, keepdim=True) * (tensor.shape[1] / own.shape[1])
    return None


def _is_counter(name: str) -> bool:
    return name.endswith("num_batches_tracked")  # counts training steps, and is absent in frozen norms


def _summary(names: Iterable[str]) -> str:
    """Return the parts that `names` lie in, with how many in each."""
    parts = Counter(".".join(name.split(".")[:-1][:2]) for name in names)
    return ", ".join(f"{part} ({count})" for part, count in parts.items())


def _first(names: Iterable[str]) -> str:
    return ", ".join(list(names)[:3]) + ", …"
