import pytest
import torch
import torch.nn.functional as F

from maskrcnn.ops.losses import masked_mean, masked_sum, smooth_l1


@pytest.mark.parametrize("beta", [0.0, 1 / 9, 1.0])
def test_smooth_l1_equals_pytorch(beta):
    error = torch.linspace(-3, 3, 101)
    expected = F.smooth_l1_loss(error, torch.zeros(101), beta=beta, reduction="none")
    torch.testing.assert_close(smooth_l1(error, beta), expected)


def test_what_is_not_valid_has_no_part_in_the_loss_or_its_gradient():
    losses = torch.tensor([1.0, float("nan"), 3.0], requires_grad=True)
    valid = torch.tensor([True, False, True])
    assert masked_sum(losses, valid).item() == 4.0
    mean = masked_mean(losses, valid)
    mean.backward()
    assert mean.item() == 2.0 and losses.grad.tolist() == [0.5, 0.0, 0.5]


def test_nothing_valid_is_zero():
    assert masked_mean(torch.ones(3), torch.zeros(3, dtype=torch.bool)).item() == 0.0
