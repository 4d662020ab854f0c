"""From checkpoint files to predictors."""

from dataclasses import replace

import numpy as np
import pytest

from maskrcnn.predict.load import load
from networks import saved, small


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_named(tmp_path, value):
    trained = small()
    names = [name for name, tensor in trained.weights.items() if name.startswith("box_branch")]
    for name in names:
        trained.weights[name][(-1,) * trained.weights[name].ndim] = value
    with pytest.raises(
        FloatingPointError, match=rf"{len(names)} of the network's .* NaN or infinite: "
    ) as error:
        load(saved(trained, tmp_path), "cpu")
    assert all(name in str(error.value) for name in names[:3])
    assert f"and {len(names) - 3} more" in str(error.value)


def test_16_bit_pictures_are_scaled_as_in_training(tmp_path):
    """A dark picture alone would get a smaller white than the bright ones that the network was trained on."""
    trained = replace(small(), white=4095)
    predictor = load(saved(trained, tmp_path), "cpu")
    dark = np.random.default_rng(0).integers(0, 900, (64, 64), dtype=np.uint16)
    in_bytes = np.repeat(np.round(dark * (255 / 4095)).astype(np.uint8)[..., None], 3, axis=2)
    expected = predictor.predict(in_bytes, 0.0)
    assert len(expected.boxes)
    np.testing.assert_array_equal(predictor.predict(dark, 0.0).boxes, expected.boxes)
    ((_, batched),) = predictor.predict_many([dark], score=0.0)
    np.testing.assert_array_equal(batched.boxes, expected.boxes)
    alone = load(saved(small(), tmp_path), "cpu").predict(dark, 0.0)
    assert not np.array_equal(alone.boxes, expected.boxes)
