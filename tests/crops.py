"""Random crops of masks, and their place in an image."""

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

crops = hnp.arrays(bool, st.tuples(st.integers(0, 9), st.integers(0, 9)))


def placed(crop: np.ndarray, origin_yx: tuple[int, int], size_hw: tuple[int, int]) -> np.ndarray:
    """Return an image of `size_hw` that is False except for `crop`."""
    picture = np.zeros(size_hw, bool)
    picture[origin_yx[0] : origin_yx[0] + crop.shape[0], origin_yx[1] : origin_yx[1] + crop.shape[1]] = crop
    return picture
