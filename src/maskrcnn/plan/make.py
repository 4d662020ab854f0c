"""Composes a plan: looks at the data, the machine and the initial weights, and applies the rules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

from maskrcnn import recipes
from maskrcnn.bench.timing import memory_in_use
from maskrcnn.data.dataset import Dataset
from maskrcnn.data.folder import read_whole
from maskrcnn.device import resolve_device
from maskrcnn.plain import options_of, parse_value, with_values
from maskrcnn.plan.fingerprint import Fingerprint, fingerprint
from maskrcnn.plan.machine import Machine, probe_machine, step_seconds
from maskrcnn.plan.memory import StepMemory, sizes_to_try, step_measure, trial_run, try_batches
from maskrcnn.plan.rules import Plan, Wish, batch_goal, plan
from maskrcnn.plan.write import read_plan
from maskrcnn.training.settings import Settings
from maskrcnn.training.setup import check_objects
from maskrcnn.training.step import make_train_state
from maskrcnn.weights.infer import body_recipe
from maskrcnn.weights.init import InitialWeights, read_initial_weights

BY_USER = "set by --set"


class Planned(NamedTuple):
    """A plan, and what it was made from."""

    plan: Plan
    fingerprint: Fingerprint
    dataset: Dataset

    @property
    def settings(self) -> Settings:
        """The settings of the training. Raises ValueError for one that makes no sense."""
        return with_values(Settings(), self.plan.values(options_of(Settings())))

    @property
    def recipe_arguments(self) -> dict[str, Any]:
        """The options of the recipe."""
        return self.plan.values([line.name for line in self.plan.lines if line.name in recipes.all_options()])


def make_plan(
    data: str | Path,
    *,
    minutes: float | None = None,
    recipe: str | None = None,
    init: str | Path | None = None,
    device: str = "auto",
    values: Mapping[str, Any] | None = None,
) -> Planned:
    """Plan a training on a data set; `values` replace lines of the plan, by their dotted names.

    Raises ValueError and FileNotFoundError for data, weights, a recipe or a time that cannot be used.
    """
    if minutes is not None and not minutes > 0:
        raise ValueError(f"--minutes must be more than 0, not {minutes:g}")
    if recipe:
        recipes.options_of_recipe(recipe)
    dataset = read_whole(data)
    wish = Wish(minutes=minutes, recipe=recipe)
    origin = read_initial_weights(init) if init else None
    if origin:
        wish = replace(wish, start="detector" if origin.recipe else "backbone")
        if not origin.recipe and not recipe:
            wish = replace(wish, recipe=body_recipe(origin.weights))
    check_objects(dataset)
    about = fingerprint(dataset)

    def planned(machine: Machine) -> Planned:
        made = plan(about, machine, wish)
        if made.recipe:  # lines about parts that the recipe does not have fall away
            known = {*options_of(Settings()), *options_of(recipes.options_of_recipe(made.recipe))}
            made = replace(made, lines=tuple(line for line in made.lines if line.name in known))
        return Planned(made.replaced(values or {}, BY_USER), about, dataset)

    machine = probe_machine(device)
    return planned(with_step_memory(machine, planned(machine), origin))


def with_step_memory(machine: Machine, planned: Planned, origin: InitialWeights | None) -> Machine:
    """Return the machine with the memory that steps of a plan take on it, measured; `origin` brings options.

    Steps with recomputed activations are measured only where 2 pictures do not fit without. On a CPU, where
    steps take seconds, two sizes of a batch are enough.
    """
    recipe = planned.plan.recipe or (origin.recipe if origin else None)
    device = resolve_device(machine.device)
    held, free = memory_in_use(device), machine.memory
    if recipe is None or held is None or free is None:
        return machine
    goal = batch_goal(planned.fingerprint.pictures, device.type == "cuda")
    sizes = [1, goal] if device.type == "cpu" else sizes_to_try(goal)
    objects = int(planned.fingerprint.objects.in_a_picture[-1])

    def tried(settings: Settings) -> StepMemory:
        run = trial_run(planned.dataset, settings, recipe, planned.recipe_arguments, origin)
        state = make_train_state(run, device)  # beside `run`, as in a training
        measure = step_measure(state, planned.dataset, objects, settings)
        return try_batches(measure, sizes, held, free)

    plain, recomputed = tried(planned.settings), None
    if plain.largest(free) < 2 and not planned.settings.step.compiled:
        recomputed = tried(planned.settings.replaced(recompute=True))
    return replace(machine, step_memory=plain, recomputed_memory=recomputed)


def plan_from_file(data: str | Path, path: Path, values: Mapping[str, Any]) -> Planned:
    """Read a plan that `write_plan` wrote and a user may have edited; `values` are as in `make_plan`.

    Raises ValueError, naming the file, for names and values that do not exist.
    """
    recipe, texts = read_plan(path)
    known = {**options_of(Settings()), **recipes.all_options()}
    lines: dict[str, Any] = {}
    for name, (text, _) in texts.items():
        if name not in known:
            raise ValueError(f"{path}: there is no setting {name!r}")
        try:
            lines[name] = parse_value(text, known[name].kind)
        except ValueError as error:
            raise ValueError(f"{path}: {name}: {error}") from None
    made = Plan(recipe, ())
    for name, value in lines.items():
        made = made.replaced({name: value}, texts[name][1])
    dataset = read_whole(data)
    return Planned(made.replaced(values, BY_USER), fingerprint(dataset), dataset)


def describe_length(planned: Planned, device: str) -> str:
    """Return in one line how long the training takes here; the time of a step is measured."""
    settings = planned.settings
    steps, minutes = settings.length.steps, settings.length.time_limit
    if steps is None or minutes is not None:
        return f"the training takes {minutes:g} minutes, and an evaluation at the end"
    if planned.plan.recipe is None:
        return f"the training takes {steps:,} steps"
    seconds = step_seconds(planned.dataset, settings, planned.plan.recipe, planned.recipe_arguments, device)
    total = timedelta(seconds=round(seconds * steps))
    return (
        f"the training takes about {total} here: {steps:,} steps of {seconds:.2f} s; "
        "--minutes T plans for another time"
    )
