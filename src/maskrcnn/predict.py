"""From pictures to results: the only way from the network's input back to the pixels of the file."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import torch
from jaxtyping import Float
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Column, Table
from torch import Tensor

from maskrcnn.capture import captured
from maskrcnn.data.loader import PictureBatch, picture_batches
from maskrcnn.data.pictures import Source, read_picture
from maskrcnn.data.transforms import Affine, fit, resize
from maskrcnn.draw import draw
from maskrcnn.exported import ExportedNetwork, is_exported, read_exported
from maskrcnn.files import replacing, write_json
from maskrcnn.network.cpu import quicken
from maskrcnn.network.fold import fold_norms
from maskrcnn.network.model import MaskRCNN
from maskrcnn.ops.boxes import clip, is_larger
from maskrcnn.ops.keypoints import heatmaps_to_keypoints
from maskrcnn.result import Result
from maskrcnn.types import Batch, Detections
from maskrcnn.weights.trained import Trained, read_trained

S = TypeVar("S", bound=Source)

_LISTED = 40  # pictures that the closing table names one by one


class Speed(NamedTuple):
    """How a network is made fast: with which precision its layers calculate, whether compiled or captured.

    bf16 is for GPUs and for processors that calculate in it. A compiled network takes a minute to make for
    the first picture, and is then faster on a GPU. A captured one is a CUDA graph, recorded for each size of
    the padded batch: for many pictures of few sizes.
    """

    precision: Literal["float32", "bf16"] = "float32"
    compiled: bool = False
    captured: bool = False

    def of(self, model: MaskRCNN | ExportedNetwork, device: torch.device) -> Callable[[Batch], Detections]:
        """Return the `detect` of `model`, which is changed to be fast in this way; as it is, if exported.

        Raises ValueError where it is to be captured on another device than CUDA's, or compiled as well.
        """
        if isinstance(model, ExportedNetwork):
            return model.detect
        if self.captured and device.type != "cuda":
            raise ValueError(f"only a network on a CUDA device can be captured, and this one is on {device}")
        if self.captured and self.compiled:
            raise ValueError("a network is either compiled or captured: choose one of the two")
        if device.type == "cpu" and self == PLAIN:
            quicken(model)
        detect: Callable[[Batch], Detections] = model.detect
        if self.compiled:
            detect = torch.compile(model.detect)
        if self.captured:
            detect = captured(model)
        if self.precision == "float32":
            return detect
        return torch.autocast(device.type, torch.bfloat16)(detect)


PLAIN = Speed()


@dataclass(frozen=True)
class PictureError:
    """Why a picture could not be read: a sentence that names it."""

    message: str


class Predictor:
    """A trained network ready to look at pictures, with the names of what it knows.

    Pictures are resized to a short side of `short_side` px, or a long side of `long_side` where that is less.
    The network is copied, norms folded: to train it further changes nothing here. An exported one is
    taken as it is, its input on the CPU. `skeleton` holds pairs of keypoint numbers, from 0, for drawings.
    Raises ValueError where the classes do not fit the network, and as `resolve_device` does.
    """

    def __init__(
        self,
        model: MaskRCNN | ExportedNetwork,
        *,
        class_names: Sequence[str],
        category_ids: Sequence[int],
        short_side: int | None,
        long_side: int,
        device: str | torch.device = "auto",
        skeleton: Sequence[Sequence[int]] = (),
        keypoint_names: Sequence[str] = (),
        speed: Speed = PLAIN,
    ) -> None:
        if not len(class_names) == len(category_ids) == model.num_classes:
            raise ValueError(
                f"the network tells {model.num_classes} classes apart, but came with {len(class_names)} "
                f"class names and {len(category_ids)} category ids"
            )
        self.device = resolve_device("cpu" if isinstance(model, ExportedNetwork) else device)
        self.model = model if isinstance(model, ExportedNetwork) else _prepared(model, self.device)
        self.detect = speed.of(self.model, self.device)
        self.class_names, self.category_ids = tuple(class_names), tuple(category_ids)
        self.skeleton = tuple((first, second) for first, second in skeleton)
        self.keypoint_names = tuple(keypoint_names)
        self.resize = resize(short_side, long_side)

    def predict(self, picture: Source, score: float = 0.5) -> Result:
        """Return what a picture shows with at least this score, best first.

        Raises ValueError, naming the picture, where it cannot be read.
        """
        [(_, result)] = self.predict_many([picture], score=score)
        if isinstance(result, PictureError):
            raise ValueError(result.message)
        return result

    def predict_many(
        self, pictures: Sequence[S], *, score: float = 0.5, batch_size: int = 1, workers: int = 2
    ) -> Iterator[tuple[S, Result | PictureError]]:
        """Yield every picture with its result, in order; one that cannot be read yields a PictureError.

        Neighbours of one padded shape share a batch of at most `batch_size`; `workers` processes read ahead.
        """
        batches = picture_batches(
            pictures,
            self.resize,
            batch_size=batch_size,
            stride=self.model.stride,
            workers=min(workers, max(len(pictures) - 1, 0)),
            channels=self.model.in_channels,
        )
        for batch in batches:
            answers: dict[int, Result | PictureError] = {i: PictureError(why) for i, why in batch.failures}
            answers |= zip(batch.indices, self._look(batch, score), strict=True)
            yield from ((pictures[i], answers[i]) for i in sorted(answers))

    @torch.inference_mode()
    def _look(self, pictures: PictureBatch, score: float) -> list[Result]:
        if pictures.batch is None:
            return []
        batch = pictures.batch.pinned() if self.device.type == "cuda" else pictures.batch
        batch = batch.to(self.device)  # as uint8: the network normalises
        images = batch.images.contiguous(memory_format=torch.channels_last)
        found = self.detect(batch._replace(images=images)).cpu()
        places = zip(pictures.affines, pictures.sizes_hw, strict=True)
        return [self._result(found, i, score, *place) for i, place in enumerate(places)]

    def _result(
        self, found: Detections, picture: int, score: float, affine: Affine, size_hw: tuple[int, int]
    ) -> Result:
        """Pick one picture's detections of at least `score` and some area, and lead them to its file."""
        found = Detections(*(None if field is None else field[picture] for field in found))  # type: ignore[arg-type]
        corners = to_file(found.boxes.unflatten(1, (2, 2)), affine)
        boxes = clip(corners.flatten(1)[None], torch.tensor([size_hw], device=corners.device))[0]
        keep = found.valid & (found.scores >= score) & is_larger(boxes, 0.0)
        mask_probs = keypoints = None
        if found.mask_probs is not None:
            mask_probs = found.mask_probs[keep].cpu().numpy()
        if found.keypoint_heatmaps is not None:
            read = heatmaps_to_keypoints(found.keypoint_heatmaps[keep], found.boxes[keep])
            read[..., :2] = to_file(read[..., :2], affine)
            keypoints = read.cpu().numpy()
        return Result(
            boxes=boxes[keep].cpu().numpy(),
            scores=found.scores[keep].cpu().numpy(),
            labels=found.labels[keep].cpu().numpy(),
            size_hw=size_hw,
            class_names=self.class_names,
            category_ids=self.category_ids,
            mask_probs=mask_probs,
            keypoints=keypoints,
        )


