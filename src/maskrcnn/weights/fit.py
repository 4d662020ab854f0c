"""Do weights fit a recipe? Decided without memory, because a file from outside may describe any network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from maskrcnn import recipes

_MAX_NUMBER = 10_000_000  # of an argument
_MAX_ITEMS = 100  # of an argument that is a tuple
_CALLS_PER_TENSOR = 20  # of torch's functions while a network is built; all recipes need fewer than 10
_LISTED = 5


def meta_state_dict(
    recipe: str, num_classes: int, arguments: Mapping[str, Any], tensors: int
) -> dict[str, Tensor]:
    """Return the state dict of a network on the meta device: names, shapes and dtypes.

    `tensors` is the number of weights that it is for: a recipe that builds many times as many layers is
    stopped. Raises ValueError for such, and for a recipe and arguments that build no network.
    """
    recipes.options_of_recipe(recipe)  # raises its own error for an unknown recipe
    _check_sizes(arguments)
    # The limit may be reached in the exit of a `torch.no_grad`, which then leaves gradients off
    grad_mode = torch.set_grad_enabled(torch.is_grad_enabled())
    try:
        with grad_mode, torch.device("meta"), _LimitedCalls(_CALLS_PER_TENSOR * (tensors + 500)):
            return recipes.build(recipe, num_classes, arguments).state_dict()
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"the weights do not fit the recipe {recipe}: it cannot be built ({str(error)[:300]})"
        ) from error


def check_fit(recipe: str, shapes: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
    """Raise ValueError, naming every kind of difference, where weights are not those of a network.

    Normalisation constants and counters of steps may be missing. Weights that share memory are refused: a
    small file could then describe a large network.
    """
    differences = {
        "missing": (name for name in shapes if name not in weights and not _is_optional(name)),
        "unexpected": (name for name in weights if name not in shapes),
        "of another shape": (
            f"{name} {shape_and_dtype(weights[name])} instead of {shape_and_dtype(tensor)}"
            for name, tensor in shapes.items()
            if name in weights and shape_and_dtype(weights[name]) != shape_and_dtype(tensor)
        ),
    }
    sentence = "; ".join(text for kind, names in differences.items() if (text := _listed(kind, names)))
    if sentence:
        raise ValueError(f"the weights do not fit the recipe {recipe}: {sentence}")
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in weights.values()
    }
    if sum(tensor.numel() * tensor.element_size() for tensor in weights.values()) > sum(storages.values()):
        raise ValueError(f"the weights do not fit the recipe {recipe}: several share the same memory")


def _is_optional(name: str) -> bool:
    return name.startswith("normalise.") or name.endswith("num_batches_tracked")


def shape_and_dtype(tensor: Tensor) -> str:
    """Return a tensor's shape as text, with its dtype where that is not a floating-point one."""
    shape = str(tuple(tensor.shape))
    return shape if tensor.is_floating_point() else f"{shape} {tensor.dtype}"


def _listed(kind: str, names: Iterable[str]) -> str:
    """Return the number of names and the first few of them; "" for none."""
    listed = [name[:200] for name in names]
    more = f", and {len(listed) - _LISTED} more" if len(listed) > _LISTED else ""
    return f"{len(listed)} {kind} ({', '.join(listed[:_LISTED])}{more})" if listed else ""


def _check_sizes(value: Any) -> None:
    """Raise ValueError for a number or a tuple, at any depth, that no network has."""
    if isinstance(value, int) and abs(value) > _MAX_NUMBER:
        raise ValueError(f"an argument of the recipe is more than {_MAX_NUMBER:,}")
    if isinstance(value, (dict, list, tuple, str)) and len(value) > _MAX_ITEMS:
        raise ValueError(f"an argument of the recipe has more than {_MAX_ITEMS} parts")
    if isinstance(value, (Mapping, list, tuple)):
        for part in value.values() if isinstance(value, Mapping) else value:
            _check_sizes(part)


class _LimitedCalls(TorchFunctionMode):
    """Raises ValueError after a number of calls of torch's functions."""

    def __init__(self, calls: int) -> None:
        super().__init__()
        self.calls = calls

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls -= 1
        if self.calls < 0:
            raise ValueError("it has many more layers than the weights have tensors")
        return func(*args, **(kwargs or {}))
