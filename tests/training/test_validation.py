"""The validation loss: of the right pictures, the same each time, and without a trace in the training."""

import numpy as np
import pytest
import torch

from maskrcnn.data.batch import collate
from maskrcnn.data.folder import read_split
from maskrcnn.data.loader import AugmentedDataset
from maskrcnn.data.prepare import resize
from maskrcnn.data.transforms import compose
from maskrcnn.training import validation
from maskrcnn.training.setup import new_run, with_initial_weights
from maskrcnn.training.step import make_train_state, step_seed
from maskrcnn.training.validation import validation_loss
from trainings import TINY_RECIPE, tiny


@pytest.fixture(scope="module")
def trained(drawn, tmp_path_factory):
    """A run with batch norms, not trained yet."""
    recipe = {**TINY_RECIPE, "body.norm": "batch"}
    run = new_run(tmp_path_factory.mktemp("run"), "resnet18_fpn", recipe, tiny())
    return with_initial_weights(run, read_split(drawn, "train"), None, {})


def test_it_is_the_mean_loss_of_the_pictures_as_an_evaluation_sees_them(drawn, trained):
    dataset = read_split(drawn, "train")
    state = make_train_state(trained, torch.device("cpu"))
    measured = validation_loss(state, trained.trained, dataset)

    state.model.eval()
    pictures = AugmentedDataset(dataset, resize(64, 64), compose())
    expected = []
    for index in range(len(dataset)):
        torch.manual_seed(step_seed(0, index))
        batch = collate([pictures.sample(index, np.random.default_rng(1))], 32)
        with torch.no_grad():
            expected.append(state.model(*batch))
    for name in expected[0]:
        assert measured[name] == pytest.approx(
            np.mean([losses[name].item() for losses in expected]), rel=1e-4
        )
    assert measured["loss"] == pytest.approx(sum(value for name, value in measured.items() if name != "loss"))


def test_at_most_so_many_pictures_spread_over_the_data(drawn, trained, monkeypatch):
    monkeypatch.setattr(validation, "PICTURES", 3)
    indices = []
    sample = AugmentedDataset.sample
    monkeypatch.setattr(
        AugmentedDataset,
        "sample",
        lambda self, index, generator: indices.append(index) or sample(self, index, generator),
    )
    state = make_train_state(trained, torch.device("cpu"))
    validation_loss(state, trained.trained, read_split(drawn, "train"))
    assert indices == [0, 2, 5]


def test_network_and_random_numbers_stay_as_they_are(drawn, trained):
    state = make_train_state(trained, torch.device("cpu"))
    before = {name: tensor.clone() for name, tensor in state.model.state_dict().items()}
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = validation_loss(state, trained.trained, read_split(drawn, "val"))
    assert torch.equal(torch.rand(3), expected)
    assert validation_loss(state, trained.trained, read_split(drawn, "val")) == first
    assert all(torch.equal(before[name], tensor) for name, tensor in state.model.state_dict().items())
    assert all(module.training for module in state.model.modules())
    assert all(parameter.grad is None for parameter in state.model.parameters())
