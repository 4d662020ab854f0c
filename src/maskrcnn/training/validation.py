"""The loss of validation pictures: a network overfits where it rises and that of training pictures falls."""

from __future__ import annotations

import numpy as np
import torch

from maskrcnn.data.batch import collate
from maskrcnn.data.dataset import Dataset
from maskrcnn.data.loader import AugmentedDataset
from maskrcnn.data.prepare import resize
from maskrcnn.data.transforms import compose
from maskrcnn.fast.fold_norms import fold_norms
from maskrcnn.training.step import TrainState, step_seed, to_floats
from maskrcnn.weights.model_checkpoint import ModelCheckpoint

# The standard error of the mean is then an eighth of the spread over pictures, and the time that of as many
# pictures in an evaluation, of which most data sets have more.
PICTURES = 64


def validation_loss(state: TrainState, trained: ModelCheckpoint, dataset: Dataset) -> dict[str, float]:
    """Return the loss and its parts, as `train_step` does: their means over at most `PICTURES` pictures.

    The pictures are spread evenly over the data set, the same each time, at the size of an evaluation and
    without augmentation. So are the sampled anchors and regions: the loss differs by the weights alone. It is
    computed in float32 by a copy of the network that uses the running statistics of its norms, one picture
    after the other, so that an evaluation's memory is enough. Neither the network nor the random numbers of
    the training change.

    Raises as `AugmentedDataset.sample` does.
    """
    model, device = fold_norms(state.model), state.device
    pictures = AugmentedDataset(
        dataset,
        resize(trained.short_side, trained.long_side),
        compose(),
        channels=state.model.in_channels,
        white=trained.white,
    )
    indices = np.linspace(0, len(dataset) - 1, min(len(dataset), PICTURES)).round().astype(int).tolist()
    sums: dict[str, float] = {}
    with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.no_grad():
        for index in indices:
            torch.manual_seed(step_seed(0, index))
            sample = pictures.sample(index, np.random.default_rng(0))
            batch, targets = collate([sample], state.model.stride)
            losses = to_floats(model(batch.to(device), targets.to(device)))
            sums = {name: sums.get(name, 0.0) + value for name, value in losses.items()}
    means = {name: total / len(indices) for name, total in sums.items()}
    return {"loss": sum(means.values()), **means}
