"""HTML pages from the templates in this folder. They share one stylesheet, and a page needs no other file.

Every value is escaped, and the pages' Content-Security-Policy forbids scripts and requests, so that names in
annotation files, which may come from anywhere, can do no harm.
"""

from __future__ import annotations

import base64
import io
from functools import cache
from typing import TYPE_CHECKING, Any

from PIL import Image

from maskrcnn.messages import counted

if TYPE_CHECKING:
    from jinja2 import Environment


def render(template: str, **values: Any) -> str:
    """Return the page that a template makes of the values. A value that the template lacks is an error."""
    return _environment().get_template(template).render(values)


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("maskrcnn", "html"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"counted": counted, "fixed": _fixed}
    return environment


def _fixed(value: float | None, digits: int) -> str:
    """Return a number with so many decimals; a dash for None."""
    return "-" if value is None else f"{value:.{digits}f}"


def jpeg_data_url(image: Image.Image) -> str:
    """Return an image as the `src` of an <img>, which contains it as JPEG."""
    content = io.BytesIO()
    image.save(content, format="JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode("ascii")
