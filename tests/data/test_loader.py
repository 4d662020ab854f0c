import itertools
import json
import multiprocessing

import numpy as np
import pytest
import torch
from PIL import Image

from maskrcnn.data import loader, prepare, transforms
from maskrcnn.data.loader import (
    AUGMENTATION,
    ORDER,
    AugmentedDataset,
    PictureError,
    batch_indices,
    batches_per_epoch,
    picture_batches,
    plan_epoch,
    random_stream,
    training_batches,
)
from maskrcnn.data.readers.coco import read_coco
from maskrcnn.types import Batch

RESIZE = prepare.resize((24, 32, 40), 64)
AS_STORED = prepare.resize(None, 10**6)
AUGMENT = transforms.compose(
    transforms.flip_horizontal(0.5),
    transforms.colour_jitter(0.3, 0.3, 0.3),
)


@pytest.fixture
def dataset(tmp_path):
    return make_dataset(tmp_path, 10)


def make_dataset(tmp_path, count):
    """Pictures of which the first three are upright; picture i is grey i, and has one object."""
    images, annotations = [], []
    for i in range(count):
        width, height = (20, 30) if i < 3 else (30, 20)
        Image.new("RGB", (width, height), (i, i, i)).save(tmp_path / f"{i}.png")
        images.append({"id": i, "file_name": f"{i}.png", "height": height, "width": width})
        annotations.append({"image_id": i, "category_id": 1, "bbox": [i, 2, 5, 5]})
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]}
    (tmp_path / "truth.json").write_text(json.dumps(content))
    return read_coco(tmp_path / "truth.json", tmp_path)


def take(dataset, count, resize=RESIZE, transform=AUGMENT, **arguments):
    arguments = {"batch_size": 2, "stride": 32, "workers": 0, "seed": 5} | arguments
    data = AugmentedDataset(dataset, resize, transform)
    return list(itertools.islice(training_batches(data, **arguments), count))


def equal(ours, theirs):
    return all(
        torch.equal(a.images, b.images)
        and torch.equal(s.boxes, t.boxes)
        and torch.equal(a.sizes_hw, b.sizes_hw)
        for (a, s), (b, t) in zip(ours, theirs, strict=True)
    )


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_depend_on_seed_and_number_alone(dataset, workers):
    state = torch.get_rng_state()
    batches = take(dataset, 8)
    assert equal(take(dataset, 8, workers=workers), batches)
    assert equal(take(dataset, 3, start=5, workers=workers), batches[5:])
    assert not equal(take(dataset, 8, seed=6), batches)
    assert torch.equal(torch.get_rng_state(), state)  # the training's own generator does not advance
    assert all(a.images.is_contiguous(memory_format=torch.channels_last) for a, _ in batches)


def test_random_streams_are_all_different():
    keys = [(seed, ORDER, epoch) for seed in range(12) for epoch in range(12)]
    keys += [(s, AUGMENTATION, n, slot) for s in range(12) for n in range(12) for slot in range(4)]
    first = {random_stream(*key).integers(2**63).item() for key in keys}
    assert len(first) == len(keys)
    assert random_stream(3, ORDER, 5).integers(2**63) == random_stream(3, ORDER, 5).integers(2**63)


def test_order_and_augmentation_take_streams_of_their_own(dataset, monkeypatch):
    """Every stream that three epochs use: each once, whatever its purpose."""
    first_draws = []

    def record(*key):
        first_draws.append((key[1], int(random_stream(*key).integers(2**63))))
        return random_stream(*key)

    monkeypatch.setattr(loader, "random_stream", record)
    loader._epoch_plan.cache_clear()
    take(dataset, 15)
    assert [purpose for purpose, _ in first_draws].count(ORDER) == 3 and len(first_draws) == 3 + 30
    assert len({first for _, first in first_draws}) == len(first_draws)


