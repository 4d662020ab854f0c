"""Check that the weights of a network are numbers."""

from __future__ import annotations

from torch import nn

from maskrcnn.messages import first_few


def check_finite(model: nn.Module) -> None:
    """Raise FloatingPointError if a parameter or buffer has NaN or infinite values. Names the first few.

    A network with such weights detects nothing, and without this check does so without an error.
    """
    tensors = {name: tensor for name, tensor in model.state_dict().items() if tensor.is_floating_point()}
    wrong = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
    if wrong:
        raise FloatingPointError(
            f"{len(wrong)} of the network's {len(tensors)} tensors have values that are NaN or infinite: "
            f"{first_few(wrong, 3)}; its training diverged or the file is damaged"
        )
