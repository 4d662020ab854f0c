"""Drawn batches for tests of the network: discs and rectangles with exact masks, no files."""

import torch

from maskrcnn.types import Batch, MaskTable, Targets


def scene(objects: list[int], size_hw=(64, 96), *, keypoints: int = 0, crowd: bool = False, seed: int = 0):
    """Return a batch with so many bright rectangles in each picture, and its truth (labels 0, 1, 2, …)."""
    generator = torch.Generator().manual_seed(seed)
    height, width = size_hw
    slots = max(1, *objects)
    images = torch.randint(0, 60, (len(objects), 3, height, width), generator=generator, dtype=torch.uint8)
    boxes, labels = torch.zeros(len(objects), slots, 4), torch.zeros(len(objects), slots, dtype=torch.int64)
    valid = torch.zeros(len(objects), slots, dtype=torch.bool)
    starts = torch.zeros(len(objects), slots, dtype=torch.int64)
    sizes, affine = torch.zeros(len(objects), slots, 2, dtype=torch.int64), torch.ones(len(objects), slots, 4)
    pixels, total = [torch.zeros(0, dtype=torch.uint8)], 0
    for picture, count in enumerate(objects):
        for slot in range(count):
            h, w = torch.randint(12, 32, (2,), generator=generator).tolist()
            y = int(torch.randint(0, height - h, (1,), generator=generator))
            x = int(torch.randint(0, width - w, (1,), generator=generator))
            images[picture, slot % 3, y : y + h, x : x + w] = 250
            boxes[picture, slot] = torch.tensor([x, y, x + w, y + h])
            labels[picture, slot], valid[picture, slot] = slot % 3, True
            starts[picture, slot], sizes[picture, slot] = total, torch.tensor([h, w])
            affine[picture, slot] = torch.tensor([1, -x, 1, -y])
            pixels.append(torch.ones(h * w, dtype=torch.uint8))
            total += h * w
    points = None
    if keypoints:
        inside = torch.rand(len(objects), slots, keypoints, 2, generator=generator)
        points = torch.cat(
            (
                boxes[:, :, None, :2] + inside * (boxes[:, :, None, 2:] - boxes[:, :, None, :2]),
                torch.full((len(objects), slots, keypoints, 1), 2.0),
            ),
            -1,
        )
    batch = Batch(images, torch.tensor([size_hw] * len(objects)))
    masks = MaskTable(torch.cat(pixels), starts, sizes, affine)
    return batch, Targets(boxes, labels, valid, valid & crowd, masks, points)
