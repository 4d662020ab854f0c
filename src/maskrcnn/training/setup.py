"""Before the first step: the data, and the run, which is new or resumed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from maskrcnn import recipes
from maskrcnn.data.folder import Split, find_split
from maskrcnn.data.readers.coco import CocoDataset
from maskrcnn.network.model import MaskRCNN
from maskrcnn.plain import with_values
from maskrcnn.training.checkpoint import Checkpoint, load
from maskrcnn.training.settings import Settings
from maskrcnn.training.step import step_seed
from maskrcnn.weights.init import Origin, init_from, read_origin
from maskrcnn.weights.model_checkpoint import ModelCheckpoint
from maskrcnn.weights.transplant import account, origins, transplanted

DEFAULT_RECIPE = "resnet50_fpn"
_BRANCHES = ("masks", "keypoints")


def new_run(
    output: Path, recipe: str | None, recipe_arguments: Mapping[str, Any], settings: Settings
) -> Checkpoint:
    """Return a run at step 0, without classes and weights, and without a recipe unless it is given.

    Raises ValueError for an unknown recipe, and where `output` holds a training that would be overwritten.
    """
    if (output / "last.pt").exists():
        raise ValueError(f"{output} holds a training: resume it with --resume, or choose another --output")
    if recipe:
        recipes.find(recipe)
    short_side, long_side = settings.pictures.test_sides
    trained = ModelCheckpoint(
        recipe=recipe or "",
        arguments=dict(recipe_arguments),
        class_names=(),
        category_ids=(),
        keypoint_names=(),
        skeleton=(),
        short_side=short_side,
        long_side=long_side,
        weights={},
    )
    return Checkpoint(
        trained, settings, optimiser={}, scaler={}, step=0, elapsed=0.0, metrics={}, best_ap=-1.0
    )


def resumed_run(
    output: Path,
    recipe: str | None,
    recipe_arguments: Mapping[str, Any],
    settings: Settings | Mapping[str, Any] | None,
) -> Checkpoint:
    """Return the run of ``last.pt`` in `output`, with settings replaced (see `resume_training`).

    Raises FileNotFoundError where there is none, and ValueError for another recipe or other options of it,
    and for a setting that cannot change within a training.
    """
    path = output / "last.pt"
    run = load(path)
    trained = run.trained
    other = {name for name, value in recipe_arguments.items() if trained.arguments.get(name) != value}
    if recipe not in (None, trained.recipe) or other:
        raise ValueError(
            f"{path} is a training of {trained.recipe}, arguments {trained.arguments}, and resumes as such: "
            "choose another --output for another network"
        )
    if not isinstance(settings, Settings):
        settings = with_values(run.settings, settings or {})
    before, now = run.settings.optimiser.algorithm, settings.optimiser.algorithm
    if now != before:
        raise ValueError(
            f"optimiser.algorithm={now} cannot resume {path}, whose momentum is {before}'s: start a training "
            f"from its weights with --init {path} and another --output"
        )
    short_side, long_side = settings.pictures.test_sides
    trained = replace(trained, short_side=short_side, long_side=long_side)
    return replace(run, trained=trained, settings=settings)


def open_data(data: str | Path, run: Checkpoint) -> tuple[CocoDataset, CocoDataset | None]:
    """Open the training pictures, and the validation pictures where there are any and the run evaluates."""
    dataset = open_split(data, "train", run.trained)
    try:
        find_split(data, "val")
    except FileNotFoundError:
        return dataset, None
    validation = open_split(data, "val", run.trained)
    return dataset, validation if run.settings.logging.eval_every != 0 else None


def open_split(data: str | Path, split: Split, trained: ModelCheckpoint) -> CocoDataset:
    """Open a split; for a network with keypoints, the file that COCO keeps for these, if there is one."""
    has_keypoints = trained.recipe.endswith("_keypoint") or bool(trained.arguments.get("keypoints"))
    kinds = ("person_keypoints", "instances") if has_keypoints else ("instances", "person_keypoints")
    return CocoDataset(*find_split(data, split, kinds))


def with_initial_weights(
    run: Checkpoint, dataset: CocoDataset, init: str | Path | None, synonyms: Mapping[str, str]
) -> Checkpoint:
    """Return a new run with the classes of its data, and weights drawn by its seed or read from a file.

    Each class takes the file's weights for the class of the same name, or of its synonym. Raises ValueError
    and FileNotFoundError as `read_origin` and `init_from` do.
    """
    origin = read_origin(init) if init else None
    trained = replace(
        run.trained,
        recipe=run.trained.recipe or (origin and origin.recipe) or DEFAULT_RECIPE,
        arguments=recipe_arguments(run.trained, len(dataset.keypoint_names), origin),
        class_names=dataset.class_names,
        category_ids=dataset.category_ids,
        keypoint_names=dataset.keypoint_names,
        skeleton=dataset.skeleton,
    )
    torch.manual_seed(step_seed(run.settings.seed, 0))
    model = trained.build_untrained()
    if origin:
        print(f"{init}\n{initialise(model, trained.class_names, origin, synonyms)}", flush=True)
    return replace(run, trained=replace(trained, weights=model.state_dict()))


def initialise(
    model: MaskRCNN, class_names: Sequence[str], origin: Origin, synonyms: Mapping[str, str]
) -> str:
    """Copy the weights of `origin` that fit into `model`; return an account of each part and class."""
    if not origin.recipe:
        return str(init_from(model, origin.weights))
    sources = origins(class_names, origin.class_names, synonyms)
    weights = transplanted(origin.weights, origin.class_names, model.state_dict(), sources)
    return f"{init_from(model, weights)}\n{account(sources)}"


def recipe_arguments(trained: ModelCheckpoint, keypoints: int, origin: Origin | None) -> dict[str, Any]:
    """Return the recipe's arguments: those given, and defaults that suit the initial weights and the data.

    From scratch, norms learn: statistics that were never learnt must not be frozen (He et al. 2019,
    "Rethinking ImageNet Pre-training"). Initial weights bring the arguments that they were trained with, but
    not their branches where a recipe is given. A data set with `keypoints` gets a branch for them.
    """
    defaults = origin.arguments if origin else {"norm": "group", "head_norm": "group"}
    if trained.recipe:
        defaults = {name: value for name, value in defaults.items() if name not in _BRANCHES}
    has_form = trained.recipe.endswith(tuple(recipes.FORMS))
    branch = {"keypoints": keypoints} if keypoints and not has_form else {}
    return {**defaults, **branch, **trained.arguments}


def check_data(
    run: Checkpoint, model: MaskRCNN, dataset: CocoDataset, validation: CocoDataset | None
) -> None:
    """Raise ValueError where the network and the data do not fit each other."""
    if not len(dataset):
        raise ValueError(f"{dataset.annotation_file} has no pictures to train on")
    known = dict(zip(run.trained.category_ids, run.trained.class_names, strict=True))
    for split in (dataset, validation) if validation else (dataset,):
        categories = dict(zip(split.category_ids, split.class_names, strict=True))
        if not categories.items() <= known.items() or (split is dataset and categories != known):
            raise ValueError(
                f"the categories of {split.annotation_file} are {categories}, but those of the training are "
                f"{known}"
            )
    predicted = model.keypoint_branch.deconv.out_channels if model.keypoint_branch else 0
    labelled = len(dataset.keypoint_names)
    if predicted not in (0, labelled):
        raise ValueError(
            f"the network predicts {predicted} keypoints, but {dataset.annotation_file} has {labelled}: "
            f"choose {f'--set recipe.keypoints={labelled}' if labelled else 'a recipe without keypoints'}"
        )
