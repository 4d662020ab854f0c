"""The description that an exported file carries: what a predictor needs besides the graph."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from maskrcnn.plain import from_plain, to_plain
from maskrcnn.types import Metadata

KEY = "maskrcnn"  # of the description in the metadata of a file
FORMAT = 4  # of the description; raised whenever a field is added, removed or changes its meaning
_WITHOUT_THRESHOLDS = 3  # the format before, which lacks only `score_thresholds`


@dataclass(frozen=True)
class InputFormat:
    """The input of a graph: ``images`` (B, C, H, W) of uint8, padded on the right and at the bottom.

    `mean`, `std` and `bgr` are for information, because the graph applies them itself: with `bgr` it reverses
    the channels, which come as RGB; then it computes ``(images - mean) / std``, on the scale 0 … 255.
    """

    size_hw: tuple[int, int] | None  # px; None: any multiples of `stride` from `min_side` on
    batch: int | None  # pictures; None: any number
    channels: int
    stride: int  # px
    min_side: int  # px
    mean: tuple[float, ...]
    std: tuple[float, ...]
    bgr: bool

    def __post_init__(self) -> None:
        for name in ("size_hw", "batch", "channels", "stride", "min_side"):
            value = getattr(self, name)
            numbers = value if isinstance(value, tuple) else (1 if value is None else value,)
            if min(numbers) < 1:
                raise ValueError(f"input.{name} must be at least 1, not {value}")


@dataclass(frozen=True)
class Description:
    """What an exported file says of its network."""

    recipe: str
    metadata: Metadata
    input: InputFormat
    short_side: int | None  # px, to which pictures are resized where the input has no fixed size; None: not
    long_side: int  # px, at most
    white: int | None  # value of 16-bit pictures that becomes 255; None: it depends on the pictures
    max_detections: int  # of a picture
    score_threshold: float  # that every detection exceeds

    def __post_init__(self) -> None:
        if not self.metadata.class_names:
            raise ValueError("expected the names of at least one class")

    def to_json(self) -> str:
        """Return the description as text, for `read_description`."""
        return json.dumps({"format": FORMAT, **to_plain(self)}, allow_nan=False)


def read_description(text: str | None, path: Path) -> Description:
    """Return the description that the file `path` holds as `text`, or None where it has no such metadata.

    Raises ValueError, naming the file, where it was not written by ``maskrcnn export``, was written by a
    version with another format, or is damaged.
    """
    try:
        values = json.loads(text or "")
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} has no description of its network: expected a file that maskrcnn export wrote"
        ) from error
    version = values.pop("format", None) if isinstance(values, dict) else None
    if version not in (FORMAT, _WITHOUT_THRESHOLDS):
        raise ValueError(f"{path} was written by another version of maskrcnn export: export it again")
    if version == _WITHOUT_THRESHOLDS and isinstance(values.get("metadata"), dict):
        values["metadata"]["score_thresholds"] = ()
    try:
        return from_plain(Description, values)
    except (ValueError, OverflowError, RecursionError) as error:  # of huge numbers, of deep lists
        raise ValueError(f"the description in {path} is damaged: {error}; export it again") from error
