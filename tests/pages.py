"""Reads the HTML pages of the library."""

import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

_VOID = {"meta", "img"}


class Page(HTMLParser):
    """Reads a page strictly: every element is closed where it was opened."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.source = path.read_text(encoding="utf-8")
        self.open: list[str] = []
        self.tags: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(self.source)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list) -> None:
        assert len(dict(attrs)) == len(attrs), f"{tag} has an attribute twice"
        self.tags.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += " " + " ".join(data.split())

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)

    def rows(self) -> list[list[str]]:
        rows = re.findall(r"<tr[^>]*>(.*?)</tr>", self.source, re.DOTALL)
        cells = [re.findall(r"<t[hd].*?</t[hd]>", row, re.DOTALL) for row in rows]
        return [[unescape(re.sub("<[^>]*>", "", cell)) for cell in row] for row in cells]
