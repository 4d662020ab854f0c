"""Repeat-factor sampling: pictures with rare classes come more often (Gupta et al. 2019, LVIS, §4.2)."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float, Int

from maskrcnn.data.dataset import Dataset

_MOST = 10.0  # so that no picture is learnt by heart


def repeat_factors(dataset: Dataset, threshold: float) -> Float[np.ndarray, " pictures"]:
    """Return how often each picture should come in a pass, 1 … 10.

    A class in a share f of the pictures has the factor max(1, √(threshold / f)), and a picture the largest
    factor of its classes. Crowd regions do not count. It reads all annotations.
    """
    has_class = np.zeros((len(dataset), len(dataset.class_names)), np.bool_)
    for index in range(len(dataset)):
        objects = dataset.objects(index)
        has_class[index, objects.labels[~objects.crowd]] = True
    shares = has_class.mean(0)
    of_class = np.sqrt(threshold / np.maximum(shares, 1 / len(dataset))).clip(1, _MOST)
    return np.where(has_class, of_class, 1.0).max(1, initial=1.0)


def pass_length(factors: Float[np.ndarray, " pictures"]) -> int:
    """Return the number of pictures in every pass: the sum of the factors, rounded up."""
    return math.ceil(round(factors.sum(), 6))


def draw_pass(
    factors: Float[np.ndarray, " pictures"], generator: np.random.Generator
) -> Int[np.ndarray, " length"]:
    """Return the pictures of a pass, in a random order; each comes by its factor, rounded down or up.

    The factors are laid end to end, in a random order and stretched to the length of a pass, and the picture
    at every whole number, counted from a random offset below 1, is taken (systematic sampling). The mean
    count of a picture is its factor, but for the stretching, and it comes at least once.
    """
    order = generator.permutation(len(factors))
    length = pass_length(factors)
    ends = np.cumsum(factors[order] * (length / factors.sum()))
    ends[-1] = length  # whatever was rounded
    lasts = np.floor(ends + generator.random()).astype(np.int64)
    return generator.permutation(order[np.searchsorted(lasts, np.arange(length), side="right")])
