"""Composes a plan: looks at the data, the machine and the initial weights, and applies the rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from maskrcnn import recipes
from maskrcnn.bench.timing import memory_in_use
from maskrcnn.data.dataset import Dataset
from maskrcnn.device import resolve_device
from maskrcnn.files import cache_folder
from maskrcnn.plain import options_of, parse_value, with_values
from maskrcnn.plan.fingerprint import Fingerprint, fingerprint
from maskrcnn.plan.lines import Line, Plan, Wish
from maskrcnn.plan.machine import Machine, probe_machine, step_seconds, trial_run
from maskrcnn.plan.memory import StepMemory, sizes_to_try, step_measure, try_batches
from maskrcnn.plan.rules import batch_goal, plan
from maskrcnn.plan.start import INIT, Available, candidates, choose_start
from maskrcnn.plan.view import least_passes
from maskrcnn.plan.write import FILE, plan_table, read_plan, write_plan
from maskrcnn.training.checkpoint import Checkpoint
from maskrcnn.training.loop import train_run
from maskrcnn.training.settings import Settings
from maskrcnn.training.setup import new_run, read_data
from maskrcnn.training.step import make_train_state
from maskrcnn.weights.download import fetch, is_cached, why_unreachable
from maskrcnn.weights.infer import body_recipe
from maskrcnn.weights.init import InitialWeights, read_initial_weights
from maskrcnn.weights.published import Published, find_published

BY_USER = "set by --set"
_OF_WEIGHTS = {"recipe": str | None, INIT: str | None}  # lines beside settings and options


class Planned(NamedTuple):
    """A plan, and what it was made from."""

    plan: Plan
    fingerprint: Fingerprint
    dataset: Dataset
    data: str | Path  # folder of the data set
    device: str = "auto"
    origin: InitialWeights | None = None  # what the initial weights bring, without themselves
    step_seconds: float | None = None  # where the plan needed it

    @property
    def settings(self) -> Settings:
        """The settings of the training. Raises ValueError for one that makes no sense."""
        return with_values(Settings(), self.plan.values(options_of(Settings())))

    @property
    def recipe_arguments(self) -> dict[str, Any]:
        """The options of the recipe."""
        return self.plan.values([line.name for line in self.plan.lines if line.name in recipes.all_options()])

    def table(self) -> str:
        """Return the plan as text: a setting, its value and its reason a line."""
        console = Console()
        with console.capture() as capture:
            console.print(plan_table(self.plan))
        return capture.get()

    def write(self, output: Path) -> None:
        """Write ``plan.json`` into a folder."""
        output.mkdir(parents=True, exist_ok=True)
        write_plan(output / FILE, self.plan, self.fingerprint)

    def train(self, output: str | Path = "runs/train", *, synonyms: Mapping[str, str] | None = None) -> Path:
        """Train by the plan, which `output` and its checkpoints keep; the rest is as in `maskrcnn.train`."""
        output = Path(output)

        def run() -> Checkpoint:
            new = new_run(output, self.plan.recipe, self.recipe_arguments, self.settings)
            self.write(output)
            return replace(new, plan=self.plan.texts())

        return train_run(
            self.data, run, output=output, init=self.plan.init, synonyms=synonyms or {}, device=self.device
        )


def make_plan(
    data: str | Path,
    *,
    minutes: float | None = None,
    recipe: str | None = None,
    init: str | Path | None = "auto",
    device: str = "auto",
    values: Mapping[str, Any] | None = None,
    reach: Callable[[Published], str] = why_unreachable,
) -> Planned:
    """Plan a training on a data set, from its pictures, this machine and the minutes that there are.

    ::

        plan = maskrcnn.make_plan("data", minutes=15)
        print(plan.table())
        weights = plan.train("runs/mine")
        result = maskrcnn.load(weights).predict("picture.jpg")

    `init` is "auto" (published weights that suit, where they are on this machine or can be downloaded), None
    (drawn weights), a file, or a published name. `values` replace lines of the plan, by their dotted names.
    `reach` returns why a published file cannot be downloaded, or "".

    Raises ValueError and FileNotFoundError for data, weights, a recipe or a time that cannot be used.
    """
    if minutes is not None and not minutes > 0:
        raise ValueError(f"--minutes must be more than 0, not {minutes:g}")
    if recipe:
        recipes.options_of_recipe(recipe)
    wish, origin = Wish(minutes=minutes, recipe=recipe), None
    if init != "auto":
        wish, origin = _start_as_asked(wish, init)
    dataset, _ = read_data(data)
    about, machine = fingerprint(dataset), probe_machine(device)
    if init == "auto":
        suiting = candidates(about, machine, wish)
        wish, origin = choose_start(wish, suiting, look_for(suiting.names, reach))

    def planned(machine: Machine) -> Planned:
        made = _fitting(plan(about, machine, wish))
        if recipe:
            made = made.replaced({"recipe": recipe}, "set by --recipe")
        return Planned(made.replaced(values or {}, BY_USER), about, dataset, data, device, origin)

    machine = with_step_memory(machine, planned(machine))
    first = planned(machine)
    if minutes is None or (seconds := _measure(first)) is None:
        return first
    second = planned(replace(machine, picture_seconds=seconds / first.settings.step.pictures))
    return second._replace(step_seconds=seconds if second.plan == first.plan else _measure(second))


def look_for(names: tuple[str, ...], reach: Callable[[Published], str]) -> Available:
    """Return which of the published weights can be had; `reach` is asked once, where the best is not here."""
    entries = [find_published(name) for name in names]
    obstacle = reach(entries[0]) if entries and not is_cached(entries[0]) else ""
    cached = frozenset(entry.name for entry in entries if is_cached(entry))
    return Available(cached, obstacle, str(cache_folder()))


def download(published: Published) -> str:
    """Download a published file; return why that cannot be done, or ""."""
    if obstacle := why_unreachable(published):
        return obstacle
    try:
        fetch(published)
    except ValueError as error:
        return str(error)
    return ""


def _start_as_asked(wish: Wish, init: str | Path | None) -> tuple[Wish, InitialWeights | None]:
    """Return the wish with the weights that a user chose, and what they bring, without the weights."""
    if init is None:
        return replace(wish, init=Line(INIT, None, "drawn weights, as asked for")), None
    origin = read_initial_weights(init)
    wish = replace(wish, init=Line(INIT, str(init), "as asked for"))
    if origin.recipe:
        return replace(wish, start="detector"), origin._replace(weights={})
    recipe = wish.recipe or body_recipe(origin.weights)
    return replace(wish, start="backbone", recipe=recipe), origin._replace(weights={})


def _fitting(made: Plan) -> Plan:
    """Return the plan without the lines about parts that its recipe does not have."""
    if not made.recipe:
        return made
    known = {*_OF_WEIGHTS, *options_of(Settings()), *options_of(recipes.options_of_recipe(made.recipe))}
    return Plan(tuple(line for line in made.lines if line.name in known))


def with_step_memory(machine: Machine, planned: Planned) -> Machine:
    """Return the machine with the memory that steps of a plan take on it, measured.

    Steps with recomputed activations are measured only where 2 pictures do not fit without. On a CPU, where
    steps take seconds, two sizes of a batch are enough.
    """
    device = resolve_device(machine.device)
    held, free = memory_in_use(device), machine.memory
    if held is None or free is None:
        return machine
    goal = batch_goal(planned.fingerprint.pictures, device.type == "cuda")
    sizes = [1, goal] if device.type == "cpu" else sizes_to_try(goal)
    objects = int(planned.fingerprint.objects.in_a_picture[-1])

    def tried(settings: Settings) -> StepMemory | None:
        if (run := _trial(planned, settings)) is None:
            return None
        state = make_train_state(run, device)  # beside `run`, as in a training
        return try_batches(step_measure(state, planned.dataset, objects, settings), sizes, held, free)

    plain, recomputed = tried(planned.settings), None
    if plain and plain.largest(free) < 2 and not planned.settings.step.compiled:
        recomputed = tried(planned.settings.replaced(recompute=True))
    return replace(machine, step_memory=plain, recomputed_memory=recomputed)


def _measure(planned: Planned) -> float | None:
    """Return the seconds of a step; None where the plan does not know the recipe."""
    if (run := _trial(planned, planned.settings)) is None:
        return None
    state = make_train_state(run, resolve_device(planned.device))
    return step_seconds(state, planned.dataset, planned.settings)


def _trial(planned: Planned, settings: Settings) -> Checkpoint | None:
    """Return a training at its beginning; None where the plan does not know the recipe."""
    origin = planned.origin
    recipe = planned.plan.recipe or (origin.recipe if origin else None)
    if recipe is None:
        return None
    return trial_run(planned.dataset, settings, recipe, planned.recipe_arguments, origin)


def plan_from_file(data: str | Path, path: Path, values: Mapping[str, Any], device: str = "auto") -> Planned:
    """Read a plan that `write_plan` wrote and a user may have edited; `values` are as in `make_plan`.

    Raises ValueError, naming the file, for names and values that do not exist.
    """
    texts = read_plan(path)
    settings = {**options_of(Settings()), **recipes.all_options()}
    kinds = {name: option.kind for name, option in settings.items()} | _OF_WEIGHTS
    lines = []
    for name, (text, reason) in texts.items():
        if name not in kinds:
            raise ValueError(f"{path}: there is no setting {name!r}")
        try:
            lines.append(Line(name, parse_value(text, kinds[name]), reason))
            if name == "recipe" and lines[-1].value:
                recipes.options_of_recipe(lines[-1].value)
        except ValueError as error:
            raise ValueError(f"{path}: {name}: {error}") from None
    dataset, _ = read_data(data)
    made = Plan(tuple(lines)).replaced(values, BY_USER)
    return Planned(made, fingerprint(dataset), dataset, data, device)


def describe_length(planned: Planned) -> str:
    """Return in one line how long the training takes here; the time of a step is measured."""
    settings = planned.settings
    steps, minutes = settings.length.steps, settings.length.time_limit
    seconds = planned.step_seconds or (None if minutes else _measure(planned))
    if seconds is None:
        return f"the training takes {f'{minutes:g} minutes' if minutes else f'{steps:,} steps'}"
    if minutes:
        in_time = max(1, round(60 * minutes / seconds))
        steps = min(steps or in_time, in_time)
    assert steps
    passes = steps * settings.step.pictures / len(planned.dataset)
    about = f"{steps:,} steps of {seconds:.2f} s, {passes:.1f} passes over {len(planned.dataset):,} pictures"
    if minutes:
        least = least_passes(from_scratch=planned.plan.init is None)
        advice = "" if passes >= least else f"; {least} passes or more would be better"
        evaluations = "an evaluation" if settings.optimiser.ema is None else "two evaluations"
        return f"the training takes {minutes:g} minutes, and {evaluations} at the end: about {about}{advice}"
    return (
        f"the training takes about {timedelta(seconds=round(seconds * steps))} here: {about}; "
        "--minutes T plans for another time"
    )
