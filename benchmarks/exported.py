"""Detection by exported files, beside PyTorch's own and torchvision's, on the same weights and picture.

Write the network, export it, compare:

    python benchmarks/exported.py --write network.pt
    maskrcnn export network.pt --format onnx --size 800x1216 --batch 1
    maskrcnn export network.pt --format openvino --size 800x1216 --batch 1 --int8 DATA --output int8.xml
    python benchmarks/exported.py network.onnx int8.xml [--json FILE]
"""

from collections.abc import Callable
from pathlib import Path

import contest
import numpy as np
import torch

from maskrcnn.bench.inference import agreement
from maskrcnn.bench.networks import ours, picture, theirs
from maskrcnn.predict.load import load
from maskrcnn.predict.predictor import Predictor

SIZE_HW = 800, 1216


@torch.inference_mode()
def main() -> None:
    parser = contest.arguments("detection by exported files, against PyTorch's and torchvision's", repeats=7)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--write", type=Path, help="write the network to this file, and no more")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    trained = ours("resnet50_fpn")
    if arguments.write:
        torch.save({"trained": trained.plain()}, arguments.write)
        return

    other = theirs(trained, SIZE_HW).eval()
    pixels = picture(SIZE_HW)
    array, image = pixels.permute(1, 2, 0).contiguous().numpy(), pixels.float() / 255
    predictors = {"ours": Predictor.from_checkpoint(trained, device="cpu")}
    predictors |= {path.name: load(path, "cpu") for path in arguments.files}
    answer = other([image])[0]
    apart = {name: agreement(predictor, array, answer) for name, predictor in predictors.items()}
    contestants = {name: masks_by(predictor, array) for name, predictor in predictors.items()}
    times = contest.take_turns(
        {**contestants, "torchvision": lambda: other([image])}, repeats=arguments.repeats
    )
    for name, own in times.items():
        ratio = own.median / times["torchvision"].median
        print(f"{name:16} {own.median:8.1f} ms, {ratio:.3f} of torchvision's {apart.get(name, '')}")
    milliseconds = {name: own._asdict() for name, own in times.items()}
    contest.write(arguments.json, {"milliseconds": milliseconds, "agreement": apart})


def masks_by(predictor: Predictor, array: np.ndarray) -> Callable[[], np.ndarray]:
    """Return what detects and makes the masks of the picture's size."""
    return lambda: predictor.predict(array, score=0.0).masks


if __name__ == "__main__":
    main()
