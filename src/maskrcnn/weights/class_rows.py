"""Fine-tuning on other classes: copies the rows (scores, boxes, masks) of classes with the same name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor

# Layers whose first rows belong to classes, and the rows of one class. Rows after these are background's.
_ROWS_PER_CLASS = {"box_branch.cls_score": 1, "box_branch.bbox_pred": 4, "branches.masks.head.logits": 1}

ClassMatches = dict[str, str | None]  # source class of each class of the model, in the model's order


def match_classes(
    class_names: Iterable[str], source_names: Sequence[str], synonyms: Mapping[str, str] | None = None
) -> ClassMatches:
    """Return, for each class of the model, the source class of the same name, or None where there is none.

    Upper and lower case are not distinguished. `synonyms` maps class names of the model to class names of
    the source. Raises ValueError for a synonym whose class is unknown on either side.
    """
    class_names, synonyms = list(class_names), synonyms or {}
    sources = {name.casefold(): name for name in source_names}
    for name, source in synonyms.items():
        if name not in class_names or source.casefold() not in sources:
            raise ValueError(
                f"synonym {name}={source}: expected a class of the data ({', '.join(class_names)}) and a "
                f"class of the weights ({', '.join(source_names)})"
            )
    return {name: sources.get(synonyms.get(name, name).casefold()) for name in class_names}


def copy_class_rows(
    weights: Mapping[str, Tensor],
    source_names: Sequence[str],
    model_weights: Mapping[str, Tensor],
    matches: ClassMatches,
) -> dict[str, Tensor]:
    """Return `weights` with the rows of their classes rearranged for the classes of the model.

    Rows of a class without a match are those of `model_weights`, as initialised. Layers without a row for
    each class, such as those of class-agnostic masks, are returned unchanged.
    """
    arranged = dict(weights)
    for layer, rows in _ROWS_PER_CLASS.items():
        names = [
            name
            for name in (f"{layer}.weight", f"{layer}.bias")
            if _has_rows(weights, name, rows * len(source_names))
            and _has_rows(model_weights, name, rows * len(matches))
        ]
        if any(weights[name].shape[1:] != model_weights[name].shape[1:] for name in names):
            arranged.pop(f"{layer}.bias", None)  # of no use without its weight, which `load_matching` reports
            continue
        for name in names:
            arranged[name] = _arrange(weights[name], model_weights[name], rows, source_names, matches)
    return arranged


def _has_rows(weights: Mapping[str, Tensor], name: str, count: int) -> bool:
    return name in weights and weights[name].dim() > 0 and len(weights[name]) >= count


def _arrange(
    source: Tensor, initial: Tensor, rows: int, source_names: Sequence[str], matches: ClassMatches
) -> Tensor:
    arranged = initial.clone()
    for index, match in enumerate(matches.values()):
        if match is not None:
            source_index = source_names.index(match)
            first, source_first = rows * index, rows * source_index
            arranged[first : first + rows] = source[source_first : source_first + rows]
    background = len(initial) - rows * len(matches)
    if background and len(source) > rows * len(source_names):
        arranged[-background:] = source[-background:]
    return arranged


def describe_matches(matches: ClassMatches) -> str:
    """Return a line for each class: the class whose rows it copies, or that it is newly initialised."""
    width = max(map(len, matches), default=0)
    return "\n".join(
        f"class {name:{width}}  {f'copied from {match}' if match else 'newly initialised'}"
        for name, match in matches.items()
    )
