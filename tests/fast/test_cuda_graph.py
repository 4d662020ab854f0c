import pytest
import torch

from maskrcnn import recipes
from maskrcnn.fast.cuda_graph import cuda_graphed
from scenes import scene

SMALL = {
    "pyramid.channels": 32,
    "masks.channels": 32,
    "boxes.hidden": 64,
    "boxes.samples_per_image": 32,
    "body.norm": "group",
}


def test_pictures_elsewhere_are_refused():
    batch, _ = scene([1])
    with pytest.raises(ValueError, match="on a CUDA device, but these are on cpu"):
        cuda_graphed(recipes.build("resnet18_fpn", 3, {**SMALL}))(batch)


@pytest.mark.gpu
def test_replays_what_detect_finds():
    """Two shapes in turn, one more than is kept: what was found stays as it was."""
    model = recipes.build("resnet18_fpn", 3, {"keypoints.count": 5, **SMALL}).eval().cuda()
    detect = cuda_graphed(model, shapes=1)
    shapes = [(64, 96), (64, 96), (96, 64), (64, 96)]
    batches = [scene([3, 1], shape, seed=seed)[0].to("cuda") for seed, shape in enumerate(shapes)]
    with torch.inference_mode():
        expected = [model.detect(batch) for batch in batches]
    answers = [detect(batch) for batch in batches]
    for answer, wanted in zip(answers, expected, strict=True):
        assert torch.equal(answer.valid, wanted.valid) and wanted.valid.any()
        for got, field in zip(answer, wanted, strict=True):
            torch.testing.assert_close(got[answer.valid], field[answer.valid], atol=1e-4, rtol=1e-4)


@pytest.mark.gpu
def test_replays_with_the_weights_of_the_day():
    model = recipes.build("resnet18_fpn", 3, {**SMALL}).eval().cuda()
    batch = scene([2])[0].to("cuda")
    detect = cuda_graphed(model)
    with torch.autocast("cuda", torch.bfloat16):
        before = detect(batch)
        with torch.no_grad():
            model.box_branch.cls_score.bias[-1] += 100.0  # all is background now
        assert before.valid.any() and not detect(batch).valid.any()


@pytest.mark.gpu
def test_a_training_step_does_not_wait_for_the_device():
    model = recipes.build("resnet18_fpn", 3, {"keypoints.count": 5, **SMALL}).train().cuda()
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 1e-3, 0.9, fused=True)
    batch, targets = (part.to("cuda") for part in scene([3, 2], keypoints=5))

    def step():
        with torch.autocast("cuda", torch.bfloat16):
            loss = sum(model(batch, targets).values())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimiser.step()
        optimiser.zero_grad()
        return loss

    step()  # kernels are compiled, buffers made
    torch.cuda.set_sync_debug_mode("error")
    try:
        loss = step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert loss.isfinite()
