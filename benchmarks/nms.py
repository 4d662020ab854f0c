"""Non-maximum suppression: `maskrcnn.ops.boxes.suppress` against torchvision's `nms` and `batched_nms`.

python benchmarks/nms.py [--json benchmarks/results/nms.json]
"""

from typing import Any

import contest
import torch
from torch import Tensor
from torchvision.ops import batched_nms, nms

from maskrcnn.ops.boxes import suppress

THRESHOLD = 0.7
COUNTS = (1000, 2000, 5000)


def main() -> None:
    parser = contest.arguments("NMS of random proposals, ours against torchvision", repeats=15)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = {}
    for count in COUNTS:
        boxes, scores, groups = proposals(count)
        for name, labels in (("nms", torch.zeros_like(groups)), ("batched_nms, 5 groups", groups)):
            title = f"{name}, {count} boxes"
            rows[title] = compare(title, boxes, scores, labels, arguments.repeats)
    contest.write(arguments.json, {"threshold": THRESHOLD, "rows": rows})


def proposals(count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return boxes scattered around a tenth as many objects, in an image of 1216 × 800 px."""
    generator = torch.Generator().manual_seed(count)
    objects = torch.rand(count // 10, 4, generator=generator)
    objects = objects * torch.tensor([1216, 800, 300, 300]) + torch.tensor([0, 0, 16, 16])
    boxes = objects[torch.randint(len(objects), (count,), generator=generator)]
    boxes = boxes + 0.07 * boxes[:, 2:].repeat(1, 2) * torch.randn(count, 4, generator=generator)
    centre, half = boxes[:, :2], boxes[:, 2:].abs() / 2
    groups = torch.randint(5, (count,), generator=generator)
    return torch.cat((centre - half, centre + half), 1), torch.rand(count, generator=generator), groups


def compare(title: str, boxes: Tensor, scores: Tensor, groups: Tensor, repeats: int) -> dict[str, Any]:
    valid = torch.ones_like(scores, dtype=torch.bool)

    def ours() -> Tensor:
        return suppress(boxes[None], scores[None], groups[None], valid[None], THRESHOLD)[0]

    def theirs() -> Tensor:
        grouped = bool(groups.any())
        return batched_nms(boxes, scores, groups, THRESHOLD) if grouped else nms(boxes, scores, THRESHOLD)

    keep = ours().nonzero().flatten()
    equal = torch.equal(keep, theirs().sort().values)
    times = contest.take_turns({"ours": ours, "theirs": theirs}, repeats=repeats)
    result = contest.row(title, times["ours"], times["theirs"])
    print(f"{'':<36} keeps {len(keep)} boxes, {'the same as' if equal else 'NOT the same as'} torchvision")
    return {**result, "kept": len(keep), "equal": equal}


if __name__ == "__main__":
    main()
