"""Train Ultralytics' YOLO26n-seg from its configuration file, and predict the validation pictures.

Run by `plans.py` in an environment that has Ultralytics (AGPL-3.0) and not maskrcnn. Everything but the input
size and the length is Ultralytics' default.

python plain_yolo.py WORK --minutes 15 --side 320 --detections 100
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from ultralytics import YOLO
from ultralytics.utils.ops import scale_masks

_MAX_MASK_PIXELS = 500_000_000  # of all masks of a picture together: beyond, they are enlarged one by one


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("work", type=Path, help="folder with data/, of plain_data.py; results go there")
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--side", type=int, required=True, help="of the input, px")
    parser.add_argument("--detections", type=int, required=True, help="at most, in a picture")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    data = given.work.resolve() / "data"
    model, steps = YOLO("yolo26n-seg.yaml"), [0]
    model.add_callback("on_train_batch_end", lambda _: steps.append(steps.pop() + 1))
    start = time.perf_counter()
    model.train(
        data=data / "data.yaml",
        time=given.minutes / 60,
        imgsz=given.side,
        seed=given.seed,
        device="cpu",
        plots=False,
        project=given.work.resolve(),
        name="run",
    )
    seconds = time.perf_counter() - start
    torch.set_num_threads(given.threads)
    results = []
    for image_id, path in enumerate(sorted((data / "images/val").iterdir())):
        results += predict(model, path, image_id, given.side, given.detections)
    trained = {"steps": steps[0], "seconds": seconds, "results": results, "torch": torch.__version__}
    (given.work / "trained.json").write_text(json.dumps(trained))


def predict(model: YOLO, path: Path, image_id: int, side: int, detections: int) -> list[dict]:
    """Return COCO results with run lengths that are not compressed; masks at the picture's own resolution."""
    options = {"imgsz": side, "conf": 0.001, "max_det": detections, "device": "cpu", "verbose": False}
    (found,) = model.predict(path, **options)
    height, width = found.orig_shape
    native = len(found) * height * width <= _MAX_MASK_PIXELS
    if native:
        (found,) = model.predict(path, retina_masks=True, **options)
    results = []
    for box, mask in zip(found.boxes, [] if found.masks is None else found.masks.data, strict=True):
        if not native:
            mask = scale_masks(mask[None, None].float(), (height, width))[0, 0]
        x1, y1, x2, y2 = box.xyxy[0].tolist()
        results.append(
            {
                "image_id": image_id,
                "category_id": int(box.cls),
                "score": float(box.conf),
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "segmentation": {"size": [height, width], "counts": run_lengths(mask.cpu().numpy() > 0.5)},
            }
        )
    return results


def run_lengths(mask: np.ndarray) -> list[int]:
    """Return lengths of runs of zeros and ones in turn, column by column, zeros first."""
    pixels = mask.ravel(order="F")
    edges = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
    counts = np.diff(edges, prepend=0, append=len(pixels)).tolist()
    return [0, *counts] if pixels[0] else counts


if __name__ == "__main__":
    main()