def test_an_epoch_shows_every_picture_once(dataset):
    def greys(start):
        """Return the grey values, which identify pictures, of an epoch's batches."""
        return [
            sorted(a.images.amax((1, 2, 3)).tolist())
            for a, _ in take(dataset, 5, AS_STORED, transforms.compose(), start=start)
        ]

    first, second = greys(0), greys(5)
    assert sorted(itertools.chain(*first)) == sorted(itertools.chain(*second)) == list(range(10))
    assert first != second and batches_per_epoch(len(dataset), 2) == 5
    data = AugmentedDataset(dataset, AS_STORED, transforms.compose())
    assert [sorted(batch_indices(data, 2, 5, number)) for number in range(5, 10)] == second


def test_an_epoch_shows_pictures_by_their_factors(dataset):
    factors = np.array([1, 1, 1, 2, 1, 1.5, 3, 1, 1, 1.5])  # 14 in all
    data = AugmentedDataset(dataset, AS_STORED, transforms.compose(), factors=factors)
    batches = training_batches(data, batch_size=2, stride=32, workers=0, seed=5)
    for _ in range(4):
        greys = np.concatenate([batch.images.amax((1, 2, 3)) for batch, _ in itertools.islice(batches, 7)])
        counts = np.bincount(greys, minlength=10)
        assert len(greys) == 14 and (np.floor(factors) <= counts).all() and (counts <= np.ceil(factors)).all()


def test_a_picture_looks_different_each_time(tmp_path):
    batches = take(make_dataset(tmp_path, 1), 3, transforms.random_scale(AS_STORED, 1.0, 2.0))
    sizes = [tuple(size) for batch, _ in batches for size in batch.sizes_hw.tolist()]
    assert len(set(sizes)) >= 5  # two scales may round to one size


def test_orientations_are_kept_apart():
    is_portrait = np.arange(100) % 3 == 0
    for seed in range(5):
        plan = plan_epoch(is_portrait, 8, np.random.default_rng(seed))
        assert plan.shape == (13, 8) and set(plan.ravel()) == set(range(100))
        assert np.ptp(is_portrait[plan].astype(int), axis=1).sum() <= 2
        assert np.bincount(plan.ravel()).max() == 2 and (np.bincount(plan.ravel()) == 2).sum() == 4
    assert plan_epoch(np.array([True]), 4, np.random.default_rng(0)).tolist() == [[0, 0, 0, 0]]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_picture_is_named_in_one_line(dataset, workers):
    dataset.path(4).write_text("no picture")
    with pytest.raises(ValueError, match=r"^[^\n]*4\.png: cannot be read as a picture[^\n]*$"):
        take(dataset, 5, workers=workers)
    Image.new("RGB", (20, 30)).save(dataset.path(4))
    with pytest.raises(
        ValueError, match=r"4\.png: the picture has 30 rows and 20 columns, but .* says 20 and 30"
    ):
        take(dataset, 5, workers=workers)


@pytest.mark.parametrize("workers", [0, 2])
def test_pictures_for_prediction_come_in_order(dataset, workers):
    dataset.path(5).write_text("no picture")
    paths = [*dataset.paths, dataset.image_folder / "none.png"]
    batches = list(picture_batches(paths, prepare.resize(40, 99), batch_size=3, stride=32, workers=workers))
    assert [source for batch in batches for source, _ in batch.records] == paths
    expected = [[0, 1, 2], [3, 4, 6], [7, 8, 9], []]
    assert [len(batch.inputs) for batch in batches] == [len(numbers) for numbers in expected]
    assert [batch.batch.images[:, 0, 0, 0].tolist() for batch in batches[:3]] == expected[:3]
    assert batches[3].batch is None
    records = [record for batch in batches for record in batch.records]
    errors = {source: record.message for source, record in records if isinstance(record, PictureError)}
    assert list(errors) == [paths[5], paths[10]]
    assert "5.png: cannot be read" in errors[paths[5]]
    assert "none.png: no such picture" in errors[paths[10]]
    first = batches[0]
    assert first.batch.images.shape == (3, 3, 64, 64) and first.batch.sizes_hw.tolist() == [[60, 40]] * 3
    assert [(one.affine, one.size_hw) for one in first.inputs] == [((2, 0, 2, 0), (30, 20))] * 3


