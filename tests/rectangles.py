"""A network that finds the bright rectangle in a dark picture, and pictures with one."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from maskrcnn.data.prepare import resize
from maskrcnn.network.model import MaskRCNN
from maskrcnn.predict.predictor import Predictor
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
