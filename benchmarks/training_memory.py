"""Memory of a training step of ResNet-50-FPN, by the number of objects in a picture; ours alone.

python benchmarks/training_memory.py [--objects 10,1000] [--size 1024] [--batch 1] [--device cuda]
"""

import contest

from maskrcnn.bench.training import StepSpec, make_step, step_memory


def main() -> None:
    parser = contest.arguments("memory of a training step, by the number of objects in a picture", repeats=1)
    parser.add_argument("--objects", default="10,1000", help="numbers of objects (default: 10,1000)")
    parser.add_argument("--size", type=int, default=1024, help="side of the pictures (default: 1024)")
    parser.add_argument("--batch", type=int, default=1, help="pictures per step (default: 1)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--precision", choices=("float32", "bf16"), default="float32")
    given = parser.parse_args()
    memory: dict[int, int] = {}
    for objects in map(int, given.objects.split(",")):
        side = (given.size, given.size)
        spec = StepSpec(
            "resnet50_fpn", given.device, given.precision, given.batch, side, objects, given.threads
        )
        memory[objects] = step_memory(make_step, spec) or 0
        ratio = memory[objects] / next(iter(memory.values()))
        print(f"{objects} objects: {memory[objects] / 1e6:.0f} MB, {ratio:.3f} of the first", flush=True)
    contest.write(given.json, {"peak_bytes_by_objects": memory})


if __name__ == "__main__":
    main()
