"""What people ask of weights: which there are, what a file holds, its form elsewhere, where two differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maskrcnn.files import replacing
from maskrcnn.weights.files import read_checkpoint, write_state_dict
from maskrcnn.weights.init import origin_in, read_origin
from maskrcnn.weights.layouts import DETECTRON2, TORCHVISION
from maskrcnn.weights.model_checkpoint import ModelCheckpoint, locate, model_in, read_model
from maskrcnn.weights.published import PUBLISHED, published_as

_SHOWN = 12  # classes that a description names


def published_list() -> str:
    """Return a line for each published checkpoint: its name, what it was trained on, its licence."""
    width = max(map(len, PUBLISHED))
    lines = [f"{entry.name:{width}}  {entry.trained_on:10}  {entry.licence}" for entry in PUBLISHED.values()]
    return "\n".join([*lines, "", "The last part of a name is enough where no other ends in the same."])


def describe(source: str | Path) -> str:
    """Return what weights are for: the network, its classes, where they come from and under which licence.

    Errors as those of `read_origin`.
    """
    path = locate(source)
    content = read_checkpoint(path)
    origin = origin_in(content, path)
    count = sum(tensor.numel() for tensor in origin.weights.values())
    arguments = ", ".join(f"{name}={value}" for name, value in origin.arguments.items())
    lines = [f"file       {path}"]
    if published := published_as(path.name):
        lines += [f"published  {published.name}, {published.url}", f"licence    {published.licence}"]
    if origin.recipe:
        trained = model_in(content, path)
        names = ", ".join(trained.class_names[:_SHOWN])
        more = f" and {len(trained.class_names) - _SHOWN} more" if len(trained.class_names) > _SHOWN else ""
        lines += [
            f"network    {origin.recipe}({arguments})",
            f"classes    {len(trained.class_names)}: {names}{more}",
            f"pictures   short side {trained.short_side or 'any'}, long {trained.long_side} at most",
        ]
    else:
        assumed = "no file says on which pixels; ImageNet's mean and deviation are assumed"
        lines.append(f"backbone   {arguments or assumed}")
    return "\n".join([*lines, f"numbers    {count:,} in {len(origin.weights)} tensors"])


def convert(
    source: str | Path,
    output: Path,
    layout: str,
    *,
    class_names: Sequence[str] | None = None,
    options: Mapping[str, Any] | None = None,
    sides: tuple[int | None, int] | None = None,
) -> str:
    """Write a network in the layout of this library, torchvision or Detectron2; return what to know of it.

    `class_names`, `options` and `sides` say what the file could not, as for `read_model`. Reading what was
    written gives the same network, with the same weights to the bit. Raises ValueError where the other
    library knows no such network, and as `read_model` does.
    """
    trained = read_model(source, class_names=class_names, options=options, sides=sides)
    trained.build()  # or it could not be read again
    if layout == "maskrcnn":
        output.parent.mkdir(parents=True, exist_ok=True)
        with replacing(output) as unfinished:
            torch.save({"trained": trained.plain()}, unfinished)
        return f"{trained.recipe} with {len(trained.class_names)} classes in {output}"
    other = {"torchvision": TORCHVISION, "detectron2": DETECTRON2}[layout]
    write_state_dict(output, other.write(trained.weights), layout, trained.description())
    return f"{trained.recipe} in {output}, for {layout}\n{_to_set(trained)}"


def _to_set(trained: ModelCheckpoint) -> str:
    """Say what the other library must be told, because its file cannot hold it."""
    arguments = ", ".join(f"{name}={value}" for name, value in trained.arguments.items())
    return (
        f"classes, in this order: {', '.join(trained.class_names)}\n"
        f"the network there must be built as here: {arguments or 'as usual'}"
    )


def compare(first: str | Path, second: str | Path) -> list[str]:
    """Return a line for each argument and each tensor that two files do not share to the bit."""
    ours, theirs = read_origin(first), read_origin(second)
    names = sorted(ours.arguments.keys() | theirs.arguments.keys())
    pairs = [(name, ours.arguments.get(name), theirs.arguments.get(name)) for name in names]
    lines = [f"argument {name}: {one} against {other}" for name, one, other in pairs if one != other]
    # The recipe's own constants stand in our files alone, and its arguments say them.
    one, other = (
        {name: tensor for name, tensor in origin.weights.items() if not name.startswith("normalise.")}
        for origin in (ours, theirs)
    )
    lines += [f"only in {first}: {name}" for name in one if name not in other]
    lines += [f"only in {second}: {name}" for name in other if name not in one]
    shared = [(name, one[name], other[name]) for name in one if name in other]
    return lines + [difference for entry in shared if (difference := _difference(*entry))]


def _difference(name: str, ours: Tensor, theirs: Tensor) -> str | None:
    if ours.shape != theirs.shape:
        return f"{name}: shape {tuple(ours.shape)} against {tuple(theirs.shape)}"
    if torch.equal(ours, theirs):
        return None
    return f"{name}: up to {(ours.double() - theirs.double()).abs().max():.3g} apart"
