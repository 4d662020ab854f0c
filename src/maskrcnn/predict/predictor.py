"""From pictures to results."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from maskrcnn.data.loader import PictureError, picture_batches
from maskrcnn.data.pictures import SizeHW, Source
from maskrcnn.data.prepare import Affine, Resize, fit, pad, prepare, resize
from maskrcnn.device import resolve_device
from maskrcnn.fast.acceleration import PLAIN, Acceleration
from maskrcnn.fast.fold_norms import fold_norms
from maskrcnn.memory import BatchLimit
from maskrcnn.network.model import MaskRCNN
from maskrcnn.ops.boxes import clip, is_larger
from maskrcnn.ops.keypoints import heatmaps_to_keypoints
from maskrcnn.results.result import Result
from maskrcnn.runtimes.network import ExportedNetwork
from maskrcnn.types import Batch, Detections, Metadata
from maskrcnn.weights.finite import check_finite
from maskrcnn.weights.model_checkpoint import ModelCheckpoint

S = TypeVar("S", bound=Source)

DEFAULT_SCORE = 0.5  # of networks without score thresholds


class Predictor:
    """A trained network, and all it takes to turn pictures into `Result`s in the pixels of their files.

    `resize` maps the size of a file to the size of the network's input; `white` is the value of 16-bit
    pictures that becomes 255 (see `read_picture`). The network is copied, with its norms
    folded into convolutions: training the original later changes nothing here. An exported network is used as
    it is, on the device of its runtime. Raises ValueError where `metadata` does not fit the network, and as
    `resolve_device` and `Acceleration.apply` do.
    """

    def __init__(
        self,
        model: MaskRCNN | ExportedNetwork,
        metadata: Metadata,
        resize: Resize,
        *,
        white: int | None = None,
        device: str | torch.device = "auto",
        acceleration: Acceleration = PLAIN,
    ) -> None:
        if (names := len(metadata.class_names)) != model.num_classes:
            raise ValueError(
                f"the network has {model.num_classes} classes, but {names} class names were given"
            )
        self.metadata, self.resize, self.white = metadata, resize, white
        self.limit = BatchLimit()  # of pictures at a time
        if isinstance(model, ExportedNetwork):
            self.device, self.model = torch.device("cpu"), model
        else:
            self.device = resolve_device(device)
            self.model = fold_norms(model).to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.detect = acceleration.apply(self.model, self.device)

    @classmethod
    def from_checkpoint(
        cls,
        checkpoint: ModelCheckpoint,
        model: MaskRCNN | None = None,
        *,
        device: str | torch.device = "auto",
        acceleration: Acceleration = PLAIN,
    ) -> Predictor:
        """Return a predictor for a checkpoint, or for `model`, the same network at another training step.

        Raises FloatingPointError for weights that are NaN or infinite, and as `ModelCheckpoint.build` and the
        constructor do.
        """
        model = checkpoint.build() if model is None else model
        check_finite(model)
        return cls(
            model,
            checkpoint.metadata,
            resize(checkpoint.short_side, checkpoint.long_side),
            white=checkpoint.white,
            device=device,
            acceleration=acceleration,
        )

    @classmethod
    def from_exported(cls, network: ExportedNetwork) -> Predictor:
        """Return a predictor for an exported network, with the names and sizes that its file describes."""
        about = network.description
        fixed, sides = about.input.size_hw, (about.short_side, about.long_side)
        return cls(network, about.metadata, fit(fixed) if fixed else resize(*sides), white=about.white)

    def predict(self, picture: Source, score: float | None = None) -> Result:
        """Return the objects of a picture with at least this score, best first.

        Without `score`, each class has its threshold of the checkpoint (see `Metadata`), or 0.5 where the
        checkpoint has none. Raises FileNotFoundError and ValueError, naming the file, as `read_picture` does.
        """
        image, affine, size_hw = prepare(picture, self.resize, self.model.in_channels, self.white)
        [detections] = _of_each_picture(self._detect(pad([image], self.model.stride)))
        return self._result(detections, affine, size_hw, score)

    def predict_many(
        self, pictures: Iterable[S], *, score: float | None = None, batch_size: int = 1, workers: int = 2
    ) -> Iterator[tuple[S, Result | PictureError]]:
        """Yield each picture with its result, in order; one that cannot be read comes with a PictureError.

        `pictures` may be an iterator of any length, which is read lazily. Consecutive pictures of one padded
        shape share a batch of at most `batch_size`; `workers` processes read ahead; `score` is as in
        `predict`. Where the device has too little memory for a batch, pictures are computed in halves of it,
        and so on. Raises TypeError for a single picture, and MemoryShortage where one is too large.
        """
        if isinstance(pictures, str) or (isinstance(pictures, np.ndarray | Tensor) and pictures.ndim < 4):
            raise TypeError(
                f"predict_many expects several pictures, not one {type(pictures).__name__}: use predict"
            )
        batches = picture_batches(
            pictures,
            self.resize,
            batch_size=batch_size,
            stride=self.model.stride,
            workers=workers,
            channels=self.model.in_channels,
            white=self.white,
            pin=self.device.type == "cuda",
        )
        for batch in batches:
            detections = iter(self._detect_in_pieces(batch.batch) if batch.batch else ())
            for source, record in batch.records:
                if isinstance(record, PictureError):
                    yield source, record
                else:
                    yield source, self._result(next(detections), record.affine, record.size_hw, score)

    def _detect_in_pieces(self, batch: Batch) -> list[Detections]:
        """Return the detections of each picture, without the dimension B, on the CPU."""
        height, width = batch.images.shape[2:]
        pieces = self.limit.run(
            lambda at_a_time: [self._detect(piece) for piece in batch.split(at_a_time)],
            len(batch.images),
            remedy=f"pictures of {height}x{width} pixels are too large for this network on {self.device}; "
            "use a smaller network, precision bf16 or another device",
        )
        return [detections for piece in pieces for detections in _of_each_picture(piece)]

    @torch.inference_mode()
    def _detect(self, batch: Batch) -> Detections:
        if self.device.type == "cpu":
            return self.detect(batch)
        return self.detect(batch.to(self.device)).cpu()  # moved as uint8: the network normalises

    def _thresholds(self, score: float | None) -> Float[Tensor, " K"]:
        """Return the lowest score of each class."""
        own = self.metadata.score_thresholds
        if score is None and own:
            return torch.tensor(own)
        return torch.full((self.model.num_classes,), DEFAULT_SCORE if score is None else score)

    def _result(self, one: Detections, affine: Affine, size_hw: SizeHW, score: float | None) -> Result:
        """Return one picture's detections of sufficient score and positive area, in pixels of its file."""
        corners = to_file(one.boxes.unflatten(1, (2, 2)), affine)
        boxes = clip(corners.flatten(1)[None], torch.tensor([size_hw]))[0]
        keep = one.valid & (one.scores >= self._thresholds(score)[one.labels]) & is_larger(boxes, 0.0)
        keypoints = None
        if one.keypoint_heatmaps is not None:
            points = heatmaps_to_keypoints(one.keypoint_heatmaps[keep], one.boxes[keep])
            points[..., :2] = to_file(points[..., :2], affine)
            keypoints = points.numpy()
        return Result(
            boxes=boxes[keep].numpy(),
            scores=one.scores[keep].numpy(),
            labels=one.labels[keep].numpy(),
            size_hw=size_hw,
            metadata=self.metadata,
            mask_probs=None if one.mask_probs is None else one.mask_probs[keep].numpy(),
            keypoints=keypoints,
        )


def _of_each_picture(detections: Detections) -> Iterator[Detections]:
    """Yield the detections of each picture, without the dimension B."""
    for index in range(len(detections.valid)):
        yield Detections(*(None if field is None else field[index] for field in detections))  # type: ignore[arg-type]


def to_file(xy: Float[Tensor, "*n 2"], affine: Affine) -> Float[Tensor, "*n 2"]:
    """Map points from the network's input back to the file: the inverse of `affine`."""
    scale, shift = torch.tensor(affine, dtype=xy.dtype).reshape(2, 2).unbind(1)
    return (xy - shift) / scale
