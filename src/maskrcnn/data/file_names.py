"""File names that a data set gives to its pictures: checked, for they come from outside."""

from __future__ import annotations

import os
import re
from pathlib import PurePosixPath
from typing import Any

_MAX_NAME = 255  # bytes of one part of a path, the limit of common file systems


def file_name_within(name: Any) -> str:
    """Return the path of a picture within the image folder, with forward slashes."""
    if not isinstance(name, str):
        raise ValueError(f"'file_name' is {name!r}, where a text was expected")
    if problem := name_problem(name.replace("\\", "/")):
        raise ValueError(f"the file name {name[:80]!r} {problem}")
    return name.replace("\\", "/")


def name_problem(name: str) -> str:
    """Return what is wrong with a file name, if anything is."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "://" in name or re.match("[A-Za-z]:", name):
        return "leads out of the image folder"
    if not path.name:
        return "names no file"
    try:
        longest = max(len(os.fsencode(part)) for part in path.parts)
    except UnicodeEncodeError:
        return "has characters that no file name can have"
    if "\0" in name:
        return "has characters that no file name can have"
    return "" if longest <= _MAX_NAME else f"is longer than {_MAX_NAME} bytes"
