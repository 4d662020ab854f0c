"""300 detections of a 12-megapixel image to run lengths, against torchvision's pasting.

torchvision pastes every mask into a whole image of floats, 48 MB each; it is measured with fewer masks, and
its time and memory are proportional to their number. Its output would still have to be encoded.

python benchmarks/masks.py [--json FILE]
"""

import contest
import numpy as np
import torch

from maskrcnn.bench.timing import peak_memory
from maskrcnn.results.result import Result
from maskrcnn.types import Metadata

SIZE_HW, OURS, THEIRS, SIDE = (3000, 4000), 300, 10, 28


def main() -> None:
    arguments = contest.arguments(
        "masks of a large picture, ours against torchvision", repeats=3
    ).parse_args()
    torch.set_num_threads(arguments.threads)
    from torchvision.models.detection.roi_heads import paste_masks_in_image

    result = detections()
    probs, boxes = (torch.from_numpy(field[:THEIRS]) for field in (result.mask_probs, result.boxes))

    def theirs() -> object:
        return paste_masks_in_image(probs[:, None], boxes, SIZE_HW)

    cpu = torch.device("cpu")
    memory = {"ours": peak_memory(result.rle, cpu), "torchvision": peak_memory(theirs, cpu)}
    times = contest.take_turns({"ours": result.rle, "theirs": theirs}, repeats=arguments.repeats, warm_up=1)
    ours, other = times["ours"].median / OURS, times["theirs"].median / THEIRS
    print(
        f"one mask: ours to run lengths {ours:.2f} ms, torchvision to pixels {other:.2f} ms, "
        f"ratio {ours / other:.3f}"
    )
    print(
        f"peak memory: ours {memory['ours']} bytes for {OURS} masks, "
        f"torchvision {memory['torchvision']} for {THEIRS}"
    )
    contest.write(
        arguments.json, {"milliseconds_a_mask": {"ours": ours, "torchvision": other}, "peak_bytes": memory}
    )


def detections() -> Result:
    """Return random objects of 60 … 800 px, blobs that fill most of their boxes."""
    generator = np.random.default_rng(0)
    sides = np.exp(generator.uniform(np.log(60), np.log(800), (OURS, 2)))
    corners = generator.uniform(size=(OURS, 2)) * (np.array(SIZE_HW[::-1]) - sides)
    y, x = np.mgrid[:SIDE, :SIDE] / (SIDE - 1) * 2 - 1
    noise = generator.normal(0, 0.1, (OURS, SIDE, SIDE))
    probs = 1 / (1 + np.exp(8 * (x**2 + y**2 - 0.8 + noise)))
    return Result(
        boxes=np.concatenate([corners, corners + sides], 1).astype(np.float32),
        scores=np.linspace(1, 0.5, OURS, dtype=np.float32),
        labels=np.zeros(OURS, np.int64),
        size_hw=SIZE_HW,
        metadata=Metadata(("object",), (1,)),
        mask_probs=probs.astype(np.float32),
    )


if __name__ == "__main__":
    main()
