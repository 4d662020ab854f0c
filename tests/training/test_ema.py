"""The moving average of the weights, against numbers by hand."""

import pytest
import torch
from torch import nn

from maskrcnn.training.ema import decay_at, restored


def network():
    """Two layers, of which the first is frozen, and a norm with statistics and a counter."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1))
    model[0].requires_grad_(False)
    return model


@pytest.mark.parametrize(
    ("decay", "updates", "expected"),
    [(0.9999, 1, 2 / 11), (0.9999, 90, 0.91), (0.5, 8, 0.5), (0.5, 7, 8 / 17), (0.0, 1, 0.0)],
)
def test_the_decay_rises_to_its_limit(decay, updates, expected):
    assert decay_at(decay, updates) == pytest.approx(expected)


def test_weights_and_statistics_are_averaged_and_counters_copied():
    model = network()
    frozen = model[0].weight.clone()
    with torch.no_grad():
        model[1].weight.fill_(1.0)
    average = restored(model, 0.2, {})
    for value, mean in ((2.0, 4.0), (4.0, 8.0)):
        with torch.no_grad():
            model[1].weight.fill_(value)
            model[2].running_mean.fill_(mean)
            model[2].num_batches_tracked += 1
        average.update(model)
    first = 1.0 * 2 / 11 + 2.0 * 9 / 11  # 2 / 11 is less than the limit, 3 / 12 is more
    assert average.weights["1.weight"].item() == pytest.approx(0.2 * first + 0.8 * 4.0)
    assert average.weights["2.running_mean"].item() == pytest.approx(0.2 * (4.0 * 9 / 11) + 0.8 * 8.0)
    assert average.weights["2.num_batches_tracked"].item() == 2 and average.updates == 2
    assert torch.equal(average.weights["0.weight"], frozen)
    assert model[1].weight.item() == 4.0  # nothing of the network changes


def test_a_state_is_restored_as_a_copy():
    model = network()
    average = restored(model, 0.9, {})
    average.update(model)
    again = restored(model, 0.9, average.state_dict())
    assert again.updates == 1 and again.weights.keys() == average.weights.keys()
    average.weights["1.weight"].zero_()
    assert not torch.equal(again.weights["1.weight"], average.weights["1.weight"])


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state["weights"].pop("1.weight"),
        lambda state: state["weights"].update({"1.weight": torch.zeros(2, 1)}),
        lambda state: state["weights"].update({"1.weight": 3}),
        lambda state: state.update(updates="many"),
        lambda state: state.update(weights=None),
    ],
)
def test_a_state_of_another_network_is_refused(change):
    model = network()
    state = restored(model, 0.9, {}).state_dict()
    change(state)
    with pytest.raises(ValueError, match="average of the weights does not fit"):
        restored(model, 0.9, state)
