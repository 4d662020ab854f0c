import pytest
import torch

from maskrcnn import kernels
from maskrcnn.ops.packed import pack

pytest.importorskip("triton", reason="Triton is not installed")

BOXES = torch.tensor(
    [
        [1.2, 2.3, 30.7, 25.1],
        [0.0, 0.0, 40.0, 30.0],  # the whole picture
        [5.0, 5.0, 5.0, 9.0],  # empty
        [3.1, 3.2, 3.3, 3.4],  # holds no pixel's centre
        [-4.0, -3.0, 12.0, 9.0],  # crosses the border
        [35.0, 20.0, 60.0, 50.0],
        [2.5, 2.5, 9.5, 9.5],  # begins and ends at centres
        [50.0, 3.0, 60.0, 9.0],  # outside
        [0.5, 0.5, 0.6, 29.9],
    ]
)


@pytest.mark.parametrize("side", [1, 7, 28])
@pytest.mark.parametrize("kind", ["random", "one half", "steps"])
def test_equals_pasting_to_the_pixel(monkeypatch, device, side, kind):
    probs = {
        "random": torch.rand(len(BOXES), side, side),
        "one half": torch.full((len(BOXES), side, side), 0.5),
        "steps": torch.rand(len(BOXES), side, side).round(),
    }[kind]
    expected = pack(probs, BOXES, (30, 40))
    monkeypatch.setattr(kernels, "are_for", lambda tensor: True)
    got = pack(probs.to(device), BOXES, (30, 40)).cpu()
    assert all(torch.equal(*fields) for fields in zip(got, expected, strict=True))


def test_no_masks(monkeypatch, device):
    monkeypatch.setattr(kernels, "are_for", lambda tensor: True)
    assert pack(torch.zeros(0, 7, 7, device=device), torch.zeros(0, 4), (30, 40)).bits.numel() == 0
