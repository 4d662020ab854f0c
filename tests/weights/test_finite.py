"""Weights that are no numbers are named before a network is used."""

import pytest
import torch
from torch import nn

from maskrcnn.weights.finite import check_finite


def test_parameters_and_buffers_are_checked():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    check_finite(model)
    with torch.no_grad():
        model[0].weight[1, 1] = float("nan")
        model[1].running_var[0] = float("inf")
    with pytest.raises(FloatingPointError, match=r"2 of the network's 6 .*: 0\.weight, 1\.running_var;"):
        check_finite(model)
