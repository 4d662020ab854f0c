"""Fine-tuning on other classes: what a network knows of a class goes along with the class's name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor

# The layers with rows of their own for each class, and how many; rows that remain are background's, the last.
_ROWS = {"box_branch.cls_score": 1, "box_branch.bbox_pred": 4, "branches.masks.head.logits": 1}

Origins = dict[str, str | None]  # the class that each class takes its rows from, if any


def origins(
    names: Iterable[str], source_names: Sequence[str], synonyms: Mapping[str, str] | None = None
) -> Origins:
    """Return, for each of our classes, the source's class of the same name, or of its synonym.

    `synonyms` leads from our names to the source's. Names that differ in case alone are the same. Raises
    ValueError for a synonym of a class that is not there, on either side.
    """
    names, synonyms = list(names), synonyms or {}
    theirs = {name.casefold(): name for name in source_names}
    for ours, other in synonyms.items():
        if ours not in names or other.casefold() not in theirs:
            raise ValueError(
                f"synonym {ours}={other}: expected one of our classes ({', '.join(names)}) and one of the "
                f"weights' ({', '.join(source_names)})"
            )
    return {name: theirs.get(synonyms.get(name, name).casefold()) for name in names}


def transplanted(
    weights: Mapping[str, Tensor],
    source_names: Sequence[str],
    own: Mapping[str, Tensor],
    taken: Origins,
) -> dict[str, Tensor]:
    """Return `weights` with the rows of their classes arranged for ours.

    `own` are the weights of the network that takes them: where a class comes from nowhere, its rows stay as
    they are there. Layers without rows for each class, such as those of class-agnostic masks, stay whole.
    """
    arranged = dict(weights)
    for layer, rows in _ROWS.items():
        for name in (f"{layer}.weight", f"{layer}.bias"):
            if _has_rows(weights, name, rows * len(source_names)) and _has_rows(own, name, rows * len(taken)):
                arranged[name] = _arranged(weights[name], own[name], rows, source_names, taken)
    return arranged


def _has_rows(weights: Mapping[str, Tensor], name: str, count: int) -> bool:
    return name in weights and len(weights[name]) >= count


def _arranged(source: Tensor, own: Tensor, rows: int, source_names: Sequence[str], taken: Origins) -> Tensor:
    arranged = own.clone()
    for ours, theirs in enumerate(taken.values()):
        if theirs is not None:
            at = source_names.index(theirs)
            arranged[rows * ours : rows * (ours + 1)] = source[rows * at : rows * (at + 1)]
    background = len(own) - rows * len(taken)
    if background and len(source) > rows * len(source_names):
        arranged[-background:] = source[-background:]
    return arranged


def account(taken: Origins) -> str:
    """Return a line for each class: whose rows it takes."""
    width = max(map(len, taken), default=0)
    return "\n".join(
        f"class {name:{width}}  {f'from {theirs}' if theirs else 'begins anew'}"
        for name, theirs in taken.items()
    )
