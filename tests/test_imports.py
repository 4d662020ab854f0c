"""Imports go one way, and nothing heavy or fragile is imported before it is needed."""

import ast
import os
import subprocess
import sys
from graphlib import TopologicalSorter
from importlib.util import resolve_name
from pathlib import Path

import pytest

import maskrcnn

SOURCE = Path(maskrcnn.__file__).parent
# From the bottom up. A module may import from its own row or from rows above it here, without circles.
LAYERS = (
    ("types", "files", "messages", "plain", "extras", "device", "html", "kernels", "lock", "progress"),
    ("ops", "masks"),
    ("network",),
    ("network.model",),
    ("runtimes", "data", "recipes", "results"),
    ("fast", "weights"),
    ("predict",),
    ("evaluation",),
    ("export",),
    ("training",),
    ("paper", "bench", "plan"),
    ("cli", "__main__", ""),
)
OPTIONAL = (
    "torchvision",
    "cv2",
    "matplotlib",
    "tensorboard",
    "faster_coco_eval",
    "onnx",
    "onnxruntime",
    "openvino",
    "triton",
)


def modules() -> dict[str, Path]:
    """Return every module of the library by its name."""
    files = {file.relative_to(SOURCE.parent).with_suffix(""): file for file in SOURCE.rglob("*.py")}
    return {".".join(path.parts).removesuffix(".__init__"): file for path, file in files.items()}


def imports(name: str, file: Path, known: dict[str, Path]) -> set[str]:
    """Return the library's modules that a file imports, wherever in the file it does so."""
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = resolve_name("." * node.level + (node.module or ""), package)
            members = {f"{base}.{alias.name}" for alias in node.names}
            found |= {member if member in known else base for member in members}
    return {imported for imported in found if imported.split(".")[0] == "maskrcnn"}


def layer(name: str) -> int:
    """Return the row of the longest prefix of a module's name."""
    inner = name.removeprefix("maskrcnn").removeprefix(".")
    rows = {prefix: row for row, prefixes in enumerate(LAYERS) for prefix in prefixes if prefix}
    fitting = [prefix for prefix in rows if inner == prefix or inner.startswith(prefix + ".")]
    if inner and not fitting:
        pytest.fail(f"{name} stands in no row of LAYERS")
    return rows[max(fitting, key=len)] if inner else len(LAYERS) - 1


KNOWN = modules()
GRAPH = {name: imports(name, file, KNOWN) for name, file in KNOWN.items()}
# Those that import Triton are imported by none but the functions that use them.
EVERYWHERE = sorted(name for name in KNOWN if not name.startswith("maskrcnn.kernels."))


def test_finds_what_is_imported() -> None:
    assert "maskrcnn.ops.boxes" in GRAPH["maskrcnn.network.rpn"]  # from maskrcnn.ops import boxes
    assert "maskrcnn.types" in GRAPH["maskrcnn.network.model"]  # from maskrcnn.types import Batch
    assert "maskrcnn.training.loop" in GRAPH["maskrcnn.cli.train"]  # inside a function
    assert layer("maskrcnn.network.rpn") < layer("maskrcnn.network.model") < layer("maskrcnn.data.dataset")


@pytest.mark.parametrize("name", sorted(GRAPH))
def test_imports_go_one_way(name: str) -> None:
    upwards = sorted(imported for imported in GRAPH[name] if layer(imported) > layer(name))
    assert not upwards, f"{name} imports {upwards}, which are built on it"


def test_no_circles() -> None:
    TopologicalSorter(GRAPH).prepare()  # raises CycleError, naming the circle


def run(code: str, *folders: Path) -> str:
    """Run code in a fresh interpreter, `folders` first on its path; return what it prints."""
    path = os.pathsep.join(map(str, (*folders, SOURCE.parent)))
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_is_light() -> None:
    code = f"""
import importlib, sys
for name in {EVERYWHERE}:
    importlib.import_module(name)
print([name for name in {OPTIONAL} if name in sys.modules])
"""
    assert run(code).strip() == "[]"


def test_import_of_the_package_alone_leaves_torch_out() -> None:
    assert run("import maskrcnn, sys; print('torch' in sys.modules)").strip() == "False"


def test_works_beside_a_broken_torchvision(tmp_path: Path) -> None:
    (tmp_path / "torchvision").mkdir()
    broken = 'raise RuntimeError("operator torchvision::nms does not exist")\n'
    (tmp_path / "torchvision" / "__init__.py").write_text(broken)
    code = f"""
import importlib
for name in {EVERYWHERE}:
    importlib.import_module(name)
import numpy, torch, maskrcnn
from maskrcnn.data.prepare import resize
from maskrcnn.types import Batch, MaskTable, Metadata, Targets

model = maskrcnn.recipes.build("resnet18_fpn", 2, {{"body.norm": "group", "boxes.hidden": 32}})
batch = Batch(torch.randint(256, (1, 3, 64, 64), dtype=torch.uint8), torch.tensor([[64, 64]]))
crop = MaskTable(
    pixels=torch.ones(1024, dtype=torch.uint8),
    starts=torch.zeros(1, 1, dtype=torch.int64),
    sizes_hw=torch.full((1, 1, 2), 32),
    affine=torch.tensor([[[1.0, -16.0, 1.0, -16.0]]]),
)
truth = torch.tensor([[True]])
boxes = torch.tensor([[[16.0, 16.0, 48.0, 48.0]]])
losses = model(batch, Targets(boxes, torch.zeros(1, 1, dtype=torch.int64), truth, ~truth, crop))
sum(losses.values()).backward()
predictor = maskrcnn.Predictor(
    model, Metadata(("a", "b"), (1, 2)), resize(64, 64), device="cpu"
)
result = predictor.predict(numpy.zeros((64, 64, 3), numpy.uint8), score=0.0)
print(result.masks.shape[1:])
try:
    import torchvision
except RuntimeError:
    print("torchvision is broken")
"""
    assert run(code, tmp_path).splitlines() == ["(64, 64)", "torchvision is broken"]
