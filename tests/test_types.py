import pytest
import torch

from maskrcnn.types import Batch, Detections, Metadata
from scenes import scene


def test_detections_come_to_the_cpu_as_they_are():
    found = Detections(
        boxes=torch.rand(2, 3, 4),
        scores=torch.rand(2, 3),
        labels=torch.randint(9, (2, 3)),
        valid=torch.rand(2, 3) > 0.5,
        keypoint_heatmaps=torch.rand(2, 3, 5, 4, 4).half().transpose(3, 4),
    )
    fetched = found.cpu()
    assert fetched.mask_probs is None
    for got, field in zip(fetched, found, strict=True):
        assert field is None or (got.dtype == field.dtype and torch.equal(got, field))


def test_no_detections_come_to_the_cpu():
    nothing = torch.zeros(1, 0)
    found = Detections(torch.zeros(1, 0, 4), nothing, nothing.long(), nothing.bool()).cpu()
    assert found.boxes.shape == (1, 0, 4) and found.labels.dtype == torch.int64


@pytest.mark.parametrize("keypoints", [0, 2])
def test_pieces_of_a_batch_hold_its_pictures_and_their_masks(keypoints):
    batch, targets = scene([2, 0, 3], keypoints=keypoints)
    (first, last), (first_targets, last_targets) = batch.split(2), targets.split(2)
    assert torch.equal(torch.cat((first.images, last.images)), batch.images) and len(last.sizes_hw) == 1
    for name in ("boxes", "labels", "valid", "crowd", "keypoints"):
        parts = [getattr(first_targets, name), getattr(last_targets, name)]
        whole = getattr(targets, name)
        assert (parts == [None, None]) if whole is None else torch.equal(torch.cat(parts), whole)
    table, piece = targets.masks, last_targets.masks
    crops = [t.pixels[t.starts[b, 1] :][: int(t.sizes_hw[b, 1].prod())] for t, b in ((table, 2), (piece, 0))]
    assert torch.equal(*crops) and torch.equal(piece.affine[0], table.affine[2]) and len(piece.starts) == 1
    assert targets._replace(masks=None).split(2)[0].masks is None


@pytest.mark.gpu
def test_a_pinned_batch_is_the_same():
    batch = Batch(torch.randint(256, (1, 3, 8, 8), dtype=torch.uint8), torch.tensor([[8, 8]]))
    there = batch.pinned().to("cuda")
    assert batch.pinned().images.is_pinned() and torch.equal(there.images.cpu(), batch.images)


def test_names_that_do_not_belong_together():
    with pytest.raises(ValueError, match="as many category ids as class names, not 1 for 2"):
        Metadata(("cat", "dog"), (3,))
    with pytest.raises(ValueError, match="as many score thresholds as class names, not 1 for 2"):
        Metadata(("cat", "dog"), (3, 17), score_thresholds=(0.5,))
    for value in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="score thresholds must be from 0 to 1"):
            Metadata(("cat", "dog"), (3, 17), score_thresholds=(0.5, value))
    for limb in ((0, 2), (0,), (-1, 0)):
        with pytest.raises(ValueError, match=r"joins pairs of the keypoints 0 … 1, not \["):
            Metadata(("cat",), (3,), ("head", "tail"), ((0, 1), limb))
