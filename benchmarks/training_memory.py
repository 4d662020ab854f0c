"""Memory of a training step of ResNet-50-FPN, by the number of objects in a picture; ours alone.

python benchmarks/training_memory.py [--objects 10,1000] [--size 1024] [--batch 1] [--device cuda]

With --recompute each step is measured with and without recomputed activations, its time too.
"""

import contest

from maskrcnn.bench.timing import take_turns
from maskrcnn.bench.training import StepSpec, make_step, step_memory


def main() -> None:
    parser = contest.arguments("memory of a training step, by the number of objects in a picture", repeats=1)
    parser.add_argument("--objects", default="10,1000", help="numbers of objects (default: 10,1000)")
    parser.add_argument("--size", type=int, default=1024, help="side of the pictures (default: 1024)")
    parser.add_argument("--batch", type=int, default=1, help="pictures per step (default: 1)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--precision", choices=("float32", "bf16"), default="float32")
    parser.add_argument("--recompute", action="store_true", help="compare with recomputed activations")
    parser.add_argument("--recipe", default="resnet50_fpn", help="network (default: resnet50_fpn)")
    given = parser.parse_args()
    memory: dict[int, int] = {}
    recomputed: dict[int, dict[str, float]] = {}
    for objects in map(int, given.objects.split(",")):
        side = (given.size, given.size)
        spec = StepSpec(
            given.recipe, given.device, given.precision, given.batch, side, objects, given.threads
        )
        memory[objects] = step_memory(make_step, spec) or 0
        ratio = memory[objects] / next(iter(memory.values()))
        print(f"{objects} objects: {memory[objects] / 1e6:.0f} MB, {ratio:.3f} of the first", flush=True)
        if given.recompute:
            recomputed[objects] = compare(spec, memory[objects], given.repeats)
    contest.write(given.json, {"peak_bytes_by_objects": memory, "recomputed": recomputed})


def compare(spec: StepSpec, plain_bytes: int, repeats: int) -> dict[str, float]:
    """Return memory and time of a step with recomputed activations, as shares of the plain one's."""
    ours = spec._replace(recompute=True)
    memory = (step_memory(make_step, ours) or 0) / plain_bytes
    timings = take_turns({"plain": make_step(spec), "recomputed": make_step(ours)}, repeats=repeats)
    time = timings["recomputed"].median / timings["plain"].median
    print(f"  recomputed activations: {memory:.2f} of the memory, {time:.2f} of the time", flush=True)
    return {"memory": memory, "time": time}


if __name__ == "__main__":
    main()
