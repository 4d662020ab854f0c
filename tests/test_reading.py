"""docs/reading.md says truly which files a picture passes through, and lists every folder."""

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENT = (ROOT / "docs" / "reading.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("path_of_a_picture", ROOT / "benchmarks" / "path.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def listed(section: str) -> list[str]:
    return re.findall(r"^\| \[([\w/.]+)\]\(\.\./src/maskrcnn/\1\) \| \S", section, re.MULTILINE)


def test_the_path_of_a_picture_is_the_one_that_it_takes(script):
    path, folders = DOCUMENT.split("## The folders")
    files = listed(path)
    assert files == script.path_of_a_picture(), "update docs/reading.md: python benchmarks/path.py --write"
    assert "predict/predictor.py" in files and "results/result.py" in files
    assert listed(folders) == sorted(init.parent.name for init in script.PACKAGE.glob("*/__init__.py"))


def test_only_calls_while_it_runs_count(script):
    from maskrcnn.files import cache_folder
    from maskrcnn.messages import nearest

    assert script.entered(lambda: nearest("a", ["b"])) == ["messages.py"]
    assert script.entered(lambda: (cache_folder(), nearest("a", ["b"]), cache_folder())) == [
        "files.py",
        "messages.py",
    ]
    assert script.entered(lambda: sorted([2, 1])) == []


def test_the_table_is_replaced_and_the_rest_stays(script):
    text = f"before\n{script.BEGIN}\nold\n{script.END}\nafter\n"
    updated = script.with_table(text, ["files.py"])
    assert updated.startswith("before\n") and updated.endswith("\nafter\n") and "old" not in updated
    assert "| [files.py](../src/maskrcnn/files.py) | Files that appear whole or not at all" in updated
    assert script.with_table(updated, ["files.py"]) == updated
