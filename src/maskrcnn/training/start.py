"""What stands before the first step of a training: its data, and its checkpoint, new or as it was left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from maskrcnn import recipes
from maskrcnn.data import transforms
from maskrcnn.data.coco import CocoDataset
from maskrcnn.data.folder import Split, find_split
from maskrcnn.network.model import MaskRCNN
from maskrcnn.training.checkpoint import Checkpoint, load
from maskrcnn.training.settings import Settings
from maskrcnn.weights.files import read_state_dict
from maskrcnn.weights.init import init_from
from maskrcnn.weights.names import to_ours


def planned(
    output: Path, recipe: str | None, recipe_arguments: Mapping[str, Any], settings: Settings | None
) -> Checkpoint:
    """Return a training at step 0 that has neither classes nor weights yet.

    Raises ValueError for an unknown recipe, and where `output` holds a training that would be lost.
    """
    if (output / "last.pt").exists():
        raise ValueError(f"{output} holds a training: go on with it by --resume, or choose another --output")
    name = recipe or "resnet50_fpn"
    recipes.find(name)
    return Checkpoint(
        recipe=name,
        recipe_arguments=dict(recipe_arguments),
        class_names=(),
        category_ids=(),
        keypoint_names=(),
        skeleton=(),
        settings=settings or Settings(),
        model={},
        optimiser={},
        scaler={},
        step=0,
        elapsed=0.0,
        metrics={},
        best_ap=-1.0,
    )


def continued(
    output: Path, recipe: str | None, recipe_arguments: Mapping[str, Any], settings: Settings | None
) -> Checkpoint:
    """Return the training that `output` holds; ValueError where it is asked to become another network."""
    run = load(output / "last.pt")
    other = {name for name, value in recipe_arguments.items() if run.recipe_arguments.get(name) != value}
    if recipe not in (None, run.recipe) or other:
        raise ValueError(
            f"{output / 'last.pt'} is a training of {run.recipe}, arguments {run.recipe_arguments}, and "
            "goes on as such: choose another --output for another network"
        )
    return replace(run, settings=settings or run.settings)


def open_data(data: str | Path, run: Checkpoint) -> tuple[CocoDataset, CocoDataset | None]:
    """Open the pictures to train on, and those to evaluate on where there are any."""
    dataset = open_split(data, "train", run)
    try:
        find_split(data, "val")
    except FileNotFoundError:
        return dataset, None
    return dataset, open_split(data, "val", run)


def open_split(data: str | Path, split: Split, run: Checkpoint) -> CocoDataset:
    """Open a split: from the file with keypoints, if there is one apart, where the network has keypoints."""
    has_keypoints = run.recipe.endswith("_keypoint") or bool(run.recipe_arguments.get("keypoints"))
    kinds = ("person_keypoints", "instances") if has_keypoints else ("instances", "person_keypoints")
    return CocoDataset(*find_split(data, split, kinds))


def initialised(run: Checkpoint, dataset: CocoDataset, init: str | Path | None) -> Checkpoint:
    """Give a new training its classes, and its weights, drawn by its seed or from a file.

    Raises ValueError where weights come too late, and as `read_state_dict` and `init_from` do.
    """
    if run.model and init:
        raise ValueError(f"--init {init}: the training has its weights already, for it goes on by --resume")
    if run.model:
        return run
    run = replace(run, recipe_arguments=fitting(run, len(dataset.keypoint_names), init))
    torch.manual_seed(stream(run.settings.seed, 0))
    model = recipes.find(run.recipe)(len(dataset.class_names), **run.recipe_arguments)
    if init:
        print(f"{init}\n{init_from(model, to_ours(read_state_dict(init)))}", flush=True)
    return replace(
        run,
        class_names=dataset.class_names,
        category_ids=dataset.category_ids,
        keypoint_names=dataset.keypoint_names,
        skeleton=dataset.skeleton,
        model=model.state_dict(),
    )


def fitting(run: Checkpoint, keypoints: int, init: str | Path | None) -> dict[str, Any]:
    """Return the recipe's arguments, with those that nobody chose made to fit the start and the data.

    Statistics that were never learnt must not be frozen: from scratch, norms learn (He et al. 2019,
    "Rethinking ImageNet Pre-training"). A training of ours passes its own arguments on with its weights.
    Keypoints that the data set has are learnt.
    """
    start = _arguments_of(init) if init else {"norm": "group", "head_norm": "group"}
    has_form = run.recipe.endswith(tuple(recipes.FORMS))
    branch = {"keypoints": keypoints} if keypoints and not has_form else {}
    return {**start, **branch, **run.recipe_arguments}


def _arguments_of(init: str | Path) -> dict[str, Any]:
    try:
        return load(init).recipe_arguments
    except ValueError:  # weights of other origin
        return {}


def check_data(
    run: Checkpoint, model: MaskRCNN, dataset: CocoDataset, validation: CocoDataset | None
) -> None:
    """Raise ValueError where network and data do not fit, before anything has taken time."""
    if not len(dataset):
        raise ValueError(f"{dataset.annotation_file}: there are no pictures to train on")
    known = dict(zip(run.category_ids, run.class_names, strict=True))
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


def augmentation(settings: Settings) -> transforms.Transform:
    """Return what happens to a picture on its way to the network."""
    steps = [transforms.resize(settings.short_sides, settings.long_side)]
    if settings.scale:
        steps.append(transforms.random_scale(*settings.scale))
    if settings.crop:
        steps.append(transforms.crop(settings.crop))
    steps.append(transforms.flip_horizontal(settings.flip_horizontal))
    steps.append(transforms.flip_vertical(settings.flip_vertical))
    if settings.jitter:
        steps.append(transforms.colour_jitter(*settings.jitter))
    return transforms.compose(*steps)


def stream(seed: int, number: int) -> int:
    """Return the seed of stream `number` of a training's random numbers: 0 for its weights, n for step n."""
    return int(np.random.SeedSequence((seed, number)).generate_state(1)[0])
