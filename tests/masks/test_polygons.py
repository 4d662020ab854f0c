"""Polygons, filled again, give their mask."""

import numpy as np
from hypothesis import given, settings

from crops import crops, placed
from maskrcnn.masks.polygons import polygons


def _even_odd(rings: list[np.ndarray], size_hw: tuple[int, int]) -> np.ndarray:
    """Return where the number of vertical edges on the left of a pixel's centre is odd."""
    crossings = np.zeros(size_hw, int)
    for ring in rings:
        for (xa, ya), (xb, yb) in zip(ring, np.roll(ring, -1, 0), strict=True):
            assert (xa == xb) != (ya == yb)
            if xa == xb:
                crossings[int(min(ya, yb)) : int(max(ya, yb)), int(xa) :] += 1
    return crossings % 2 == 1


@given(crops)
@settings(max_examples=300, deadline=None)
def test_filled_polygons_equal_the_mask(crop: np.ndarray) -> None:
    rings = polygons(crop, (2, 1))
    size_hw = (crop.shape[0] + 1, crop.shape[1] + 2)
    assert np.array_equal(_even_odd(rings, size_hw), placed(crop, (1, 2), size_hw))


def test_polygons_by_hand() -> None:
    ring = np.ones((3, 3), bool)
    ring[1, 1] = False
    outer, hole = polygons(ring, (10, 20))
    assert outer.tolist() == [[10, 20], [13, 20], [13, 23], [10, 23]]
    assert hole.tolist() == [[11, 21], [12, 21], [12, 22], [11, 22]]
    for touching in (np.eye(2, dtype=bool), np.eye(2, dtype=bool)[::-1]):
        assert [len(square) for square in polygons(touching)] == [4, 4]
    assert polygons(np.zeros((3, 3), bool)) == []
    assert polygons(np.zeros((0, 0), bool)) == []
