import torch

from maskrcnn.ops.slots import gather_rows, scatter_to_slots, valid_indices


def test_rows_chooses_for_each_picture():
    values = torch.arange(12).view(2, 3, 2)
    assert gather_rows(values, torch.tensor([[2, 0], [1, 1]])).tolist() == [
        [[4, 5], [0, 1]],
        [[8, 9], [8, 9]],
    ]


def test_spread_inverts_compact():
    valid = torch.tensor([[True, False, True], [False, False, True]])
    values = torch.arange(6.0).view(2, 3)
    index = valid_indices(valid)
    assert index.tolist() == [0, 2, 5]
    assert scatter_to_slots(values.flatten()[index], index, (2, 3)).tolist() == [[0, 0, 2], [0, 0, 5]]


def test_where_shapes_are_fixed_the_first_slots_are_taken(monkeypatch):
    monkeypatch.setattr("maskrcnn.ops.slots.is_static", lambda values: True)
    valid = torch.tensor([[True, False, False], [False, False, False]])
    assert valid_indices(valid).tolist() == [0, 1, 2, 3, 4, 5]
    assert valid_indices(valid, capacity=2).tolist() == [0, 1, 3, 4]
