"""Mutated files of every kind that is read: each is read in a process of its own, and must end well."""

from __future__ import annotations

import importlib.util
import pickle
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from isolated import End, isolated
from mutations import mutate_bytes, mutate_json
from PIL import Image

from maskrcnn.data.doctor.check import check
from maskrcnn.data.folder import read_split, read_whole
from maskrcnn.data.pictures import read_picture
from maskrcnn.data.synthetic import synthetic_dataset, synthetic_picture
from maskrcnn.evaluation.coco import coco_metrics
from maskrcnn.export.run import FORMATS, export
from maskrcnn.plan.make import make_plan, plan_from_file
from maskrcnn.plan.write import write_plan
from maskrcnn.predict.journal import Journal
from maskrcnn.runtimes.read import read_exported
from maskrcnn.training.checkpoint import load
from maskrcnn.training.loop import train
from maskrcnn.training.settings import Settings
from maskrcnn.training.setup import split_as_kept
from maskrcnn.weights.files import read_checkpoint
from maskrcnn.weights.model_checkpoint import read_model

_NETWORK = {"pyramid.channels": 8, "masks.channels": 8, "boxes.hidden": 8, "body.norm": "group"}


class Kind(NamedTuple):
    """A file to damage, how, and what reads the folder that it lies in."""

    name: str
    file: Path
    mutate: Callable[[bytes, random.Random], bytes]
    read: Callable[[Path], object]  # gets the damaged file


class Tried(NamedTuple):
    """How the mutations of one kind of file ended, and a line for each fault."""

    kind: str
    ends: Counter[str]
    faults: list[str]


def try_files(folder: Path, count: int, seed: int) -> Iterator[Tried]:
    """Read `count` mutated files in all; those that end badly are kept in the folder ``faults``."""
    torch.set_num_threads(1)  # the forks must not wait for threads that they do not have
    kinds = list(kinds_of_files(folder))
    for kind in kinds:
        tried = Tried(kind.name, Counter(), [])
        for number in range(-(-count // len(kinds))):
            damaged = kind.mutate(kind.file.read_bytes(), random.Random(f"{seed} {kind.name} {number}"))
            end = _read(kind, damaged)
            tried.ends[end.kind] += 1
            if end.is_fault:
                kept = folder / "faults" / f"{kind.name.replace(' ', '-')}-{number}{kind.file.suffix}"
                kept.parent.mkdir(exist_ok=True)
                kept.write_bytes(damaged)
                tried.faults.append(f"{kept}: {end.kind}: {''.join(end.text.strip().splitlines()[-1:])[:300]}")
        yield tried


def _read(kind: Kind, damaged: bytes) -> End:
    with tempfile.TemporaryDirectory() as copy:
        folder = Path(copy, "copy")
        shutil.copytree(kind.file.parent, folder)
        path = folder / kind.file.name
        path.write_bytes(damaged)
        return isolated(lambda: kind.read(path))


def kinds_of_files(folder: Path) -> Iterator[Kind]:
    """Write a good file of each kind into a folder of its own."""
    yield from _pictures(folder / "pictures")
    data = synthetic_dataset(folder / "data", train=3, val=2, size=64)
    yield from _annotations(data)
    settings = Settings.of(steps=1, batch_size=1, short_sides=(64,), workers=0)
    run = folder / "run"
    common = {"recipe": "resnet18_fpn", "recipe_arguments": _NETWORK, "device": "cpu"}
    train(data, settings=settings, output=run, **common)
    yield from _checkpoints(run, folder / "checkpoints")
    yield from _notes(data, folder / "notes")
    yield from _exports(run / "best.pt", data, folder / "exports")


def _alone(file: Path, content: bytes | None = None) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    if content is not None:
        file.write_bytes(content)
    return file


def _pictures(folder: Path) -> Iterator[Kind]:
    picture, _ = synthetic_picture(64, np.random.default_rng(0))
    deep = Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) << 4)
    images = {
        **{f"picture.{suffix}": picture for suffix in ("jpg", "png", "webp", "bmp", "gif", "ppm", "avif", "tif")},
        **{"alpha.png": picture.convert("RGBA"), "palette.png": picture.quantize(16)},
        **{"16bit.png": deep, "16bit.tif": deep},
    }
    for name, image in images.items():
        file = _alone(folder / name.replace(".", "_") / name)
        try:
            image.save(file)
        except (KeyError, OSError):  # this Pillow has no encoder for it
            continue
        yield Kind(name, file, mutate_bytes, read_picture)


