"""Parts of messages: suggestions for names, lists, counted things, and several mistakes at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from difflib import get_close_matches

_LISTED = 8
_FAULTS = 20  # that are printed


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a suggestion: the known name that is most similar to `name`, or the first of the known names."""
    names = list(known)
    likely = get_close_matches(name, names, n=1)
    if likely:
        return f"did you mean {likely[0]}?"
    return f"there are {first_few(names, _LISTED)}"


def first_few(items: Sequence[object], limit: int = 5) -> str:
    """Return the first `limit` items, separated by commas, and how many more there are."""
    more = f" and {len(items) - limit} more" if len(items) > limit else ""
    return ", ".join(map(str, items[:limit])) + more


def counted(number: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun: "1 picture", "2,000 pictures", "2 classes", or another `plural`."""
    several = plural or noun + ("es" if noun.endswith("s") else "s")
    return f"{number:,} {noun if number == 1 else several}"


class Faults(ValueError):
    """Mistakes of a user, each a sentence, so that all can be mended before the next attempt."""

    def __init__(self, sentences: Sequence[str]) -> None:
        self.sentences = tuple(sentences)
        lines = [counted(len(sentences), "fault") + ":", *sentences[:_FAULTS]]
        lines += [f"and {len(sentences) - _FAULTS} more"] * (len(sentences) > _FAULTS)
        super().__init__("\n  ".join(lines) if len(sentences) > 1 else sentences[0])


@contextmanager
def all_faults() -> Iterator[Callable[[], AbstractContextManager[None]]]:
    """Yield a function for ``with`` blocks that go on after a mistake; raise all mistakes at the end.

    Mistakes are ValueError and FileNotFoundError. One alone is raised as it is, several as `Faults`, each
    once; any other exception ends all at once.
    """
    mistakes: list[ValueError | FileNotFoundError] = []

    @contextmanager
    def attempt() -> Iterator[None]:
        try:
            yield
        except (ValueError, FileNotFoundError) as mistake:
            mistakes.append(mistake)

    yield attempt
    if len(mistakes) == 1:
        raise mistakes[0]
    if mistakes:
        lists = [one.sentences if isinstance(one, Faults) else (str(one),) for one in mistakes]
        raise Faults(list(dict.fromkeys(sentence for sentences in lists for sentence in sentences)))
