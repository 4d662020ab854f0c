"""From pictures to results and files, with a network that finds the bright rectangle in a dark picture."""

import io
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from torch import Tensor, nn

from maskrcnn.data.transforms import resize
from maskrcnn.fast.acceleration import Acceleration
from maskrcnn.network.model import MaskRCNN
from maskrcnn.predict.predictor import PictureError, Predictor, to_file
from maskrcnn.predict.write import Summary, write_predictions
from maskrcnn.types import Batch, Detections, Metadata


class FindsTheRectangle(MaskRCNN):
    """Slots: the rectangle as class 1 (0.9), its rows as class 0 (0.4), an empty box, one not taken."""

    def __init__(self, in_channels: int = 3) -> None:
        nn.Module.__init__(self)
        self.num_classes, self.in_channels, self.stride = 2, in_channels, 32
        self.gain = nn.Parameter(torch.ones(()))

    def detect(self, batch: Batch) -> Detections:
        assert batch.images.shape[1] == self.in_channels and not self.training
        assert batch.images.shape[2] % 32 == batch.images.shape[3] % 32 == 0
        boxes = torch.stack([bounds(image[0] * self.gain > 127) for image in batch.images])
        count = len(boxes)
        empty = boxes[:, [0, 1, 0, 3]]
        wide = boxes + torch.tensor([-999.0, 0, 999, 0])
        upper_half = torch.zeros(count, 4, 28, 28)
        upper_half[:, :, :14] = 1
        heatmaps = torch.zeros(count, 4, 2, 7, 7)
        heatmaps[:, :, 0, 3, 3] = 5.0  # the centre
        heatmaps[:, :, 1, 0, 6] = 7.0  # the upper right corner
        return Detections(
            boxes=torch.stack([boxes, wide, empty, boxes], 1),
            scores=torch.tensor([[0.9, 0.4, 0.3, 0.95]]).repeat(count, 1),
            labels=torch.tensor([[1, 0, 0, 0]]).repeat(count, 1),
            valid=torch.tensor([[True, True, True, False]]).repeat(count, 1),
            mask_probs=upper_half,
            keypoint_heatmaps=heatmaps,
        )


def bounds(bright: Tensor) -> Tensor:
    rows, columns = bright.any(1).nonzero().flatten(), bright.any(0).nonzero().flatten()
    return torch.stack([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]).float()


METADATA = Metadata(("cat", "dog"), (3, 17), ("centre", "corner"), ((0, 1),))


def predictor(short_side: int = 100, *, model=None, metadata=METADATA, **more) -> Predictor:
    model = FindsTheRectangle() if model is None else model
    return Predictor(model, metadata, resize(short_side, 400), **({"device": "cpu"} | more))


def picture(
    box: tuple[int, int, int, int] = (20, 10, 50, 40), size_hw: tuple[int, int] = (50, 80)
) -> np.ndarray:
    pixels = np.zeros((*size_hw, 3), np.uint8)
    x1, y1, x2, y2 = box
    pixels[y1:y2, x1:x2] = 255
    return pixels


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


def test_every_kind_of_picture(tmp_path):
    pixels = picture()
    Image.fromarray(pixels).save(tmp_path / "a.png")
    kinds = [tmp_path / "a.png", str(tmp_path / "a.png"), pixels, Image.fromarray(pixels), pixels[..., 0]]
    for kind in [*kinds, torch.from_numpy(pixels).permute(2, 0, 1)]:
        np.testing.assert_array_equal(predictor().predict(kind).boxes, [[20, 10, 50, 40]])
    grey = predictor(model=FindsTheRectangle(in_channels=1)).predict(pixels)
    np.testing.assert_array_equal(grey.boxes, [[20, 10, 50, 40]])


def save(folder: Path, names: list[str]) -> list[Path]:
    """Pictures of two shapes, each with a rectangle of its own; one in five is no picture."""
    paths = [folder / name for name in names]
    for i, path in enumerate(paths):
        path.parent.mkdir(exist_ok=True)
        if i % 5 == 2:
            path.write_text("no picture")
        else:
            Image.fromarray(picture((i, 10, 40 + i, 40), (50, 80 if i < 7 else 60))).save(path)
    return paths


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
    with pytest.raises(ValueError, match="has 2 classes, but 1 class names and 2 category ids were given"):
        predictor(metadata=METADATA._replace(class_names=("cat",)))
    for limb in ((0, 2), (0,), (-1, 0)):
        with pytest.raises(ValueError, match=r"joins the keypoints \[.*\], but pairs of 0 … 1 were expected"):
            predictor(metadata=METADATA._replace(skeleton=(limb,)))


def test_what_is_captured_replays_on_a_cuda_device_alone(monkeypatch):
    with pytest.raises(ValueError, match=r"only a network on a CUDA device .* on cpu"):
        predictor(acceleration=Acceleration(cuda_graph=True))
    model = FindsTheRectangle()
    with pytest.raises(ValueError, match="either compiled or captured"):
        Acceleration(compiled=True, cuda_graph=True).apply(model, torch.device("cuda"))
    monkeypatch.setattr("maskrcnn.fast.acceleration.cuda_graphed", lambda given: given.forward)
    assert Acceleration(cuda_graph=True).apply(model, torch.device("cuda")) == model.forward


def test_writes_overlays_and_coco_results(tmp_path, capsys):
    paths = save(tmp_path, ["a.png", "b.png", "broken.png", "A.jpg", "c/a.png", "a-2.png"])
    summary = write_predictions(predictor(), paths, tmp_path / "out/deep", score=0.4)
    folder = tmp_path / "out/deep"
    overlays = ["a.png", "b.png", "A-2.png", "a-3.png", "a-2-2.png"]
    assert {path.name for path in folder.iterdir()} == {*overlays, "results.json", "images.json"}
    assert all(Image.open(folder / overlay).convert("RGB").getbbox() for overlay in overlays)

    content = json.loads((folder / "images.json").read_text())
    assert [image["overlay"] for image in content["images"]] == overlays
    read = [path for path in paths if path.name != "broken.png"]
    assert [image["file_name"] for image in content["images"]] == [str(path) for path in read]
    assert content["images"][0] == content["images"][0] | {"id": 1, "height": 50, "width": 80}
    assert content["categories"] == [{"id": 3, "name": "cat"}, {"id": 17, "name": "dog"}]
    results = json.loads((folder / "results.json").read_text())
    assert [(one["image_id"], one["category_id"]) for one in results[:3]] == [(1, 17), (1, 3), (2, 17)]
    assert results[-1]["image_id"] == 5 and results[-2]["bbox"] == [5, 10, 40, 30]

    [failure] = summary.failures
    assert "broken.png" in failure and failure in capsys.readouterr().err
    assert summary.counts[0] == (str(paths[0]), Counter(dog=1, cat=1)) and len(summary.counts) == 5


def test_never_writes_over_the_pictures_it_reads(tmp_path):
    paths = save(tmp_path, ["a.png", "b.png"])
    before = [path.read_bytes() for path in paths]
    write_predictions(predictor(), paths, tmp_path)
    assert [path.read_bytes() for path in paths] == before
    assert (tmp_path / "a-2.png").is_file() and (tmp_path / "b-2.png").is_file()


def test_table_names_some_and_counts_all():
    counts = tuple((f"[red]{i}.png", Counter({"big [cat]": i})) for i in range(60))
    console = Console(file=io.StringIO(), width=80)
    console.print(Summary(counts, ()).table())
    text = console.file.getvalue()
    assert "[red]39.png" in text and "[red]40.png" not in text and "20 more" in text
    assert "60 pictures" in text and "1770 big [cat]" in text
