"""From pictures to results."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from maskrcnn.data.loader import PictureBatch, PictureFailure, picture_batches
from maskrcnn.data.pictures import Source
from maskrcnn.data.transforms import Affine, resize
from maskrcnn.device import resolve_device
from maskrcnn.fast.acceleration import PLAIN, Acceleration
from maskrcnn.fast.fold_norms import fold_norms
from maskrcnn.network.model import MaskRCNN
from maskrcnn.ops.boxes import clip, is_larger
from maskrcnn.ops.keypoints import heatmaps_to_keypoints
from maskrcnn.results.result import Result
from maskrcnn.runtimes.network import ExportedNetwork
from maskrcnn.types import Detections

S = TypeVar("S", bound=Source)


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
        speed: Acceleration = PLAIN,
    ) -> None:
        if not len(class_names) == len(category_ids) == model.num_classes:
            raise ValueError(
                f"the network tells {model.num_classes} classes apart, but came with {len(class_names)} "
                f"class names and {len(category_ids)} category ids"
            )
        self.device = resolve_device("cpu" if isinstance(model, ExportedNetwork) else device)
        self.model = model if isinstance(model, ExportedNetwork) else _prepared(model, self.device)
        self.detect = speed.apply(self.model, self.device)
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
            pin=self.device.type == "cuda",
        )
        for batch in batches:
            results = iter(self._look(batch, score))
            for record in batch.records:
                if isinstance(record, PictureFailure):
                    yield record.source, PictureError(record.message)
                else:
                    yield record.source, next(results)

    @torch.inference_mode()
    def _look(self, pictures: PictureBatch, score: float) -> list[Result]:
        if pictures.batch is None:
            return []
        batch = pictures.batch.to(self.device)  # as uint8: the network normalises
        images = batch.images.contiguous(memory_format=torch.channels_last)
        found = self.detect(batch._replace(images=images)).cpu()
        inputs = enumerate(pictures.inputs)
        return [self._result(found, i, score, one.affine, one.size_hw) for i, one in inputs]

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


def to_file(xy: Float[Tensor, "*n 2"], affine: Affine) -> Float[Tensor, "*n 2"]:
    """Undo `affine`, which led from the file to the network's input."""
    scale, shift = torch.tensor(affine, dtype=xy.dtype, device=xy.device).reshape(2, 2).unbind(1)
    return (xy - shift) / scale
