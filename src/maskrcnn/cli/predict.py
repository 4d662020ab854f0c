"""``maskrcnn predict``."""

from __future__ import annotations

import argparse
from pathlib import Path

from maskrcnn.cli.arguments import WEIGHTS, Commands, add_acceleration, add_device


def add(commands: Commands) -> None:
    """Add the command and its arguments."""
    parser = commands.add_parser(
        "predict",
        help="detect objects in pictures",
        description="Detect objects in pictures. Writes an overlay of each picture, results.json (COCO's "
        "result list) and images.json (the pictures and classes that its ids refer to). results.jsonl grows "
        "with each picture, so that an interrupted prediction loses nothing: --resume continues it.",
    )
    parser.add_argument("weights", metavar="WEIGHTS", help=f"{WEIGHTS}, or a file of maskrcnn export")
    parser.add_argument(
        "pictures", nargs="+", metavar="PICTURE", help="files, folders (with their subfolders) or patterns"
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("predictions"),
        metavar="DIR",
        help="folder to write to (default: predictions)",
    )
    parser.add_argument(
        "--score",
        type=float,
        help="lowest score of an object, from 0 to 1 (default: for each class the score with the best F1 on "
        "the validation pictures of its training; 0.5 where WEIGHTS has none)",
    )
    parser.add_argument(
        "--classes",
        nargs="+",
        default=[],
        metavar="NAME",
        help="only objects of these classes (default: all)",
    )
    parser.add_argument(
        "--max-detections", type=int, metavar="N", help="most objects in a picture (default: the network's)"
    )
    parser.add_argument(
        "--batch", type=int, default=1, metavar="N", help="pictures of one size at a time (default: 1)"
    )
    parser.add_argument(
        "--workers", type=int, default=2, metavar="N", help="threads that read and draw (default: 2)"
    )
    parser.add_argument(
        "--resume", action="store_true", help="skip the pictures that are done in DIR, and keep their results"
    )
    add_device(parser)
    add_acceleration(parser)
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the command; return its exit status."""
    from maskrcnn.data.picture_files import find_pictures
    from maskrcnn.fast.memory import keep_memory
    from maskrcnn.predict.load import load
    from maskrcnn.predict.write import Selection, describe_thresholds, write_predictions

    keep_memory()
    if arguments.score is not None and not 0 <= arguments.score <= 1:
        raise ValueError(f"--score must be from 0 to 1, not {arguments.score:g}")
    for name in ("batch", "workers", "max_detections"):
        if (number := getattr(arguments, name)) is not None and number < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1, not {number}")
    paths = find_pictures(arguments.pictures)
    most = arguments.max_detections
    predictor = load(
        arguments.weights,
        arguments.device,
        options=None if most is None else {"boxes.max_detections": most},
        precision=arguments.precision,
        compile=arguments.compile,
        capture=arguments.capture,
    )
    print(describe_thresholds(predictor.metadata, arguments.score), flush=True)
    summary = write_predictions(
        predictor,
        paths,
        arguments.output,
        Selection(arguments.score, tuple(arguments.classes)),
        network=arguments.weights,
        batch_size=arguments.batch,
        workers=arguments.workers,
        resume=arguments.resume,
    )
    print(f"pictures {arguments.output}")
    return 1 if summary.failures else 0
