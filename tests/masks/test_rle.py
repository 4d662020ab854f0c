"""Run lengths against pycocotools, and broken ones."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco

from crops import crops, placed
from maskrcnn.masks.rle import compress, crop_to_rle, decode, decompress, rle_counts, rle_to_crop


def _coco(picture: np.ndarray) -> dict:
    rle = coco.encode(np.asfortranarray(picture, np.uint8))
    return {"size": rle["size"], "counts": rle["counts"].decode()}


margins = st.tuples(*[st.integers(0, 3)] * 4)


@given(crops, margins)
@settings(max_examples=300, deadline=None)
def test_run_lengths_equal_pycocotools(crop: np.ndarray, margins: tuple[int, int, int, int]) -> None:
    above, below, left, right = margins
    size_hw = (crop.shape[0] + above + below + 1, crop.shape[1] + left + right)
    picture = placed(crop, (above, left), size_hw)
    rle = crop_to_rle(crop, (above, left), size_hw)
    assert rle == _coco(picture)
    assert np.array_equal(decode(rle), picture)
    for form in (
        rle,
        {**rle, "counts": rle_counts(rle).tolist()},
        {**rle, "counts": rle["counts"].encode()},
    ):
        tight, origin = rle_to_crop(form)
        assert np.array_equal(placed(tight, origin, size_hw), picture)
        if tight.size:
            assert all(edge.any() for edge in (tight[0], tight[-1], tight[:, 0], tight[:, -1]))


@pytest.mark.parametrize("size_hw", [(6, 5), (1, 9), (9, 1), (1, 1)])
def test_runs_of_full_columns_continue_in_the_next_one(size_hw: tuple[int, int]) -> None:
    for picture in (
        np.ones(size_hw, bool),
        np.zeros(size_hw, bool),
        np.random.default_rng(0).random(size_hw) < 0.9,
    ):
        rle = crop_to_rle(picture, (0, 0), size_hw)
        assert rle == _coco(picture)
        assert np.array_equal(decode(rle), picture)


@given(st.lists(st.integers(0, 2**40), min_size=1, max_size=12))
def test_decompress_inverts_compress(counts: list[int]) -> None:
    assert decompress(compress(np.array(counts))).tolist() == counts


def test_long_runs_equal_pycocotools() -> None:
    big = np.zeros((3000, 1500), bool)
    big[17:2900, 3:1200] = True
    big[500:600, 1300:] = True
    assert crop_to_rle(big, (0, 0), big.shape) == _coco(big)


def test_runs_of_length_zero_are_supported() -> None:
    rle = {"size": [2, 3], "counts": [0, 1, 0, 2, 1, 0, 2]}
    assert decode(rle).tolist() == [[True, True, False], [True, False, False]]
    crop, origin = rle_to_crop(rle)
    assert crop.tolist() == [[True, True], [True, False]]
    assert origin == (0, 0)
    at_both_ends = {"size": [2, 3], "counts": [0, 0, 2, 1, 3, 0]}
    crop, origin = rle_to_crop(at_both_ends)
    assert crop.tolist() == [[True]]
    assert origin == (0, 1)


@pytest.mark.parametrize(
    ("counts", "complaint"),
    [
        ("", "not COCO's"),
        ("0 1", "not COCO's"),
        ("04ü", "not COCO's"),
        ("P", "not COCO's"),  # its last letter announces another one
        ("o" * 30 + "0", "50 bits"),
        ([3, 4], "sum to 7, but their picture has 2x3"),
        ([2**63, 2**63, 6], "integers"),
        ([7, -1], "at least 0"),
        ([2.5, 3.5], "integers"),
        ([[6]], "integers"),
        ("O7", "at least 0"),
    ],
)
def test_broken_run_lengths_are_refused(counts: object, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        rle_to_crop({"size": [2, 3], "counts": counts})
