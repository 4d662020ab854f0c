"""``maskrcnn evaluate``."""

from __future__ import annotations

import argparse
from pathlib import Path

from maskrcnn.cli.arguments import WEIGHTS, Commands, acceleration_of, add_acceleration


def add(commands: Commands) -> None:
    """Add the command's grammar."""
    evaluate = commands.add_parser("evaluate", help="measure COCO's average precision of a checkpoint")
    evaluate.add_argument("weights", metavar="WEIGHTS", help=WEIGHTS)
    evaluate.add_argument("data", type=Path, metavar="DATA")
    evaluate.add_argument("--split", choices=("train", "val"), default="val")
    evaluate.add_argument(
        "--max-detections",
        type=int,
        metavar="N",
        help="that count in a picture (default: all that are found)",
    )
    evaluate.add_argument(
        "--also",
        nargs="+",
        choices=("boundary", "lvis"),
        default=[],
        help="to judge beside boxes, masks and keypoints: masks' boundaries; by LVIS' rules",
    )
    evaluate.add_argument(
        "--report", type=Path, metavar="DIR", help="write a page: curves, errors, worst pictures"
    )
    evaluate.add_argument("--output", type=Path, default=Path("metrics.json"), metavar="metrics.json")
    add_acceleration(evaluate)
    evaluate.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the command; return its exit status."""
    from rich import print as print_table

    from maskrcnn.evaluation.cityscapes import cityscapes_metrics, is_cityscapes
    from maskrcnn.evaluation.coco import (
        Metrics,
        coco_metrics,
        detections_to_coco,
        predicted,
        table,
        truth_of,
        write_metrics,
    )
    from maskrcnn.evaluation.lvis import check_lvis, lvis_metrics
    from maskrcnn.evaluation.report import write_report
    from maskrcnn.fast.memory import keep_memory
    from maskrcnn.predict.predictor import Predictor
    from maskrcnn.training.setup import open_split
    from maskrcnn.weights.model_checkpoint import read_model

    if arguments.max_detections is not None and arguments.max_detections < 1:
        raise ValueError(f"--max-detections must be at least 1, not {arguments.max_detections}")
    keep_memory()
    trained = read_model(arguments.weights)
    predictor = Predictor.from_checkpoint(trained, acceleration=acceleration_of(arguments))
    dataset = open_split(arguments.data, arguments.split, trained)
    truth = truth_of(dataset)
    if "lvis" in arguments.also:
        check_lvis(truth)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)  # known to work before the work is done
    cap = arguments.max_detections or trained.max_detections
    detections, kinds = detections_to_coco(predicted(predictor, dataset.paths), dataset)
    also = [kind for kind in arguments.also if kind != "lvis"]
    metrics = coco_metrics(truth, detections, dict.fromkeys([*kinds, *also]), cap)
    print_table(table(metrics))
    benchmarks: Metrics = {}
    if is_cityscapes(truth):
        benchmarks["cityscapes"] = cityscapes_metrics(truth, detections)
        print_table(table({"segm": benchmarks["cityscapes"]}, "Cityscapes"))
    if "lvis" in arguments.also:
        benchmarks["lvis"] = lvis_metrics(truth, detections, [kind for kind in kinds if kind != "keypoints"])
        classless = {kind: {**numbers, "per_class": {}} for kind, numbers in benchmarks["lvis"].items()}
        print_table(table(classless, "LVIS"))  # the table above has a line for each of a thousand classes
    write_metrics(arguments.output, {**metrics, **benchmarks})
    print(f"metrics {arguments.output}")
    if arguments.report:
        paths = dict(zip(dataset.image_ids.tolist(), dataset.paths, strict=True))
        page = write_report(
            arguments.report,
            truth,
            detections,
            metrics,
            picture_of=paths.__getitem__,
            max_detections=cap,
            capacity=trained.max_detections,
            title=f"{arguments.weights} on {arguments.data}, {arguments.split}",
        )
        print(f"report {page}")
    return 0
