"""What a reader of annotations left out and repaired: counted, with the first examples of each kind."""

from __future__ import annotations

import warnings
from collections import Counter
from pathlib import Path


class Notes:
    """What was left out of a file, and what was repaired: counted, with the first examples of each kind."""

    _EXAMPLES = 5

    def __init__(self, file: Path) -> None:
        self.file = file
        self.left_out: Counter[str] = Counter()
        self.repaired: Counter[str] = Counter()
        self.examples: dict[str, list[str]] = {}

    def leave_out(self, kind: str, example: str = "", count: int = 1) -> None:
        """Count what is left out."""
        self.left_out[kind] += count
        if example and len(self.examples.setdefault(kind, [])) < self._EXAMPLES:
            self.examples[kind].append(example)

    def described(self, kind: str) -> str:
        """Return the number and the first examples of what was left out."""
        count, examples = self.left_out[kind], self.examples.get(kind, [])
        listed = "; ".join(examples) + ("; …" if examples and count > len(examples) else "")
        return f"{count} {kind}" + (f" ({listed})" if listed else "")

    def warn(self) -> None:
        """Give a warning where there is something to say."""
        left_out = " and ".join(self.described(kind) for kind, count in self.left_out.items() if count)
        repaired = " and ".join(f"{count} {kind}" for kind, count in self.repaired.items() if count)
        said = [f"left out {left_out}"] * bool(left_out) + [f"read {repaired}"] * bool(repaired)
        if said:
            warnings.warn(f"{self.file}: {'; '.join(said)}", stacklevel=2)