def _prepared(model: MaskRCNN, device: torch.device) -> MaskRCNN:
    """Return a copy of the network, on the device, as it detects fastest."""
    return fold_norms(model).to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def load(
    source: str | Path,
    device: str | torch.device = "auto",
    *,
    class_names: Sequence[str] | None = None,
    options: Mapping[str, Any] | None = None,
    precision: Literal["float32", "bf16"] = "float32",
    compile: bool = False,
    capture: bool = False,
) -> Predictor:
    """Return a trained network, ready to look at pictures.

    `source` is a checkpoint of this library, a file of torchvision's or Detectron2's, or the name of what
    they published, such as "torchvision/maskrcnn_resnet50_fpn_v2"; `class_names` and `options` of the recipe
    say what such a file cannot. A file of ``maskrcnn export`` does as well. `precision`, `compile` and
    `capture` make a network faster on some machines, see `Speed`. Errors as those of `read_trained`,
    `read_exported` and `Speed.of`.
    """
    speed = Speed(precision, compile, capture)
    if is_exported(source):
        if class_names or options or speed != PLAIN:
            raise ValueError(
                f"{source} is exported, with its class names, options and precision: for others, export again"
            )
        return predictor_of_exported(read_exported(Path(source), str(device)))
    trained = read_trained(source, class_names=class_names, options=options)
    return predictor_of(trained, trained.build(), device, speed)


def predictor_of(
    trained: Trained, model: MaskRCNN, device: str | torch.device = "auto", speed: Speed = PLAIN
) -> Predictor:
    """Return a predictor that looks at pictures with `model` and knows what `trained` knows."""
    return Predictor(
        model,
        class_names=trained.class_names,
        category_ids=trained.category_ids,
        short_side=trained.short_side,
        long_side=trained.long_side,
        device=device,
        skeleton=trained.skeleton,
        keypoint_names=trained.keypoint_names,
        speed=speed,
    )


def predictor_of_exported(network: ExportedNetwork) -> Predictor:
    """Return a predictor that looks at pictures with an exported network and knows what its file says."""
    about = network.description
    predictor = Predictor(
        network,
        class_names=about.class_names,
        category_ids=about.category_ids,
        short_side=about.short_side,
        long_side=about.long_side,
        skeleton=about.skeleton,
        keypoint_names=about.keypoint_names,
    )
    if about.size_hw is not None:
        predictor.resize = fit(about.size_hw)
    return predictor


