"""Deterministic weights for comparing two implementations of one architecture without a checkpoint file.

Every parameter is drawn from its own name, so that two programs that agree on names and shapes agree on
every number. A fixture's JSON names the checkpoint layout (parameter name -> shape) and, under "scales",
a list of [regular expression, factor] pairs: the first that matches a name (re.search) multiplies its draw.
"""

import re
import zlib

import numpy as np


def fill(name: str, shape: list[int], scales: list[tuple[str, float]] = ()) -> np.ndarray:
    """Return the float32 value of parameter `name`, or int64 zeros for a BatchNorm batch counter."""
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    if name.endswith("running_mean"):
        return np.zeros(shape, np.float32)
    if name.endswith("running_var"):
        return np.ones(shape, np.float32)
    draw = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode()))).standard_normal(shape, np.float32)
    factor = next((f for pattern, f in scales if re.search(pattern, name)), 1.0)
    if len(shape) >= 2:  # convolution or linear: variance-preserving under ReLU
        fan_in = int(np.prod(shape[1:]))
        return (draw * np.float32(factor * (2.0 / fan_in) ** 0.5)).astype(np.float32)
    if name.endswith("weight"):  # normalisation scale
        return ((1.0 + 0.1 * draw) * np.float32(factor)).astype(np.float32)
    return (draw * np.float32(0.02 * factor)).astype(np.float32)
