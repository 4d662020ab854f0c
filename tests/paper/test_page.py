"""The page of a table: its figures and images, which must not be able to load or run anything."""

import base64
import io
import re
from html import escape

from PIL import Image

from maskrcnn.paper.page import page
from maskrcnn.paper.tables import TABLES

HOSTILE = """</td><script src="http://x.org">alert(1)</script><img onerror='x'>"""


def test_figures_and_images_are_on_the_page(tmp_path):
    Image.new("RGBA", (900, 300), (200, 0, 0, 255)).save(tmp_path / "0001.png")
    lines = [["published, ours", "AP"], ["RoIPool", "23.6"], ["seed 0", "21.4"]]
    text = page(TABLES["2d"], lines, {"RoIPool": [tmp_path / "0001.png"]}, "Trained with steps=2.")
    assert f"<h1>{TABLES['2d'].title}</h1>" in text and "Trained with steps=2." in text
    cells = [re.findall(r"<t[hd]>(.*?)</t[hd]>", row) for row in re.findall(r"<tr>.*?</tr>", text)]
    assert cells == lines
    [(name, data)] = re.findall(r'<img alt="(.*?)" src="data:image/jpeg;base64,(.*?)">', text)
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    assert name == "0001" and image.size == (420, 140)


def test_hostile_names_stay_text(tmp_path):
    path = tmp_path / "' onerror='x.png"
    Image.new("RGB", (9, 9)).save(path)
    table = TABLES["2d"]._replace(title=HOSTILE)
    text = page(table, [[HOSTILE], [HOSTILE]], {HOSTILE: [path]}, HOSTILE)
    assert text.count(escape(HOSTILE)[:20]) == 6  # title, heading, column, cell, sentence, heading of the row
    assert "<script" not in text and "onerror='" not in text
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in text
