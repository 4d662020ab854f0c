"""Loading for training: pictures per second and core, stage by stage.

The stages are timed in one process with one thread: decoding (of a large JPEG at a reduced size, and for
comparison at its whole size), resizing, the transforms, the conversion of the objects to the network's input
with their masks as crops, and the batch. Then the loader as `maskrcnn train` runs it, without workers and
with some. `--set` changes the settings of the training, as there.

python benchmarks/loader.py DATA [--set short_sides=1024 jitter=0.2,0.2,0.2] [--json FILE]
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import contest
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from maskrcnn.data.batch import collate
from maskrcnn.data.dataset import Dataset
from maskrcnn.data.folder import read_split
from maskrcnn.data.loader import training_batches
from maskrcnn.data.pictures import read_picture, read_to_resize
from maskrcnn.data.prepare import Resize
from maskrcnn.data.targets import to_network
from maskrcnn.data.transforms import Transform, resized
from maskrcnn.plain import options_of, parse_assignments, with_values
from maskrcnn.training.batches import augmented
from maskrcnn.training.settings import Settings

STRIDE = 32
Seconds = dict[str, float]


def main() -> None:
    arguments = parse()
    torch.set_num_threads(1)
    settings = with_values(Settings(), parse_assignments(arguments.set, options_of(Settings())))
    dataset = read_split(arguments.data, "train")
    count = min(arguments.pictures, len(dataset))
    data = augmented(dataset, settings)

    passes = [
        load_once(dataset, count, data.resize, data.transform, settings.step.batch_size)
        for _ in range(1 + arguments.repeats)
    ]
    rates = {stage: count / statistics.median(spent[stage] for spent in passes[1:]) for stage in passes[0]}
    for workers in (0, arguments.workers):
        batches = training_batches(
            data,
            batch_size=settings.step.batch_size,
            stride=STRIDE,
            workers=workers,
            seed=0,
        )
        next(batches)  # starts the workers
        title = f"loader, {workers} workers" if workers else "loader, no workers"
        rates[title] = (
            settings.step.batch_size
            * arguments.repeats
            / seconds(lambda b=batches: drain(b, arguments.repeats))
        )
    show(rates, count, arguments.data)
    changed = {"settings": arguments.set, "data": arguments.data.name, "pictures": count}
    figures = {name: round(rate, 2) for name, rate in rates.items()}
    contest.write(arguments.json, {**changed, "pictures_per_second": figures})


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="pictures per second and core that are loaded for training")
    parser.add_argument("data", type=Path, help="folder in COCO layout")
    parser.add_argument("--set", nargs="*", default=[], metavar="FIELD=VALUE", help="as in maskrcnn train")
    parser.add_argument("--pictures", type=int, default=64, help="number of pictures (default: 64)")
    parser.add_argument(
        "--repeats",
        type=int,
        default=5,
        help="timed passes over the pictures, and timed batches of the loader (default: 5)",
    )
    parser.add_argument("--workers", type=int, default=2, help="of the loader (default: 2)")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    return parser.parse_args()


def load_once(dataset: Dataset, count: int, resize: Resize, transform: Transform, batch_size: int) -> Seconds:
    """Load `count` pictures once; return the seconds of each stage for all of them together."""
    spent: Seconds = {}
    ready = []
    for index in range(count):
        path, generator = dataset.path(index), np.random.default_rng(index)
        with clock(spent, "decode, whole size"):
            read_picture(path)
        with clock(spent, "decode"):
            picture = read_to_resize(path, lambda size_hw, draws=generator: resize(size_hw, draws))
        objects = dataset.objects(index)
        with clock(spent, "resize"):
            sample = resized(picture, objects, dataset.keypoint_flip)
        with clock(spent, "crop, flip, jitter"):
            sample = transform(sample, generator)
        with clock(spent, "cut masks"):
            ready.append(to_network(sample))
        if len(ready) == batch_size or index == count - 1:
            with clock(spent, "collate"):
                collate(ready, STRIDE)
            ready = []
    spent["all stages"] = sum(spent.values()) - spent["decode, whole size"]
    return spent


@contextmanager
def clock(spent: Seconds, stage: str) -> Iterator[None]:
    """Add the duration of the block to the seconds of its stage."""
    start = time.perf_counter()
    yield
    spent[stage] = spent.get(stage, 0.0) + time.perf_counter() - start


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def drain(batches: Iterator, count: int) -> None:
    for _ in islice(batches, count):
        pass


def show(rates: dict[str, float], count: int, data: Path) -> None:
    table = Table("stage", "pictures / s", "ms a picture", title=f"{count} pictures of {data.name}")
    for name, rate in rates.items():
        table.add_row(name, f"{rate:.1f}", f"{1000 / rate:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
