"""Choosing, compacting and spreading rows of batched tensors: only here do slots and rows change roles."""

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor


def gather_rows(
    values: Shaped[Tensor, "B n *rest"], index: Int[Tensor, "B m"]
) -> Shaped[Tensor, "B m *rest"]:
    """Return the rows of each picture that `index` names, in its order."""
    trailing = values.shape[2:]
    index = index.view(*index.shape, *(1 for _ in trailing)).expand(-1, -1, *trailing)
    return values.gather(1, index)


def is_static(values: Tensor) -> bool:
    """Say whether no shape may depend on data: in a compiled graph, and on a CUDA device.

    There, to ask how many there are means to wait for all work under way, which takes longer than the work on
    empty slots, and cannot be captured into a CUDA graph.
    """
    return torch.compiler.is_compiling() or values.is_cuda


def valid_indices(valid: Bool[Tensor, "B n"], capacity: int | None = None) -> Int[Tensor, " N"]:
    """Return the flat indices ``picture · n + slot`` of the valid slots: heads skip absent regions.

    Where shapes may not depend on data (`is_static`), all of the first `capacity` slots of each picture are
    returned (all slots where None), the valid ones of which must stand first.
    """
    if not is_static(valid):
        return valid.flatten().nonzero().flatten()
    pictures, slots = valid.shape
    first = torch.arange(pictures, device=valid.device)[:, None] * slots
    return (first + torch.arange(capacity or slots, device=valid.device)).flatten()


def scatter_to_slots(
    values: Shaped[Tensor, " N *rest"], index: Int[Tensor, " N"], shape: tuple[int, ...]
) -> Shaped[Tensor, "B n *rest"]:
    """Return `values` in their slots of (B, n) = `shape`, zeros elsewhere: the inverse of `valid_indices`."""
    if values.shape[0] == shape[0] * shape[1]:  # all are there, in order
        return values.unflatten(0, shape)
    slots = values.new_zeros(shape[0] * shape[1], *values.shape[1:])
    return slots.index_copy(0, index, values).unflatten(0, shape)
