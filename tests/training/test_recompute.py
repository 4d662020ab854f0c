"""A network that computes activations twice learns what the plain one learns, in less memory."""

import copy

import pytest
import torch
from torch import nn

from maskrcnn import recipes
from maskrcnn.fast.fold_norms import fold_norms
from maskrcnn.network.resnets import BasicBlock
from maskrcnn.training.recompute import recompute_activations
from maskrcnn.training.settings import Settings
from scenes import scene
from trainings import assert_same_training, run, tiny

SMALL = {"pyramid.channels": 16, "masks.channels": 16, "boxes.hidden": 32, "boxes.samples_per_image": 32}


def network(recipe, norm):
    torch.manual_seed(0)
    return recipes.build(recipe, 3, {**SMALL, "body.norm": norm, "body.frozen": ()}).train()


def learnt(model, precision=None):
    """Return losses, gradients and buffers after a forward and a backward pass."""
    torch.manual_seed(1)
    with torch.autocast("cpu", precision, enabled=precision is not None):
        losses = model(*scene([2, 1]))
    sum(losses.values()).backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {**losses, **gradients, **dict(model.named_buffers())}


@pytest.mark.parametrize(
    ("recipe", "norm", "precision"),
    [
        ("resnet18_fpn", "batch", None),
        ("resnet18_fpn", "group", torch.bfloat16),
        ("resnet50_fpn", "frozen", None),
        ("mobilenet_v2_fpn", "sync", None),
    ],
)
def test_losses_gradients_and_statistics_are_the_plain_networks_to_the_bit(recipe, norm, precision):
    plain = network(recipe, norm)
    ours = copy.deepcopy(plain)
    recompute_activations(ours)
    expected, values = learnt(plain, precision), learnt(ours, precision)
    assert expected.keys() == values.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in values.items())
    if norm == "batch":
        assert ours.backbone.body.res2[0].norm1.num_batches_tracked == 1


class Kept(torch.autograd.graph.saved_tensors_hooks):
    """Counts the bytes of the storages that a forward pass keeps for the backward pass."""

    def __init__(self):
        self.storages = {}
        super().__init__(self.keep, lambda tensor: tensor)

    def keep(self, tensor):
        storage = tensor.untyped_storage()
        self.storages[storage.data_ptr()] = storage.nbytes()
        return tensor


def test_a_block_keeps_nothing_but_its_input():
    block = BasicBlock(8, 8, norm=nn.BatchNorm2d)
    x = torch.randn(2, 8, 16, 16, requires_grad=True)
    kept = {}
    for name in ("plain", "recomputed"):
        count = Kept()
        with count:
            block(x)
        kept[name] = sum(count.storages.values())
        recompute_activations(block)
    map_bytes = 2 * 8 * 16 * 16 * 4
    assert kept["plain"] >= 5 * map_bytes  # x, two outputs of convolutions, two of ReLUs
    assert kept["recomputed"] == map_bytes


def test_a_copy_computes_with_its_own_weights():
    """Evaluations in a training fold the norms of a copy."""
    model = network("resnet18_fpn", "batch")
    batch, _ = scene([2])
    with torch.inference_mode():
        expected = fold_norms(model).detect(batch)
        recompute_activations(model)
        folded = fold_norms(model)
        for parameter in model.parameters():
            parameter.zero_()
        assert torch.equal(folded.detect(batch).scores, expected.scores) and len(expected.scores[0])


def test_the_setting_is_of_a_training_and_not_for_a_compiled_one(drawn, tmp_path, whole):
    recomputed = run(drawn, tmp_path / "recomputed", tiny(recompute=True)).parent
    assert_same_training(recomputed, whole)
    with pytest.raises(ValueError, match="recompute must be false where compiled is true"):
        Settings.of(recompute=True, compiled=True)
