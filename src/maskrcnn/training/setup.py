"""Before the first step: the data, and the run, which is new or resumed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from maskrcnn import recipes
from maskrcnn.data.dataset import Dataset
from maskrcnn.data.folder import Split, has_split, read_split, read_whole
from maskrcnn.data.split import Subset, draw_validation
from maskrcnn.files import reading, write_json
from maskrcnn.network.model import MaskRCNN
from maskrcnn.plain import options_of, with_values
from maskrcnn.training.checkpoint import Checkpoint, load
from maskrcnn.training.settings import Settings
from maskrcnn.training.step import step_seed
from maskrcnn.weights.class_rows import copy_class_rows, describe_matches, match_classes
from maskrcnn.weights.init import InitialWeights, load_matching, read_initial_weights
from maskrcnn.weights.model_checkpoint import ModelCheckpoint

DEFAULT_RECIPE = "resnet50_fpn"
SPLIT = "split.json"
_FROM_SCRATCH = dict.fromkeys(("body.norm", "pyramid.norm", "boxes.norm", "masks.norm"), "group")


def new_run(
    output: Path, recipe: str | None, recipe_arguments: Mapping[str, Any], settings: Settings
) -> Checkpoint:
    """Return a run at step 0, without classes and weights, and without a recipe unless it is given.

    Raises ValueError for an unknown recipe, and where `output` holds a training that would be overwritten.
    """
    refuse_to_overwrite(output)
    if recipe:
        recipes.options_of_recipe(recipe)
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


def refuse_to_overwrite(output: Path) -> None:
    """Raise ValueError where a folder holds a training."""
    if (output / "last.pt").exists():
        raise ValueError(f"{output} holds a training: resume it with --resume, or choose another --output")


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


def open_data(data: str | Path, run: Checkpoint, output: Path) -> tuple[Dataset, Dataset | None]:
    """Open the pictures to train on, and those to validate on unless the run never evaluates.

    Where the data have no validation pictures, some are held back (see `draw_validation`). ``split.json`` in
    `output` keeps their ids: a training that is resumed reads it.
    """
    evaluates = run.settings.logging.eval_every != 0
    if has_split(data, "val"):
        dataset, validation = (open_split(data, split, run.trained) for split in ("train", "val"))
        return dataset, validation if evaluates else None
    dataset = read_whole(data, annotation_kinds(run.trained))
    if not evaluates:
        return dataset, None
    file = output / SPLIT
    if not file.exists():
        held_back = draw_validation(dataset, run.settings.seed)
        write_json(file, {"validation": dataset.image_ids[held_back].tolist()})
        print(
            f"{data} has no validation pictures: {len(held_back)} of {len(dataset)} are held back ({file})",
            flush=True,
        )
    training, validation = split_as_kept(dataset, file)
    return training, validation if len(validation) else None


def split_as_kept(dataset: Dataset, file: Path) -> tuple[Subset, Subset]:
    """Return the training and the validation pictures of `dataset`, as ``split.json`` has them.

    Raises ValueError where the file names pictures that the data set does not have.
    """
    try:
        with reading(file):
            listed = json.loads(file.read_text(encoding="utf-8"))["validation"]
            if not all(type(id_) is int for id_ in listed):
                raise TypeError("the ids of pictures must be whole numbers")
            ids = np.array(listed, np.int64)
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ValueError(f"{file}: not a split of this library: {error}") from None
    if missing := sorted(set(ids.tolist()) - set(dataset.image_ids.tolist())):
        raise ValueError(
            f"{file}: holds back pictures that {dataset.source} does not have, such as that of id "
            f"{missing[0]}: the data changed since the split was drawn"
        )
    is_held_back = np.isin(dataset.image_ids, ids)
    return Subset(dataset, np.flatnonzero(~is_held_back)), Subset(dataset, np.flatnonzero(is_held_back))


def open_evaluated(data: str | Path, split: Split, trained: ModelCheckpoint, folder: Path) -> Dataset:
    """Open a split to evaluate on: the data's own, or that of ``split.json`` in the `folder` of the run."""
    file = folder / SPLIT
    if split == "test" or has_split(data, "val") or not file.is_file():
        return open_split(data, split, trained)
    training, validation = split_as_kept(read_whole(data, annotation_kinds(trained)), file)
    return training if split == "train" else validation


def open_split(data: str | Path, split: Split, trained: ModelCheckpoint) -> Dataset:
    """Open a split of the annotations that the network learns from."""
    return read_split(data, split, annotation_kinds(trained))


