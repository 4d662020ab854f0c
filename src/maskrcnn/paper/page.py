"""The report of a table as an HTML page: values, and predictions of the rows' networks on some images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from maskrcnn.html import jpeg_data_url, render
from maskrcnn.paper.tables import Table

_LONG_SIDE = 420  # px, of an image in the page


def page(
    table: Table, lines: Sequence[Sequence[str]], images: Mapping[str, Sequence[Path]], training: str
) -> str:
    """Return the page as text.

    `lines` are the rows of its table, the names of the columns first. `images` are files by the name of the
    table's row, and `training` is a sentence on how the rows were trained.
    """
    columns, *rows = lines
    embedded = {name: [(path.stem, _embedded(path)) for path in paths] for name, paths in images.items()}
    return render(
        "paper_table.html", title=table.title, columns=columns, rows=rows, images=embedded, training=training
    )


def _embedded(path: Path) -> str:
    image = Image.open(path, formats=("PNG",)).convert("RGB")
    image.thumbnail((_LONG_SIDE, _LONG_SIDE))
    return jpeg_data_url(image)
