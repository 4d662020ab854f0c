"""The files that one prediction passes through, in order of first entry, with their lines.

What counts: every file of the package in which a function is called while `Predictor.predict(file).masks`
runs. The network is a small ResNet-50-FPN, untrained, on the CPU in float32; the picture is a synthetic one,
in a PNG file. A machine on which Winograd's convolutions pay passes through fast/winograd.py as well; here
they are left out, so that the list is the same everywhere. A first prediction, which is not watched, imports
what is imported late, so that code that only runs at import does not count, nor does building the network.

    python benchmarks/path.py            print the files and the totals
    python benchmarks/path.py --write    update the table of docs/reading.md
"""

from __future__ import annotations

import argparse
import ast
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

import maskrcnn
from maskrcnn import recipes
from maskrcnn.data.prepare import resize
from maskrcnn.data.synthetic import synthetic_picture
from maskrcnn.predict.predictor import Predictor
from maskrcnn.types import Metadata

PACKAGE = Path(maskrcnn.__file__).parent
DOCUMENT = Path(__file__).parents[1] / "docs" / "reading.md"
SIDE = 128
BEGIN, END = "<!-- path: benchmarks/path.py --write -->", "<!-- end of path -->"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help=f"update {DOCUMENT.name}")
    files = path_of_a_picture()
    if parser.parse_args().write:
        DOCUMENT.write_text(with_table(DOCUMENT.read_text(encoding="utf-8"), files), encoding="utf-8")
    for file in files:
        print(f"{lines(file):6}  {file}")
    print(f"{sum(map(lines, files)):6}  in {len(files)} files")


def path_of_a_picture() -> list[str]:
    """Return the files of the package that a prediction passes through, relative to it."""
    torch.manual_seed(0)
    model = recipes.resnet50_fpn(num_classes=2)
    deterministic = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)  # leaves Winograd's convolutions out, see `fast.winograd`
    try:
        predictor = Predictor(model, Metadata(("a", "b"), (1, 2)), resize(SIDE, SIDE), device="cpu")
    finally:
        torch.use_deterministic_algorithms(deterministic)
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "picture.png"
        synthetic_picture(SIDE, np.random.default_rng(0))[0].save(picture)
        return entered(lambda: predictor.predict(picture, score=0.0).masks)


def entered(run: Callable[[], object]) -> list[str]:
    """Return the files of the package in which `run` calls a function, in order of first entry."""
    run()
    files: dict[str, None] = {}

    def note(frame: object, event: str, _argument: object) -> None:
        if event == "call":
            files.setdefault(frame.f_code.co_filename)

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        run()
    finally:
        sys.setprofile(before)
    inside = [Path(file) for file in files if Path(file).is_relative_to(PACKAGE)]
    return [path.relative_to(PACKAGE).as_posix() for path in inside]


def lines(file: str) -> int:
    return len((PACKAGE / file).read_text(encoding="utf-8").splitlines())


def with_table(document: str, files: list[str]) -> str:
    """Return the document with a row for each file: a link, and the first sentence of its docstring."""
    before, _, rest = document.partition(BEGIN)
    _, _, after = rest.partition(END)
    rows = [f"| [{file}](../src/maskrcnn/{file}) | {first_sentence(file)} |" for file in files]
    table = "\n".join(["| file | what it does |", "|---|---|", *rows])
    return f"{before}{BEGIN}\n{table}\n{END}{after}"


def first_sentence(file: str) -> str:
    text = ast.get_docstring(ast.parse((PACKAGE / file).read_text(encoding="utf-8"))) or ""
    return " ".join(text.split("\n\n")[0].split())


if __name__ == "__main__":
    main()
