"""What an installed package promises: its version, its types, its command, its few dependencies."""

import re
from importlib import metadata, resources
from pathlib import Path

import pytest

import maskrcnn

ROOT = Path(__file__).parents[1]
DOCUMENTS = ("README.md", "CONTRIBUTING.md", "docs/conventions.md", "docs/reading.md", "docs/log.md")


def test_version() -> None:
    assert maskrcnn.__version__ == metadata.version("maskrcnn")


def test_is_typed() -> None:
    assert resources.files("maskrcnn").joinpath("py.typed").is_file()


def test_public_names_exist() -> None:
    for name in maskrcnn.__all__:
        assert getattr(maskrcnn, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        maskrcnn.no_such_name  # noqa: B018


def test_console_command(capsys: pytest.CaptureFixture[str]) -> None:
    (command,) = metadata.entry_points(group="console_scripts", name="maskrcnn")
    with pytest.raises(SystemExit) as stop:
        command.load()(["--help"])
    assert stop.value.code == 0
    help_text = capsys.readouterr().out
    for word in ("demo", "train", "evaluate", "predict"):
        assert re.search(rf"^ +{word} ", help_text, re.MULTILINE), word


def test_needs_no_torchvision_and_nothing_to_compile() -> None:
    needed = [line for line in metadata.requires("maskrcnn") or [] if "extra ==" not in line]
    names = {re.split(r"[^\w-]", line)[0] for line in needed}
    assert names == {"torch", "numpy", "pillow", "rich", "jaxtyping", "faster-coco-eval", "filelock"}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document: str) -> None:
    file = ROOT / document
    links = re.findall(r"\]\(([^)#:]+)\)", file.read_text(encoding="utf-8"))
    assert [link for link in links if not (file.parent / link).exists()] == []