def annotation_kinds(trained: ModelCheckpoint) -> tuple[str, ...]:
    """Return which annotation files a network needs: with keypoints, those that COCO keeps for these."""
    has_keypoints = trained.recipe.endswith("_keypoint") or bool(trained.arguments.get("keypoints.count"))
    return ("person_keypoints", "instances") if has_keypoints else ("instances", "person_keypoints")


def with_initial_weights(
    run: Checkpoint, dataset: Dataset, init: str | Path | None, synonyms: Mapping[str, str]
) -> Checkpoint:
    """Return a new run with the classes of its data, and weights drawn by its seed or read from a file.

    Each class takes the file's weights for the class of the same name, or of its synonym. Raises ValueError
    and FileNotFoundError as `read_initial_weights` and `load_matching` do.
    """
    origin = read_initial_weights(init) if init else None
    recipe = run.trained.recipe or (origin and origin.recipe) or DEFAULT_RECIPE
    trained = replace(
        run.trained,
        recipe=recipe,
        arguments=recipe_arguments(recipe, run.trained, len(dataset.keypoint_names), origin),
        class_names=dataset.class_names,
        category_ids=dataset.category_ids,
        keypoint_names=dataset.keypoint_names,
        skeleton=dataset.skeleton,
        white=dataset.white,
    )
    torch.manual_seed(step_seed(run.settings.seed, 0))
    model = trained.build_untrained()
    if origin:
        print(f"{init}\n{initialise(model, trained.class_names, origin, synonyms)}", flush=True)
    return replace(run, trained=replace(trained, weights=model.state_dict()))


def initialise(
    model: MaskRCNN, class_names: Sequence[str], origin: InitialWeights, synonyms: Mapping[str, str]
) -> str:
    """Copy the weights of `origin` that fit into `model`; return an account of each part and class."""
    if not origin.recipe:
        return str(load_matching(model, origin.weights))
    matches = match_classes(class_names, origin.class_names, synonyms)
    weights = copy_class_rows(origin.weights, origin.class_names, model.state_dict(), matches)
    return f"{load_matching(model, weights)}\n{describe_matches(matches)}"


def recipe_arguments(
    recipe: str, trained: ModelCheckpoint, keypoints: int, origin: InitialWeights | None
) -> dict[str, Any]:
    """Return the recipe's options: those given, and defaults that suit the initial weights and the data.

    From scratch, norms learn: statistics that were never learnt must not be frozen (He et al. 2019,
    "Rethinking ImageNet Pre-training"). Initial weights bring the options that they were trained with, but
    not their branches where a recipe is given. A data set with `keypoints` gets a branch for them.
    """
    defaults = origin.arguments if origin else _FROM_SCRATCH
    options = recipes.options_of_recipe(recipe)
    if trained.recipe:
        absent = ("keypoints.", "masks.") if options.masks is None else ("keypoints.",)
        defaults = {
            name: defaults[name] for name in defaults if name != "masks" and not name.startswith(absent)
        }
    known = options_of(options)
    defaults = {name: value for name, value in defaults.items() if name in known}
    has_form = trained.recipe.endswith(tuple(recipes.FORMS))
    branch = {"keypoints.count": keypoints} if keypoints and not has_form else {}
    return {**defaults, **branch, **trained.arguments}


def check_objects(dataset: Dataset) -> None:
    """Raise ValueError where a data set has no object to learn from."""
    crowds = 0
    for index in range(len(dataset)):
        crowd = dataset.objects(index).crowd
        if not crowd.all():
            return
        crowds += len(crowd)
    reason = f": all {crowds:,} are crowd regions (iscrowd 1); write 0 for single objects" if crowds else ""
    raise ValueError(f"{dataset.source}: there are no objects to learn from{reason}")


def check_data(run: Checkpoint, dataset: Dataset, validation: Dataset | None) -> None:
    """Raise ValueError where the network and the data do not fit each other."""
    if not len(dataset):
        raise ValueError(f"{dataset.source}: there are no pictures to train on")
    check_objects(dataset)
    known = dict(zip(run.trained.category_ids, run.trained.class_names, strict=True))
    for split in (dataset, validation) if validation else (dataset,):
        categories = dict(zip(split.category_ids, split.class_names, strict=True))
        if not categories.items() <= known.items() or (split is dataset and categories != known):
            raise ValueError(
                f"{split.source}: its categories are {categories}, but those of the training are {known}"
            )
    branch = run.trained.options.keypoints
    predicted, labelled = branch.count if branch else 0, len(dataset.keypoint_names)
    if predicted not in (0, labelled):
        raise ValueError(
            f"the network predicts {predicted} keypoints, but {dataset.source} has {labelled}: choose "
            f"{f'--set keypoints.count={labelled}' if labelled else 'a recipe without keypoints'}"
        )