@pytest.mark.parametrize("workers", [0, 2])
def test_sources_of_unknown_length_are_taken_as_needed(dataset, workers):
    """Without end, so a list of them would never be complete; results come while sources are still taken."""
    taken = []

    def endless():
        for i in itertools.count():
            taken.append(i)
            yield dataset.path(i % 3)

    batches = picture_batches(endless(), AS_STORED, batch_size=2, stride=32, workers=workers)
    for number in range(1, 6):
        batch = next(batches)
        assert len(batch.inputs) == 2
        assert batch.batch.images[0, 0, 0, 0] == (2 * number - 2) % 3
        assert len(taken) <= 2 * number + 4 * workers


def test_pictures_in_memory_come_in_order_from_a_generator(dataset):
    """A path among them, too. Each is prepared before the next one is taken."""
    arrays = [np.full((20, 30, 3), i, np.uint8) for i in range(3)]
    sources = [arrays[0], Image.fromarray(arrays[1]), dataset.path(7), torch.from_numpy(arrays[2][:, :, 0])]
    alive = []

    def generate():
        for source in sources:
            alive.append(source)
            yield source

    batches = picture_batches(generate(), AS_STORED, batch_size=1, stride=32, workers=2)
    for number, (source, grey) in enumerate(zip(sources, (0, 1, 7, 2), strict=True), 1):
        batch = next(batches)
        assert batch.records[0][0] is source and batch.batch.images[0, 0, 0, 0] == grey
        assert len(alive) == number and not multiprocessing.active_children()


def test_pictures_in_memory_after_a_path_are_sent_to_the_workers(dataset):
    array = np.full((20, 30, 3), 99, np.uint8)
    sources = [dataset.path(4), array, Image.fromarray(array), torch.from_numpy(array[:, :, 0])]
    (batch,) = picture_batches(iter(sources), AS_STORED, batch_size=4, stride=32, workers=2)
    assert batch.batch.images[:, 0, 0, 0].tolist() == [4, 99, 99, 99]
    assert all(given is source for (given, _), source in zip(batch.records, sources, strict=True))


def test_one_picture_starts_no_worker(dataset, monkeypatch):
    monkeypatch.setattr(multiprocessing.Process, "start", lambda _: pytest.fail("started a process"))
    (batch,) = picture_batches(iter(dataset.paths[:1]), AS_STORED, batch_size=1, stride=32, workers=2)
    assert len(batch.inputs) == 1


@pytest.mark.parametrize("pin", [False, True])
def test_memory_is_pinned_only_for_a_device_that_needs_it(dataset, monkeypatch, pin):
    """Asking for pinned memory initialises CUDA where there is any."""
    pinned = []
    monkeypatch.setattr(Batch, "pinned", lambda batch: pinned.append(batch) or batch)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("maskrcnn.data.workers.DataLoader", lambda *_, **options: asked.append(options) or [])
    asked = []
    list(
        training_batches(
            AugmentedDataset(dataset, RESIZE, AUGMENT), batch_size=1, stride=1, workers=0, seed=0, pin=pin
        )
    )
    assert [options["pin_memory"] for options in asked] == [pin]
    monkeypatch.undo()
    monkeypatch.setattr(Batch, "pinned", lambda batch: pinned.append(batch) or batch)
    list(picture_batches(dataset.paths[:2], AS_STORED, batch_size=1, stride=32, workers=0, pin=pin))
    assert len(pinned) == (2 if pin else 0)


def test_an_epoch_is_planned_once(dataset, monkeypatch):
    plans = []
    monkeypatch.setattr(loader, "plan_epoch", lambda *arguments: plans.append(1) or plan_epoch(*arguments))
    loader._epoch_plan.cache_clear()
    take(dataset, 15)
    assert len(plans) == 3


def make_deep(folder, count):
    """A data set of 16-bit pictures with 12 bits used; only picture 1 is bright, all have 500 in common."""
    make_dataset(folder, count)
    for i in range(count):
        pixels = np.full((30, 20) if i < 3 else (20, 30), 500, np.uint16)
        pixels[0, 0] = 4000 if i == 1 else 800
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return read_coco(folder / "truth.json", folder)


