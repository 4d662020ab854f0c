from pathlib import Path

import numpy as np
import pytest

from maskrcnn.data.categories import to_categories
from maskrcnn.data.dataset import Annotations, PackedDataset
from maskrcnn.data.sampling import draw_pass, pass_length, repeat_factors


def dataset(*pictures, classes=3):
    """A data set whose pictures have objects of the given labels; -1 - label stands for a crowd region."""

    def annotations(labels):
        labels, count = np.array(labels, np.int64), len(labels)
        return Annotations(
            bboxes=np.tile([1.0, 1.0, 4.0, 4.0], (count, 1)),
            areas=np.full(count, 16.0),
            labels=np.where(labels < 0, -1 - labels, labels),
            crowd=labels < 0,
            masks=[None] * count,
            keypoints=np.zeros((count, 0, 3)),
            ids=np.arange(1, count + 1),
        )

    categories = to_categories({label: {"id": label, "name": f"class {label}"} for label in range(classes)})
    images = [{"id": i, "file_name": f"{i}.png", "height": 8, "width": 8} for i in range(len(pictures))]
    return PackedDataset(Path("drawn"), Path(), categories, images, map(annotations, pictures))


def test_factors_by_hand():
    # of 8 pictures class 0 is in 6, class 1 in 2 and class 2 in 1; at 0.5 they have 1, √2 and 2
    made = dataset([0], [0, 0], [0, 1], [0], [0, -3], [], [1, 2], [0])
    expected = [1, 1, np.sqrt(2), 1, 1, 1, 2, 1]
    assert repeat_factors(made, 0.5) == pytest.approx(np.array(expected))
    assert (repeat_factors(made, 0.125) == 1).all()  # the rarest is in as many


def test_a_factor_is_ten_at_most():
    made = dataset(*[[0]] * 399, [1], classes=2)
    assert repeat_factors(made, 0.1).tolist() == [1.0] * 399 + [pytest.approx(np.sqrt(40))]
    assert repeat_factors(made, 1.0).tolist() == [pytest.approx(np.sqrt(400 / 399))] * 399 + [10.0]


def test_a_picture_comes_by_its_factor_in_passes_of_one_length():
    factors = np.array([1, 1, 1.3, 2.5, 1, np.sqrt(7), 1, 10])
    length = pass_length(factors)
    assert length == 21  # of 20.45
    passes = [draw_pass(factors, np.random.default_rng(seed)) for seed in range(2000)]
    assert {len(one) for one in passes} == {length}
    counts = np.array([np.bincount(one, minlength=8) for one in passes])
    stretched = factors * length / factors.sum()
    assert (np.floor(stretched) <= counts).all() and (counts <= np.ceil(stretched)).all()
    assert counts.min() == 1
    assert counts.mean(0) == pytest.approx(stretched, abs=0.04)  # 3.6 standard errors
    firsts = np.array([one[0] for one in passes])
    assert np.bincount(firsts, minlength=8) / 2000 == pytest.approx(stretched / length, abs=0.04)


def test_equal_factors_are_a_shuffle():
    for count in (1, 7, 100):
        for seed in range(5):
            order = draw_pass(np.ones(count), np.random.default_rng(seed))
            assert sorted(order.tolist()) == list(range(count))
    assert pass_length(np.full(20, 1.1)) == 22  # 22.000000000000007 as floats


class Zeros(np.random.Generator):
    """A generator whose offset is the least."""

    def random(self):
        return 0.0


def test_rounding_loses_no_picture():
    """Ten factors of 1.1, laid end to end, end at 10.999999999999998."""
    counts = np.bincount(draw_pass(np.full(10, 1.1), Zeros(np.random.PCG64(0))))
    assert counts.sum() == 11 and counts.min() == 1


def test_pictures_are_repeated_independently():
    """Without a random order, of two neighbours with the factor 1.5 one would come twice, always."""
    factors, both = np.full(100, 1.5), 0
    for seed in range(400):
        counts = np.bincount(draw_pass(factors, np.random.default_rng(seed)))
        both += int(counts[0] == counts[1] == 2)
    assert both / 400 == pytest.approx(0.25, abs=0.07)
