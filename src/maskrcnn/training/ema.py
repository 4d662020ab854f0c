"""A moving average of the weights, which often detects better than the weights of any one step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


@dataclass
class Average:
    """The exponential moving average of a network's weights over its updates (Polyak and Juditsky 1992).

    Statistics of batch norms are averaged as weights are, so that they fit them; counters are copied. What
    never changes (frozen weights and norms) stays as it is, to the bit.
    """

    weights: dict[str, Tensor]  # by the names of the network's state dict, on its device
    decay: float  # the limit of `decay_at`
    updates: int = 0  # that are in the average

    def update(self, model: nn.Module) -> None:
        """Add the weights after a completed update."""
        self.updates += 1
        now = model.state_dict()
        names = [name for name, tensor in self.weights.items() if tensor.is_floating_point()]
        move = get_ema_multi_avg_fn(decay_at(self.decay, self.updates))
        move([self.weights[name] for name in names], [now[name] for name in names], None)
        for name in self.weights.keys() - names:
            self.weights[name].copy_(now[name])

    def state_dict(self) -> dict[str, Any]:
        """Return what `restored` reads: the weights themselves, not copies, and the number of updates."""
        return {"weights": self.weights, "updates": self.updates}


def decay_at(decay: float, updates: int) -> float:
    """Return the decay of update number `updates`, from 1: at most `decay`, and less at the start.

    min(decay, (1 + u) / (10 + u)), as TensorFlow's ``ExponentialMovingAverage`` has it: the average reaches
    back over about a ninth of the updates so far, and is soon free of the initial weights, in a training of
    any length.
    """
    return min(decay, (1 + updates) / (10 + updates))


def restored(model: nn.Module, decay: float, state: Mapping[str, Any]) -> Average:
    """Return the average of `state_dict`, on the network's device; without a state, of the weights as now.

    Raises ValueError for a state of another network.
    """
    now = model.state_dict()
    weights, updates = state.get("weights", now), state.get("updates", 0)
    is_state = isinstance(weights, Mapping) and weights.keys() == now.keys() and isinstance(updates, int)
    if not is_state or not all(_fits(weights[name], tensor) for name, tensor in now.items()):
        raise ValueError("the moving average of the weights does not fit the network")
    with torch.no_grad():
        copies = {name: torch.empty_like(tensor).copy_(weights[name]) for name, tensor in now.items()}
    return Average(copies, decay, updates)


def _fits(value: Any, tensor: Tensor) -> bool:
    return isinstance(value, Tensor) and (value.shape, value.dtype) == (tensor.shape, tensor.dtype)