def _annotations(data: Path) -> Iterator[Kind]:
    def read(path: Path) -> None:
        shutil.copytree(data / "train", path.parents[1] / "train")
        dataset = read_split(path.parents[1], "train")
        for index in range(len(dataset)):
            dataset.objects(index)
        truth = dataset.truth()
        copied = [{key: one[key] for key in ("image_id", "category_id", "bbox")} for one in truth["annotations"]]
        coco_metrics(truth, [{**one, "score": 0.5} for one in copied], ["bbox"], 100)

    def examine(path: Path) -> None:
        shutil.copytree(data / "train", path.parents[1] / "train")
        check(path.parents[1])

    file = data / "annotations" / "instances_train.json"
    folder = _alone(data.parent / "annotations" / "annotations" / file.name, file.read_bytes())
    yield Kind("annotations", folder, mutate_json, _in_folder(read))
    yield Kind("annotations, checked", folder, mutate_json, _in_folder(examine))


def _in_folder(read: Callable[[Path], object]) -> Callable[[Path], object]:
    """Let `read` find the damaged annotations in a folder ``annotations`` of a data set."""

    def moved(path: Path) -> object:
        place = path.parents[1] / "set" / "annotations" / path.name
        place.parent.mkdir(parents=True)
        path.rename(place)
        return read(place)

    return moved


def _checkpoints(run: Path, folder: Path) -> Iterator[Kind]:
    last = _alone(folder / "last" / "last.pt", (run / "last.pt").read_bytes())
    yield Kind("last.pt", last, mutate_bytes, load)
    best = _alone(folder / "best" / "best.pt", (run / "best.pt").read_bytes())
    yield Kind("best.pt", best, mutate_bytes, lambda path: read_model(path).build())
    weights = {f"layer{number}.weight": torch.randn(3, 3) for number in range(4)}
    for name, is_zip in (("archive.pth", True), ("legacy.pth", False)):
        file = _alone(folder / name.removesuffix(".pth") / name)
        torch.save({"model": weights, "epoch": 3}, file, _use_new_zipfile_serialization=is_zip)
        yield Kind(name, file, mutate_bytes, read_checkpoint)
    arrays = {name: tensor.numpy() for name, tensor in weights.items()}
    pickled = _alone(folder / "pickle" / "weights.pkl", pickle.dumps({"model": arrays}))
    yield Kind("weights.pkl", pickled, mutate_bytes, read_checkpoint)


def _notes(data: Path, folder: Path) -> Iterator[Kind]:
    """The small files that a run or a prediction writes, and a later one reads."""
    plan = _alone(folder / "plan" / "plan.json")
    planned = make_plan(data, minutes=1, device="cpu")
    write_plan(plan, planned.plan, planned.fingerprint)
    yield Kind("plan.json", plan, mutate_json, lambda path: plan_from_file(data, path, {}).settings)
    split = _alone(folder / "split" / "split.json", b'{"validation": [0, 2]}')
    whole = read_whole(data)
    yield Kind("split.json", split, mutate_json, lambda path: split_as_kept(whole, path))
    header = {"network": "a", "score": 0.5, "categories": []}
    journal = _alone(folder / "journal" / "results.jsonl")
    with Journal(journal, header) as lines:
        for id_ in range(5):
            image = {"id": id_, "file_name": f"{id_}.png", "height": 8, "width": 8, "overlay": f"{id_}.png"}
            lines.append({"image": image, "objects": []})
    yield Kind("results.jsonl", journal, mutate_bytes, lambda path: Journal(path, header, resume=True))


def _exports(weights: Path, data: Path, folder: Path) -> Iterator[Kind]:
    runtimes = {"onnx": ("onnx", "onnxruntime", "onnxscript"), "openvino": ("openvino",)}
    for form, modules in runtimes.items():
        if all(importlib.util.find_spec(module) for module in modules):
            suffix = FORMATS[form].suffix
            file = export(weights, form, output=folder / form / f"best{suffix}").path
            yield Kind(form, file, mutate_bytes, read_exported)
