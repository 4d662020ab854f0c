"""What stands before the first step of a training: its data, and its checkpoint, new or as it was left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from maskrcnn import recipes
from maskrcnn.data import transforms
from maskrcnn.data.folder import Split, find_split
from maskrcnn.data.readers.coco import CocoDataset
from maskrcnn.network.model import MaskRCNN
from maskrcnn.training.checkpoint import Checkpoint, load
from maskrcnn.training.settings import Settings
from maskrcnn.weights.init import Origin, init_from, read_origin
from maskrcnn.weights.model_checkpoint import ModelCheckpoint
from maskrcnn.weights.transplant import account, origins, transplanted

DEFAULT_RECIPE = "resnet50_fpn"
_BRANCHES = ("masks", "keypoints")


def new_run(
    output: Path, recipe: str | None, recipe_arguments: Mapping[str, Any], settings: Settings | None
) -> Checkpoint:
    """Return a training at step 0 that has neither classes nor weights yet, nor a recipe unless it is named.

    Raises ValueError for an unknown recipe, and where `output` holds a training that would be lost.
    """
    if (output / "last.pt").exists():
        raise ValueError(f"{output} holds a training: go on with it by --resume, or choose another --output")
    settings = settings or Settings()
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
    output: Path, recipe: str | None, recipe_arguments: Mapping[str, Any], settings: Settings | None
) -> Checkpoint:
    """Return the training that `output` holds; ValueError where it is asked to become another network."""
    run = load(output / "last.pt")
    trained, settings = run.trained, settings or run.settings
    other = {name for name, value in recipe_arguments.items() if trained.arguments.get(name) != value}
    if recipe not in (None, trained.recipe) or other:
        raise ValueError(
            f"{output / 'last.pt'} is a training of {trained.recipe}, arguments {trained.arguments}, and "
            "goes on as such: choose another --output for another network"
        )
    short_side, long_side = settings.pictures.test_sides
    return replace(
        run, trained=replace(trained, short_side=short_side, long_side=long_side), settings=settings
    )


def open_data(data: str | Path, run: Checkpoint) -> tuple[CocoDataset, CocoDataset | None]:
    """Open the pictures to train on, and those to evaluate on, where there are any and it is asked for."""
    dataset = open_split(data, "train", run.trained)
    try:
        find_split(data, "val")
    except FileNotFoundError:
        return dataset, None
    validation = open_split(data, "val", run.trained)
    return dataset, validation if run.settings.logging.eval_every != 0 else None


def open_split(data: str | Path, split: Split, trained: ModelCheckpoint) -> CocoDataset:
    """Open a split: from the file with keypoints, if there is one apart, where the network has keypoints."""
    has_keypoints = trained.recipe.endswith("_keypoint") or bool(trained.arguments.get("keypoints"))
    kinds = ("person_keypoints", "instances") if has_keypoints else ("instances", "person_keypoints")
    return CocoDataset(*find_split(data, split, kinds))


def with_initial_weights(
    run: Checkpoint, dataset: CocoDataset, init: str | Path | None, synonyms: Mapping[str, str]
) -> Checkpoint:
    """Give a new training its classes, and its weights, drawn by its seed or from a file.

    What the file's network knows of a class goes to our class of the same name, or of its synonym. Raises
    ValueError where weights come too late, and as `read_origin` and `init_from` do.
    """
    if run.trained.weights and init:
        raise ValueError(f"--init {init}: the training has its weights already, for it goes on by --resume")
    if run.trained.weights:
        return run
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
        print(f"{init}\n{started(model, trained.class_names, origin, synonyms)}", flush=True)
    return replace(run, trained=replace(trained, weights=model.state_dict()))


def started(model: MaskRCNN, class_names: Sequence[str], origin: Origin, synonyms: Mapping[str, str]) -> str:
    """Copy into `model` what fits of `origin`; return what became of each class and of each part."""
    if not origin.recipe:
        return str(init_from(model, origin.weights))
    taken = origins(class_names, origin.class_names, synonyms)
    weights = transplanted(origin.weights, origin.class_names, model.state_dict(), taken)
    return f"{init_from(model, weights)}\n{account(taken)}"


def recipe_arguments(trained: ModelCheckpoint, keypoints: int, origin: Origin | None) -> dict[str, Any]:
    """Return the recipe's arguments, with those that nobody chose made to fit the start and the data.

    Statistics that were never learnt must not be frozen: from scratch, norms learn (He et al. 2019,
    "Rethinking ImageNet Pre-training"). Weights bring the arguments that they were trained with, but not
    their branches, where a recipe was chosen. Keypoints that the data set has are learnt.
    """
    start = origin.arguments if origin else {"norm": "group", "head_norm": "group"}
    if trained.recipe:
        start = {name: value for name, value in start.items() if name not in _BRANCHES}
    has_form = trained.recipe.endswith(tuple(recipes.FORMS))
    branch = {"keypoints": keypoints} if keypoints and not has_form else {}
    return {**start, **branch, **trained.arguments}


def check_data(
    run: Checkpoint, model: MaskRCNN, dataset: CocoDataset, validation: CocoDataset | None
) -> None:
    """Raise ValueError where network and data do not fit, before anything has taken time."""
    if not len(dataset):
        raise ValueError(f"{dataset.annotation_file}: there are no pictures to train on")
    known = dict(zip(run.trained.category_ids, run.trained.class_names, strict=True))
    for part in (dataset, validation) if validation else (dataset,):
        categories = dict(zip(part.category_ids, part.class_names, strict=True))
        if not categories.items() <= known.items() or (part is dataset and categories != known):
            raise ValueError(
                f"{part.annotation_file}: its categories are {categories}, but the training's are {known}"
            )
    heatmaps = model.keypoint_branch.deconv.out_channels if model.keypoint_branch else 0
    keypoints = len(dataset.keypoint_names)
    if heatmaps not in (0, keypoints):
        raise ValueError(
            f"the network finds {heatmaps} keypoints, but {dataset.annotation_file} has {keypoints}: choose "
            f"{f'--set recipe.keypoints={keypoints}' if keypoints else 'a recipe without keypoints'}"
        )


def sizes(settings: Settings) -> transforms.Resize:
    """Return how large a picture is on its way to the network."""
    resize = transforms.resize(settings.pictures.short_sides, settings.pictures.long_side)
    return (
        transforms.random_scale(resize, *settings.augmentation.scale)
        if settings.augmentation.scale
        else resize
    )


def augmentation(settings: Settings) -> transforms.Transform:
    """Return what happens to a picture of that size."""
    return transforms.compose(
        *((transforms.crop(settings.augmentation.crop),) if settings.augmentation.crop else ()),
        transforms.flip_horizontal(settings.augmentation.flip_horizontal),
        transforms.flip_vertical(settings.augmentation.flip_vertical),
        *((transforms.colour_jitter(*settings.augmentation.jitter),) if settings.augmentation.jitter else ()),
    )


def step_seed(seed: int, number: int, rank: int = 0) -> int:
    """Return the seed of stream `number` of a training's random numbers: 0 for its weights, n for step n.

    Of several processes each draws its own: `rank` is the process's number.
    """
    return int(np.random.SeedSequence((seed, number) + (rank,) * (rank > 0)).generate_state(1)[0])
