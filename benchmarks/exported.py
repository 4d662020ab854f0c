"""Detection by exported files, by PyTorch and by torchvision, with the same weights on the same picture.

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

from maskrcnn.bench.networks import noise_picture, random_checkpoint
from maskrcnn.bench.torchvision import agreement, to_torchvision, torchvision_network
from maskrcnn.predict.load import load
from maskrcnn.predict.predictor import Predictor

SIZE_HW = 800, 1216
CPU = torch.device("cpu")


@torch.inference_mode()
def main() -> None:
    parser = contest.arguments("detection by exported files, by PyTorch and by torchvision", repeats=7)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--write", type=Path, help="only write the network to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    checkpoint = random_checkpoint("resnet50_fpn")
    if arguments.write:
        torch.save({"trained": checkpoint.plain()}, arguments.write)
        return

    model = torchvision_network(checkpoint, SIZE_HW).eval()
    pixels = noise_picture(SIZE_HW)
    picture, images = pixels.permute(1, 2, 0).contiguous().numpy(), to_torchvision([pixels], CPU)
    predictors = {"ours": Predictor.from_checkpoint(checkpoint, device="cpu")}
    predictors |= {path.name: load(path, "cpu") for path in arguments.files}
    theirs = model(images)[0]
    differences = {name: agreement(predictor, picture, theirs) for name, predictor in predictors.items()}
    contestants = {name: predict_masks(predictor, picture) for name, predictor in predictors.items()}
    timings = contest.take_turns(
        {**contestants, "torchvision": lambda: model(images)}, repeats=arguments.repeats
    )
    for name, timing in timings.items():
        ratio = timing.median / timings["torchvision"].median
        print(f"{name:16} {timing.median:8.1f} ms, {ratio:.3f} of torchvision's {differences.get(name, '')}")
    milliseconds = {name: timing._asdict() for name, timing in timings.items()}
    contest.write(arguments.json, {"milliseconds": milliseconds, "agreement": differences})


def predict_masks(predictor: Predictor, picture: np.ndarray) -> Callable[[], np.ndarray]:
    """Return a function that detects and returns masks of the picture's size."""
    return lambda: predictor.predict(picture, score=0.0).masks


if __name__ == "__main__":
    main()