def to_file(xy: Float[Tensor, "*n 2"], affine: Affine) -> Float[Tensor, "*n 2"]:
    """Undo `affine`, which led from the file to the network's input."""
    scale, shift = torch.tensor(affine, dtype=xy.dtype, device=xy.device).reshape(2, 2).unbind(1)
    return (xy - shift) / scale


def resolve_device(device: str | torch.device = "auto") -> torch.device:
    """Return the device of that name, such as cpu, mps or cuda:1; "auto" is the fastest kind that is there.

    Raises ValueError for a device that this machine, or this build of torch, does not have.
    """
    cuda = torch.cuda.device_count() if torch.cuda.is_available() else 0
    counts = {"cuda": cuda, "mps": int(torch.backends.mps.is_available()), "cpu": 1}
    kind, _, index = str(device).partition(":")
    if kind == "auto":
        return torch.device(next(kind for kind, count in counts.items() if count))
    index = index or "0"
    if not index.isdecimal() or int(index) >= counts.get(kind, 0):
        there = ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)
        raise ValueError(f"there is no device '{device}' for torch here: it sees {there}")
    return torch.device(device)


@dataclass(frozen=True)
class Summary:
    """What `write_predictions` did."""

    counts: tuple[
        tuple[str, Counter[str]], ...
    ]  # of each picture that was read: its path, objects of each class
    failures: tuple[str, ...]  # a sentence for each picture that was skipped

    def table(self) -> Table:
        """Return the counts to print with rich: a line for each of the first pictures, and one for all."""
        made = Table(Column("picture", overflow="fold"), "objects", "classes")
        for name, count in self.counts[:_LISTED]:
            made.add_row(escape(name), str(count.total()), escape(_listed(count)))
        if len(self.counts) > _LISTED:
            made.add_row(f"… and {len(self.counts) - _LISTED} more")
        made.add_section()
        total = sum((count for _, count in self.counts), Counter[str]())
        made.add_row(f"{len(self.counts)} pictures", str(total.total()), escape(_listed(total)))
        return made


def _listed(count: Counter[str]) -> str:
    return ", ".join(f"{number} {name}" for name, number in count.most_common())


def write_predictions(
    predictor: Predictor, paths: Sequence[Path], output: Path, score: float = 0.5
) -> Summary:
    """Predict pictures into a folder, with a progress bar, and print what was found.

    Each picture becomes an overlay, ``<stem>.png``, numbered where stems repeat. ``results.json`` has all
    objects as COCO's result list, in the data set's own category ids; ``images.json`` has the `images` (id,
    file_name as given, height, width, overlay) and `categories` that they refer to. A picture that cannot be
    read is named and skipped.
    """
    output.mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    objects: list[dict[str, Any]] = []
    counts, failures = [], []
    predictions = track(
        predictor.predict_many(paths, score=score),
        "predicting",
        total=len(paths),
        console=Console(stderr=True),
    )
    for overlay, (path, result) in zip(_overlay_names(paths, output), predictions, strict=True):
        if isinstance(result, PictureError):
            failures.append(result.message)
            continue
        _write_overlay(output / overlay, path, result, predictor.skeleton)
        height, width = result.size_hw
        image = {"id": len(images) + 1, "file_name": str(path), "height": height, "width": width}
        images.append({**image, "overlay": overlay})
        objects += result.to_coco(len(images))
        counts.append((str(path), Counter(result.names)))
    write_json(output / "results.json", objects)
    names = zip(predictor.category_ids, predictor.class_names, strict=True)
    categories = [{"id": id_, "name": name} for id_, name in names]
    write_json(output / "images.json", {"images": images, "categories": categories})
    summary = Summary(tuple(counts), tuple(failures))
    _tell(summary)
    return summary


def _tell(summary: Summary) -> None:
    Console().print(summary.table())
    for failure in summary.failures:
        Console(stderr=True).print(f"skipped {failure}", markup=False, highlight=False, soft_wrap=True)


def _overlay_names(paths: Sequence[Path], output: Path) -> Iterator[str]:
    """Name an overlay for each path: no two alike on any file system, and none like one of `paths`."""
    taken = {path.name.casefold() for path in paths if path.parent.resolve() == output.resolve()}
    for path in paths:
        numbered = (f"{path.stem}-{number}.png" for number in itertools.count(2))
        candidates = itertools.chain([f"{path.stem}.png"], numbered)
        name = next(name for name in candidates if name.casefold() not in taken)
        taken.add(name.casefold())
        yield name


def _write_overlay(path: Path, picture: Path, result: Result, skeleton: Sequence[tuple[int, int]]) -> None:
    pixels = read_picture(picture).permute(1, 2, 0).contiguous().numpy()
    with replacing(path) as unfinished:
        draw(pixels, result, skeleton=skeleton).save(unfinished, format="PNG")
