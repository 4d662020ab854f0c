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


def test_images_on_another_device_are_refused():
    batch, _ = scene([1])
    with pytest.raises(ValueError, match="on a CUDA device, but these are on cpu"):
        cuda_graphed(recipes.build("resnet18_fpn", 3, {**SMALL}))(batch)


class OnCuda(torch.Tensor):
    """A tensor that says it is on a CUDA device."""

    is_cuda = True


def test_suppression_without_a_kernel_cannot_be_captured():
    batch, _ = scene([1])
    batch = batch._replace(images=batch.images.as_subclass(OnCuda))
    with pytest.raises(ValueError, match="needs the Triton kernel of suppression, which cpu does not run"):
        cuda_graphed(recipes.build("resnet18_fpn", 3, {**SMALL}))(batch)


@pytest.mark.gpu
def test_replays_equal_detect():
    """Two shapes alternate, and one recording is kept. Results of earlier calls do not change."""
    model = recipes.build("resnet18_fpn", 3, {"keypoints.count": 5, **SMALL}).eval().cuda()
    detect = cuda_graphed(model, shapes=1)
    shapes = [(64, 96), (64, 96), (96, 64), (64, 96)]
    batches = [scene([3, 1], shape, seed=seed)[0].to("cuda") for seed, shape in enumerate(shapes)]
    with torch.inference_mode():
        expected = [model.detect(batch) for batch in batches]
    results = [detect(batch) for batch in batches]
    for result, target in zip(results, expected, strict=True):
        assert torch.equal(result.valid, target.valid) and target.valid.any()
        for got, field in zip(result, target, strict=True):
            torch.testing.assert_close(got[result.valid], field[result.valid], atol=1e-4, rtol=1e-4)


@pytest.mark.gpu
def test_replays_use_the_current_weights():
    model = recipes.build("resnet18_fpn", 3, {**SMALL}).eval().cuda()
    batch = scene([2])[0].to("cuda")
    detect = cuda_graphed(model)
    with torch.autocast("cuda", torch.bfloat16):
        before = detect(batch)
        with torch.no_grad():
            model.box_branch.cls_score.bias[-1] += 100.0  # everything is background now
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

    step()  # compiles kernels and allocates buffers
    torch.cuda.set_sync_debug_mode("error")
    try:
        loss = step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert loss.isfinite()
