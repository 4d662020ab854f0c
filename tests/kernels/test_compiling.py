"""Triton compiles every kernel for a GPU that is not present, in every precision, to machine code."""

import subprocess
import sys
from importlib.metadata import version

import pytest

pytest.importorskip("triton", reason="Triton is not installed")

CODE = """
from triton import compile
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from maskrcnn.kernels import nms, roi_align

def build(kernel, types, constants):
    names = kernel.arg_names
    signature = {name: types.get(name, "constexpr" if name in constants else "i32") for name in names}
    places = {(names.index(name),): value for name, value in constants.items()}
    source = ASTSource(fn=kernel, signature=signature, constexprs=places)
    built = compile(source, target=GPUTarget("cuda", 90, 32), options={"enable_fp_fusion": False})
    print(kernel.__name__, len(built.asm["cubin"]))

build(nms._keep, {"boxes": "*fp32", "segments": "*i64", "keep": "*i1", "kept": "*i32", "threshold": "fp32"},
      {"BLOCK": 64})
for precision in ("fp32", "bf16", "fp16"):
    for backward in (False, True):
        tensors = {"table": "*fp32" if backward else "*" + precision, "bags": "*" + precision,
                   "boxes": "*fp32", "pictures": "*i64", "levels": "*i64"}
        build(roi_align._visit, tensors, {"BINS": 7, "RATIO": 2, "ALIGNED": True, "BACKWARD": backward,
                                          "COLUMNS": 8, "CHANNELS": 128})
"""


@pytest.mark.slow
@pytest.mark.skipif(
    tuple(map(int, version("triton").split(".")[:2])) < (3, 3),
    reason="older versions of Triton have another interface",
)
def test_every_kernel_becomes_machine_code(monkeypatch, tmp_path):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    sizes = [int(line.split()[1]) for line in done.stdout.splitlines()]
    assert len(sizes) == 7 and min(sizes) > 1000
