"""From pictures to results, with a network that finds the bright rectangle in a dark picture."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from maskrcnn.data.loader import PictureError
from maskrcnn.fast.acceleration import Acceleration
from maskrcnn.memory import MemoryShortage
from maskrcnn.predict.predictor import to_file
from maskrcnn.types import Metadata
from rectangles import METADATA, FindsTheRectangle, picture, predictor, save


def test_leads_back_to_the_pixels_of_the_file():
    result = predictor().predict(picture())  # 50 × 80, twice as large for the network
    assert result.size_hw == (50, 80) and result.names == ["dog"]
    np.testing.assert_array_equal(result.boxes, [[20, 10, 50, 40]])
    np.testing.assert_allclose(result.scores, [0.9])
    rows, columns = np.nonzero(result.masks[0])
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (10, 24, 20, 49)
    centre, corner = result.keypoints[0]
    np.testing.assert_allclose(centre, [35, 25, 5], atol=0.6)
    # The last of 7 cells on 30 × 30 px: its centre lies 2.1 px from two sides, bicubic peaks lean outwards.
    assert 45.7 < corner[0] < 50 and 10 < corner[1] < 14.3
    assert corner[2] > 6


def test_undoes_any_affine():
    there = torch.tensor([[2 * 3 + 1, -4 * 5 + 3]]).float()
    assert to_file(there, (2.0, 1.0, -4.0, 3.0)).tolist() == [[3, 5]]


@pytest.mark.parametrize("size_hw", [(61, 83), (300, 47), (35, 400)])
@pytest.mark.parametrize("short_side", [37, 100, 64])
def test_uneven_sizes(size_hw, short_side):
    height, width = size_hw
    box = (width // 4, height // 3, width, height)  # as far as the last pixel
    result = predictor(short_side).predict(picture(box, size_hw))
    pixel = max(1.0, min(size_hw) / short_side, max(size_hw) / 400)  # of the network's input, in the file
    np.testing.assert_allclose(result.boxes[0], box, atol=pixel)
    np.testing.assert_allclose(result.boxes[0, 2:], [width, height], rtol=1e-6)


def test_score_decides_and_empty_boxes_go():
    names = {score: predictor().predict(picture(), score).names for score in (0.95, 0.5, 0.4, 0.0)}
    assert names == {0.95: [], 0.5: ["dog"], 0.4: ["dog", "cat"], 0.0: ["dog", "cat"]}
    np.testing.assert_array_equal(predictor().predict(picture(), 0.4).boxes[1], [0, 10, 80, 40])
    empty = predictor().predict(picture(), 0.95)
    assert empty.masks.shape == (0, 50, 80) and empty.keypoints.shape == (0, 2, 3)


@pytest.mark.parametrize(
    ("thresholds", "names"),
    [((), ["dog"]), ((0.4, 0.9), ["dog", "cat"]), ((0.41, 0.9), ["dog"]), ((0.4, 0.91), ["cat"])],
)
def test_each_class_has_its_threshold_unless_a_score_is_given(thresholds, names):
    """The picture has a cat of 0.4 and a dog of 0.9."""
    ours = predictor(metadata=replace(METADATA, score_thresholds=thresholds))
    ((_, batched),) = ours.predict_many([picture()], workers=0)
    assert ours.predict(picture()).names == batched.names == names
    ((_, batched),) = ours.predict_many([picture()], score=0.4, workers=0)
    assert ours.predict(picture(), 0.4).names == batched.names == ["dog", "cat"]
    assert ours.predict(picture(), 0.5).names == ["dog"]


def test_every_kind_of_picture(tmp_path):
    pixels = picture()
    Image.fromarray(pixels).save(tmp_path / "a.png")
    kinds = [tmp_path / "a.png", str(tmp_path / "a.png"), pixels, Image.fromarray(pixels), pixels[..., 0]]
    for kind in [*kinds, torch.from_numpy(pixels).permute(2, 0, 1)]:
        np.testing.assert_array_equal(predictor().predict(kind).boxes, [[20, 10, 50, 40]])
    grey = predictor(model=FindsTheRectangle(in_channels=1)).predict(pixels)
    np.testing.assert_array_equal(grey.boxes, [[20, 10, 50, 40]])


@pytest.mark.parametrize(("batch_size", "workers"), [(1, 0), (4, 0), (3, 2)])
def test_many_in_order(tmp_path, batch_size, workers):
    paths = save(tmp_path, [f"{i}.png" for i in range(12)])
    answers = list(predictor().predict_many(paths, batch_size=batch_size, workers=workers))
    assert [path for path, _ in answers] == paths
    for i, (path, result) in enumerate(answers):
        if i % 5 == 2:
            assert isinstance(result, PictureError) and str(path) in result.message
        else:
            np.testing.assert_array_equal(result.boxes, [[i, 10, 40 + i, 40]])
    assert list(predictor().predict_many([])) == []


class OfLittleMemory(FindsTheRectangle):
    """Detects in `room` pictures at most."""

    def __init__(self, room):
        super().__init__()
        self.room, self.sizes = room, []

    def detect(self, batch):
        self.sizes.append(len(batch.images))
        if len(batch.images) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return super().detect(batch)


def test_a_batch_beyond_the_memory_is_detected_in_halves(tmp_path):
    paths = save(tmp_path, [f"{i}.png" for i in range(12)])
    ours = predictor(model=OfLittleMemory(1))
    with pytest.warns(UserWarning) as caught:
        answers = list(ours.predict_many(paths, batch_size=4, workers=0))
    assert [str(warning.message) for warning in caught] == [
        "out of memory with 4 pictures at a time: 2 at a time from here on",
        "out of memory with 2 pictures at a time: 1 at a time from here on",
    ]
    assert ours.model.sizes == [4, 2] + [1] * 10
    for i, (path, result) in enumerate(answers):
        assert path == paths[i]
        if i % 5 != 2:
            np.testing.assert_array_equal(result.boxes, [[i, 10, 40 + i, 40]])


def test_a_picture_beyond_the_memory_is_a_sentence():
    sentence = "1 picture at a time: pictures of 128x160 pixels are too large for this network on cpu"
    with pytest.raises(MemoryShortage, match=sentence):
        list(predictor(model=OfLittleMemory(0)).predict_many([picture()]))


def test_one_picture_is_read_in_this_process(monkeypatch):
    def no_loader(*_, **__):
        pytest.fail("predict started a DataLoader")

    monkeypatch.setattr(torch.utils.data.DataLoader, "__init__", no_loader)
    assert len(predictor().predict(picture())) == 1


@pytest.mark.parametrize("workers", [0, 2])
def test_an_iterator_is_read_lazily_and_in_order(workers):
    taken = []

    def pictures():
        for i in range(150):
            taken.append(i)
            yield picture((i % 20, 10, 40, 40))

    results = predictor().predict_many(pictures(), batch_size=4, workers=workers)
    assert taken == []
    pixels, first = next(results)
    assert pixels[10, 0].tolist() == [255] * 3 and first.boxes.tolist() == [[0, 10, 40, 40]]
    assert len(taken) <= 64  # as many as are held at once
    rest = list(results)
    assert [result.boxes[0, 0] for _, result in rest] == [i % 20 for i in range(1, 150)]
    assert all((pixels[10, i % 20] == 255).all() for i, (pixels, _) in enumerate(rest, start=1))


@pytest.mark.parametrize("kind", [tuple, iter, dict.fromkeys, lambda paths: map(str, paths)])
def test_any_iterable_of_pictures(kind, tmp_path):
    paths = save(tmp_path, [f"{i}.png" for i in range(4)])
    results = [result for _, result in predictor().predict_many(kind(paths), workers=0)]
    assert [isinstance(result, PictureError) for result in results] == [False, False, True, False]


def test_many_of_one_is_refused():
    pixels = picture()
    for one in ("a.png", pixels, torch.from_numpy(pixels)):
        with pytest.raises(TypeError, match=r"several pictures, not one \w+: use predict"):
            list(predictor().predict_many(one))
    stacked = np.stack([pixels, pixels])
    assert [len(result) for _, result in predictor().predict_many(stacked, workers=0)] == [1, 1]


def test_a_predictor_on_the_cpu_leaves_cuda_alone(monkeypatch):
    def touched(*_, **__):
        pytest.fail("CUDA was initialised")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # as on a machine with a GPU
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "_lazy_init", touched)
    monkeypatch.setattr(torch.cuda, "current_device", touched)
    monkeypatch.setattr(Tensor, "pin_memory", touched)
    cpu = predictor(device="cpu")
    assert len(cpu.predict(picture())) == 1
    for workers in (0, 1):
        results = cpu.predict_many([picture(), picture()], workers=workers)
        assert [len(result) for _, result in results] == [1, 1]


def test_batches_for_a_gpu_are_pinned(monkeypatch):
    asked = []
    monkeypatch.setattr(
        "maskrcnn.predict.predictor.picture_batches", lambda *_, pin, **__: asked.append(pin) or ()
    )
    for device in ("cpu", "cuda"):
        ours = predictor()
        ours.device = torch.device(device)
        assert list(ours.predict_many([picture()])) == []
    assert asked == [False, True]


def test_unreadable_picture_is_an_error(tmp_path):
    (tmp_path / "a.png").write_text("no picture")
    with pytest.raises(ValueError, match=r"a\.png"):
        predictor().predict(tmp_path / "a.png")
    with pytest.raises(FileNotFoundError, match=r"missing\.png"):
        predictor().predict(tmp_path / "missing.png")


def test_keeps_a_copy_of_the_network():
    model = FindsTheRectangle().train()
    ours = predictor(model=model)
    with torch.no_grad():
        model.gain.zero_()  # finds nothing any more, which is an error here
    assert len(ours.predict(picture())) == 1
    assert model.training and model.gain.requires_grad


def test_classes_that_do_not_fit():
    with pytest.raises(ValueError, match="the network has 2 classes, but 1 class names were given"):
        predictor(metadata=Metadata(("cat",), (3,)))


def test_what_is_captured_replays_on_a_cuda_device_alone(monkeypatch):
    with pytest.raises(ValueError, match=r"only a network on a CUDA device .* on cpu"):
        predictor(acceleration=Acceleration(cuda_graph=True))
    model = FindsTheRectangle()
    with pytest.raises(ValueError, match="either compiled or captured"):
        Acceleration(compiled=True, cuda_graph=True).apply(model, torch.device("cuda"))
    monkeypatch.setattr("maskrcnn.fast.acceleration.cuda_graphed", lambda given: given.forward)
    assert Acceleration(cuda_graph=True).apply(model, torch.device("cuda")) == model.forward
