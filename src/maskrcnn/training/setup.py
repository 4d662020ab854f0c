"""Before the first step: the data, and the run, which is new or resumed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from maskrcnn import recipes
from maskrcnn.data.dataset import Dataset
from maskrcnn.data.folder import KINDS, Split, has_split, read_split, read_whole
from maskrcnn.data.split import Subset, draw_validation
from maskrcnn.data.usable import with_classes, with_usable_pictures
from maskrcnn.files import read_json, write_json
from maskrcnn.messages import Faults, all_faults, counted, first_few
from maskrcnn.network.model import MaskRCNN
from maskrcnn.plain import options_of, with_values
from maskrcnn.training.checkpoint import Checkpoint, load
from maskrcnn.training.plateau import Plateau
from maskrcnn.training.settings import Settings
from maskrcnn.training.step import step_seed
from maskrcnn.weights.class_rows import copy_class_rows, describe_matches, match_classes
from maskrcnn.weights.init import InitialWeights, load_matching, read_initial_weights
from maskrcnn.weights.model_checkpoint import ModelCheckpoint

DEFAULT_RECIPE = "resnet50_fpn"
SPLIT = "split.json"
_FEW = 50  # pictures, below which cross-validation is suggested
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
    # Shares of another length, or another patience, are not those that the plateau was found with
    plateau = run.plateau if settings.length == run.settings.length else Plateau()
    return replace(run, trained=trained, settings=settings, plateau=plateau)


def read_data(data: str | Path, kinds: tuple[str, ...] = KINDS) -> tuple[Dataset, Dataset | None]:
    """Read and check the pictures to train on, and those to validate on where the data have them.

    Raises Faults with all that makes a training meaningless: splits that cannot be read, no picture and no
    object to learn from, classes that the validation pictures alone have.
    """
    splits: dict[str, Dataset] = {}
    with all_faults() as attempt:
        with attempt():
            splits["train"] = with_usable_pictures(read_whole(data, kinds))
            check_objects(splits["train"])
        if has_split(data, "val"):
            with attempt():
                splits["val"] = with_usable_pictures(read_split(data, "val", kinds))
        if len(splits) == 2:
            with attempt():
                splits["val"] = _with_known_classes(splits["val"], splits["train"])
    return splits["train"], splits.get("val")


def _with_known_classes(validation: Dataset, dataset: Dataset) -> Dataset:
    if unknown := [name for name in validation.class_names if name not in dataset.class_names]:
        raise ValueError(
            f"{validation.source}: {counted(len(unknown), 'class')} that {dataset.source} does not have: "
            f"{first_few(unknown)}; give the same classes the same names in both"
        )
    return with_classes(validation, dataset.class_names, dataset.category_ids)


def open_data(data: str | Path, run: Checkpoint, output: Path) -> tuple[Dataset, Dataset | None]:
    """Open the pictures to train on, and those to validate on unless the run never evaluates.

    Where the data have no validation pictures, some are held back (see `draw_validation`). ``split.json`` in
    `output` keeps their ids: a training that is resumed reads it. Raises as `read_data` does.
    """
    evaluates = run.settings.logging.eval_every != 0
    dataset, validation = read_data(data, annotation_kinds(run.trained))
    if validation or not evaluates:
        return dataset, validation if evaluates else None
    file = output / SPLIT
    if not file.exists():
        held_back = draw_validation(dataset, run.settings.seed)
        write_json(file, {"validation": dataset.image_ids[held_back].tolist()})
        held = f"{len(held_back)} of {len(dataset)} are held back ({file})"
        print(f"{data} has no validation pictures: {held}{folds_hint(len(dataset))}", flush=True)
    training, validation = split_as_kept(dataset, file)
    return training, validation if len(validation) else None


def folds_hint(pictures: int) -> str:
    """Return a line that suggests cross-validation where so few pictures have no validation split."""
    if not 2 <= pictures < _FEW:
        return ""
    return (
        f"\n{pictures} pictures are few: --folds {min(5, pictures)} validates on each of them once, and "
        "trains the final network on all"
    )


def split_as_kept(dataset: Dataset, file: Path) -> tuple[Subset, Subset]:
    """Return the training and the validation pictures of `dataset`, as ``split.json`` has them.

    Raises ValueError where the file names pictures that the data set does not have.
    """
    try:
        listed = read_json(file)["validation"]
        if not all(type(id_) is int for id_ in listed):
            raise TypeError("the ids of pictures must be whole numbers")
        ids = np.array(listed, np.int64)
    except (KeyError, TypeError, OverflowError) as error:
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
    dataset = with_usable_pictures(read_whole(data, annotation_kinds(trained)))
    training, validation = split_as_kept(dataset, file)
    return training if split == "train" else validation


def open_split(data: str | Path, split: Split, trained: ModelCheckpoint) -> Dataset:
    """Open a split of the annotations that the network learns from, with the network's classes."""
    dataset = with_usable_pictures(read_split(data, split, annotation_kinds(trained)))
    return with_classes(dataset, trained.class_names, trained.category_ids)


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


def check_data(run: Checkpoint, dataset: Dataset) -> None:
    """Raise Faults where the network and the data do not fit each other."""
    faults = []
    known = dict(zip(run.trained.category_ids, run.trained.class_names, strict=True))
    categories = dict(zip(dataset.category_ids, dataset.class_names, strict=True))
    differing = sorted({id_ for id_, _ in known.items() ^ categories.items()})
    if differing:
        pairs = [f"{id_}: {_name(known, id_)}, now {_name(categories, id_)}" for id_ in differing]
        faults.append(
            f"{dataset.source}: its categories are not those of the training: {first_few(pairs)}; restore "
            "them, or start a training with another --output"
        )
    branch = run.trained.options.keypoints
    predicted, labelled = branch.count if branch else 0, len(dataset.keypoint_names)
    if predicted not in (0, labelled):
        faults.append(
            f"the network predicts {predicted} keypoints, but {dataset.source} has {labelled}: choose "
            f"{f'--set keypoints.count={labelled}' if labelled else 'a recipe without keypoints'}"
        )
    if faults:
        raise Faults(faults)


def _name(categories: Mapping[int, str], id_: int) -> str:
    return f"'{categories[id_]}'" if id_ in categories else "none"