@pytest.mark.parametrize("workers", [0, 2])
def test_equal_values_stay_equal_between_the_pictures_of_a_data_set(tmp_path, workers):
    dataset = make_deep(tmp_path, 10)
    assert dataset.white == 4095 and make_dataset(tmp_path, 2).white is None
    dataset = make_deep(tmp_path, 10)
    data = AugmentedDataset(dataset, AS_STORED, transforms.compose(), channels=1, white=dataset.white)
    batches = itertools.islice(training_batches(data, batch_size=2, stride=1, workers=workers, seed=0), 5)
    assert {int(grey) for batch, _ in batches for grey in batch.images[:, 0, 1, 1]} == {31}
    options = {"batch_size": 2, "stride": 1, "workers": workers, "channels": 1}
    for sources, white in ((dataset.paths, None), (iter(dataset.paths), 4095)):
        batches = picture_batches(sources, AS_STORED, white=white, **options)
        assert {int(grey) for batch in batches for grey in batch.batch.images[:, 0, 1, 1]} == {31}
    alone = picture_batches(iter(dataset.paths), AS_STORED, **options)  # nothing is known about the others
    assert {int(grey) for batch in alone for grey in batch.batch.images[:, 0, 1, 1]} == {31, 125}


def test_only_unreadable_pictures(tmp_path):
    (batch,) = picture_batches([tmp_path / "a.png"], AS_STORED, batch_size=2, stride=32, workers=0)
    assert batch.batch is None and batch.inputs == [] and len(batch.errors) == 1
    assert list(picture_batches([], AS_STORED, batch_size=2, stride=32, workers=0)) == []


@pytest.mark.parametrize("suffix", ["jpg", "tif", "png"])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_boxes_fit_the_pixels_of_shrunk_pictures(tmp_path, orientation, suffix):
    """Training and prediction read the same pixels, and the ground truth's box fits the rectangle in them."""
    pixels = np.full((205, 331), 255, np.uint8)
    pixels[60:140, 100:220] = 0
    exif = Image.Exif()
    exif[0x0112] = orientation
    quality = {"quality": 100} if suffix == "jpg" else {}
    Image.fromarray(pixels).save(tmp_path / f"a.{suffix}", exif=exif, **quality)
    upright = {1: pixels, 3: np.rot90(pixels, 2), 6: np.rot90(pixels, -1)}[orientation]
    (y, x), (height, width) = np.argwhere(upright == 0).min(0).tolist(), upright.shape
    box = [x, y, 80, 120] if orientation == 6 else [x, y, 120, 80]
    content = {
        "images": [{"id": 1, "file_name": f"a.{suffix}", "height": height, "width": width}],
        "annotations": [{"image_id": 1, "category_id": 1, "bbox": box}],
        "categories": [{"id": 1, "name": "square"}],
    }
    (tmp_path / "truth.json").write_text(json.dumps(content))
    dataset = read_coco(tmp_path / "truth.json", tmp_path)
    resize = prepare.resize(40, 1000)
    ((batch, targets),) = take(dataset, 1, resize, transforms.compose(), batch_size=1)
    (seen,) = picture_batches(dataset.paths, resize, batch_size=1, stride=32, workers=0)
    assert torch.equal(batch.images, seen.batch.images) and seen.inputs[0].size_hw == (height, width)
    assert batch.sizes_hw.amin() == 40

    rows, columns = batch.sizes_hw[0].tolist()
    darkness = 1 - batch.images[0, 0, :rows, :columns].double() / 255
    across, down = darkness.sum(0), darkness.sum(1)
    x1, y1, x2, y2 = targets.boxes[0, 0].tolist()
    for profile, low, high, other in ((across, x1, x2, y2 - y1), (down, y1, y2, x2 - x1)):
        places = torch.arange(len(profile)) + 0.5
        assert (profile * places).sum() / profile.sum() == pytest.approx((low + high) / 2, abs=0.03)
        assert profile.sum() / other == pytest.approx(high - low, abs=0.15)
