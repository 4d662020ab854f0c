"""A table's report as one HTML page that needs nothing else: figures, and what the rows found in pictures."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from PIL import Image

from maskrcnn.paper.tables import Table

_EXPLAINED = (
    "Percent. The first line of a row is the paper's. Ours are on the validation pictures of the data at "
    "hand: to be compared with one another, not with the published ones. By how much the last row leads has "
    "a 95 % interval over pictures."
)
_LONG_SIDE = 420  # px, of a picture in the page
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1a1a1a; margin: 2rem auto; max-width: 78rem;
  padding: 0 1rem }
h1 { font-size: 1.4rem } h2 { font-size: 1.05rem; margin: 2rem 0 .5rem }
table { border-collapse: collapse }
th, td { padding: .25rem .7rem; border-bottom: 1px solid #ddd; text-align: right }
th:first-child, td:first-child { text-align: left } th { font-weight: 600; vertical-align: bottom }
img { max-height: 18rem; margin: 0 .5rem .5rem 0; vertical-align: top }
p.small { color: #555; font-size: .85rem; max-width: 60rem }
"""


def page(
    table: Table, lines: Sequence[Sequence[str]], pictures: Mapping[str, Sequence[Path]], said: str
) -> str:
    """Return the page: `lines` of figures, the columns' names first, and `pictures` of each row."""
    columns, *rows = lines
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    shown = "".join(
        f"<h2>{escape(name)}</h2>" + "".join(_embedded(path) for path in paths)
        for name, paths in pictures.items()
    )
    return (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{escape(table.title)}</title>'
        f"<style>{_STYLE}</style></head><body><h1>{escape(table.title)}</h1>"
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        f'<p class="small">{_EXPLAINED} {escape(said)}</p>{shown}</body></html>'
    )


def _embedded(path: Path) -> str:
    picture = Image.open(path, formats=("PNG",)).convert("RGB")
    picture.thumbnail((_LONG_SIDE, _LONG_SIDE))
    content = io.BytesIO()
    picture.save(content, format="JPEG", quality=85)
    text = base64.b64encode(content.getvalue()).decode("ascii")
    return f'<img alt="{escape(path.stem)}" src="data:image/jpeg;base64,{text}">'
