"""Devices by name, on machines that are pretended."""

import warnings

import pytest
import torch

from maskrcnn import device
from maskrcnn.device import resolve_device


def pretend(monkeypatch: pytest.MonkeyPatch, *, cuda: int = 0, mps: bool = False, kernels: bool = True):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    monkeypatch.setattr(torch._C, "_dispatch_has_kernel_for_dispatch_key", lambda name, key: kernels)
    monkeypatch.delenv("PYTORCH_ENABLE_MPS_FALLBACK", raising=False)


def test_names(monkeypatch):
    pretend(monkeypatch, cuda=2)
    assert resolve_device() == torch.device("cuda") and resolve_device("cuda:1") == torch.device("cuda:1")
    assert resolve_device(torch.device("cpu")) == torch.device("cpu") == resolve_device("cpu")
    for name in ("cuda:2", "gpu", "", "cpu:1", "cuda:x", "cuda:", "mps", "cuda:-1"):
        with pytest.raises(ValueError, match=rf"device '{name}' .* cuda:N .* has 2 cuda, 1 cpu on"):
            resolve_device(name)
    pretend(monkeypatch)
    assert resolve_device("auto") == torch.device("cpu")
    with pytest.raises(ValueError, match="device 'cuda' is not available"):
        resolve_device("cuda")


def test_the_cpu_is_chosen_without_a_look_at_cuda(monkeypatch):
    pretend(monkeypatch, cuda=1)
    for name in ("is_available", "device_count", "init", "_lazy_init"):
        monkeypatch.setattr(torch.cuda, name, lambda *_, name=name: pytest.fail(f"called torch.cuda.{name}"))
    assert resolve_device("cpu") == torch.device("cpu")


def test_an_apple_gpu_is_used_where_pytorch_has_the_operators(monkeypatch):
    pretend(monkeypatch, mps=True)
    assert resolve_device() == torch.device("mps") == resolve_device("mps")


def test_an_apple_gpu_without_the_operators_is_not_used(monkeypatch):
    pretend(monkeypatch, mps=True, kernels=False)
    with pytest.warns(UserWarning, match=r"computing on the CPU: .* no aten::_embedding_bag for the Apple"):
        assert resolve_device() == torch.device("cpu")
    with pytest.raises(ValueError, match=r"'mps' is not supported: .* PYTORCH_ENABLE_MPS_FALLBACK=1"):
        resolve_device("mps")
    monkeypatch.setenv("PYTORCH_ENABLE_MPS_FALLBACK", "1")  # then PyTorch computes them on the CPU
    with warnings.catch_warnings(action="error"):
        assert resolve_device() == torch.device("mps") == resolve_device("mps")


def test_this_pytorch_knows_the_operators_asked_for():
    for name in device._REQUIRED_ON_MPS:
        assert torch._C._dispatch_has_kernel_for_dispatch_key(name, "CPU")
