"""``maskrcnn evaluate``."""

from __future__ import annotations

import argparse
from pathlib import Path

from maskrcnn.cli.arguments import WEIGHTS, Commands, acceleration_of, add_acceleration, add_device
from maskrcnn.cli.check import check_first


def add(commands: Commands) -> None:
    """Add the command's arguments."""
    parser = commands.add_parser("evaluate", help="compute the average precision (AP) of a network")
    parser.add_argument("weights", metavar="WEIGHTS", help=WEIGHTS)
    parser.add_argument(
        "data", type=Path, metavar="DATA", help="folder in the layout of COCO, Roboflow or Cityscapes"
    )
    parser.add_argument(
        "--split", choices=("train", "val", "test"), default="val", help="which images of it (default: val)"
    )
    parser.add_argument(
        "--max-detections",
        type=int,
        metavar="N",
        help="maximum number of detections of a class in an image (default: as many as the network returns)",
    )
    parser.add_argument(
        "--also",
        nargs="+",
        choices=("boundary", "lvis"),
        default=[],
        help="also report: boundary = boundary AP, lvis = LVIS AP",
    )
    parser.add_argument(
        "--report",
        type=Path,
        metavar="DIR",
        help="write an HTML page into this folder: metrics, curves, types of error, worst images",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("metrics.json"),
        metavar="FILE",
        help="write the metrics to this file (default: metrics.json)",
    )
    add_device(parser)
    add_acceleration(parser)
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    from rich import print as print_tables

    from maskrcnn.evaluation.report import write_report
    from maskrcnn.evaluation.run import evaluate
    from maskrcnn.evaluation.tables import metrics_tables, write_metrics
    from maskrcnn.fast.memory import keep_memory
    from maskrcnn.predict.predictor import Predictor
    from maskrcnn.training.setup import open_evaluated
    from maskrcnn.weights.model_checkpoint import read_model

    if arguments.max_detections is not None and arguments.max_detections < 1:
        raise ValueError(f"--max-detections must be at least 1, not {arguments.max_detections}")
    check_first(arguments.data)
    keep_memory()
    trained = read_model(arguments.weights)
    predictor = Predictor.from_checkpoint(
        trained, device=arguments.device, acceleration=acceleration_of(arguments)
    )
    run_folder = Path(arguments.weights).parent
    dataset = open_evaluated(arguments.data, arguments.split, trained, run_folder)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)  # fails before the evaluation, not after it
    evaluation = evaluate(
        predictor,
        dataset,
        max_detections=arguments.max_detections or trained.max_detections,
        also=arguments.also,
    )
    print_tables(metrics_tables(evaluation.metrics))
    write_metrics(arguments.output, evaluation.metrics)
    print(f"metrics {arguments.output}")
    if arguments.report:
        page = write_report(
            arguments.report,
            evaluation,
            image_paths=dict(zip(dataset.image_ids.tolist(), dataset.paths, strict=True)),
            capacity=trained.max_detections,
            title=f"{arguments.weights} on {arguments.data}, {arguments.split}",
        )
        print(f"report {page}")
    return 0
