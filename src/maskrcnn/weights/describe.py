"""Descriptions of weights: the published ones, one file, and the difference between two."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maskrcnn.messages import first_few
from maskrcnn.types import Metadata
from maskrcnn.weights.files import read_checkpoint
from maskrcnn.weights.init import extract_initial_weights, read_initial_weights
from maskrcnn.weights.model_checkpoint import ModelCheckpoint, extract_model, is_native, locate
from maskrcnn.weights.published import PUBLISHED, published_by_file_name

_NAMED_CLASSES = 12


def list_published() -> str:
    """Return a line for each published checkpoint: its name, its data set, its size, its licence."""
    width = max(map(len, PUBLISHED))
    lines = [
        f"{entry.name:{width}}  {entry.trained_on:10}  {entry.size:3d} MB  {entry.licence}"
        for entry in PUBLISHED.values()
    ]
    return "\n".join([*lines, "", "The last part of a name is enough where it is unique."])


def describe(source: str | Path) -> str:
    """Return a description of weights: the network, its classes, the publisher and the licence.

    Raises FileNotFoundError and ValueError as `read_initial_weights` does.
    """
    path = locate(source)
    content = read_checkpoint(path)
    initial = extract_initial_weights(content, path)
    lines = [f"file        {path}"]
    if published := published_by_file_name(path.name):
        lines += [f"published   {published.name}, {published.url}", f"licence     {published.licence}"]
    if initial.recipe:
        lines += _describe_network(extract_model(content, path))
    elif initial.arguments:
        lines.append(f"backbone    trained with {format_arguments(initial.arguments)}")
    else:
        lines.append("backbone    pixel mean and deviation are not in the file; ImageNet's are assumed")
    count = sum(tensor.numel() for tensor in initial.weights.values())
    lines.append(f"parameters  {count:,} in {len(initial.weights)} tensors")
    lines += [f"plan        {name}={value}  {reason}" for name, value, reason in _plan_of(content)]
    return "\n".join(map(printable, lines))


def _plan_of(content: Any) -> list[tuple[str, str, str]]:
    """Return the lines of the plan that a training kept in its checkpoint: name, value and reason."""
    lines = content.get("plan", ()) if is_native(content) else ()
    is_plan = isinstance(lines, tuple) and all(isinstance(line, tuple) and len(line) == 3 for line in lines)
    return [(str(name), str(value), str(reason)) for name, value, reason in lines] if is_plan else []


def _describe_network(checkpoint: ModelCheckpoint) -> list[str]:
    names = checkpoint.class_names
    more = f" and {len(names) - _NAMED_CLASSES} more" if len(names) > _NAMED_CLASSES else ""
    short_side = f"short side {checkpoint.short_side}, " if checkpoint.short_side else ""
    lines = [
        f"network     {checkpoint.recipe}({format_arguments(checkpoint.arguments)})",
        f"classes     {len(names)}: {', '.join(map(str, names[:_NAMED_CLASSES]))}{more}",
        f"input       {short_side}long side at most {checkpoint.long_side} pixels",
    ]
    if checkpoint.score_thresholds:
        lines.append(f"scores      objects of {format_thresholds(checkpoint.metadata)} or more are predicted")
    return lines


def format_thresholds(metadata: Metadata) -> str:
    """Return the score thresholds with the names of their classes, or one where all classes have the same."""
    thresholds = [f"{threshold:.2f}" for threshold in metadata.score_thresholds]
    if len(set(thresholds)) == 1:
        return thresholds[0]
    pairs = zip(thresholds, metadata.class_names, strict=True)
    return first_few([f"{threshold} ({printable(str(name))})" for threshold, name in pairs], _NAMED_CLASSES)


def format_arguments(arguments: Mapping[str, Any]) -> str:
    """Return arguments as they stand in a call."""
    return ", ".join(f"{name}={value}" for name, value in arguments.items())


def printable(line: str) -> str:
    """Return a line without the characters that control a terminal; a file can name its classes by them."""
    return "".join(character if character.isprintable() else "?" for character in line)


def compare(first: str | Path, second: str | Path) -> list[str]:
    """Return a line for each argument and each tensor in which two files differ by a bit or more."""
    one, other = read_initial_weights(first), read_initial_weights(second)
    names = sorted(one.arguments.keys() | other.arguments.keys())
    pairs = [(name, one.arguments.get(name), other.arguments.get(name)) for name in names]
    lines = [
        f"argument {name}: {value} and {second_value}"
        for name, value, second_value in pairs
        if value != second_value
    ]
    # Only this library's files have the normalisation constants; the arguments say them too.
    weights, second_weights = (
        {name: tensor for name, tensor in initial.weights.items() if not name.startswith("normalise.")}
        for initial in (one, other)
    )
    lines += [f"only in {first}: {name}" for name in weights if name not in second_weights]
    lines += [f"only in {second}: {name}" for name in second_weights if name not in weights]
    shared = [(name, weights[name], second_weights[name]) for name in weights if name in second_weights]
    lines += [difference for entry in shared if (difference := _difference(*entry))]
    return list(map(printable, lines))


def _difference(name: str, first: Tensor, second: Tensor) -> str | None:
    if first.shape != second.shape:
        return f"{name}: shapes {tuple(first.shape)} and {tuple(second.shape)}"
    if torch.equal(first, second):
        return None
    return f"{name}: values differ by up to {(first.double() - second.double()).abs().max():.3g}"
