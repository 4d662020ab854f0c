"""``maskrcnn demo``: everything once, in minutes: a data set, a training, an evaluation, predictions."""

from __future__ import annotations

import argparse
from pathlib import Path

from maskrcnn.cli.arguments import Commands
from maskrcnn.training.settings import Settings

# Trains from scratch on synthetic pictures of 128 × 128 px, within 3.5 minutes on two CPU cores
_DEMO_PICTURES = 16
_DEMO_RECIPE = {
    "pyramid.channels": 64,
    "masks.channels": 64,
    "boxes.hidden": 256,
    "proposals.anchor_sizes": (16.0, 32.0, 48.0, 64.0, 96.0),
    "proposals.aspect_ratios": (1.0,),
    "proposals.post_nms": 100,
    "boxes.samples_per_image": 64,
}
_DEMO = Settings.of(
    steps=100_000,
    time_limit=3.4,
    batch_size=4,
    algorithm="adamw",
    lr=0.002,
    weight_decay=0.01,
    warmup_steps=50,
    decay="cosine",
    short_sides=None,
    log_every=20,
    eval_every=None,
    workers=0,
)


def add(commands: Commands) -> None:
    """Add the command and its arguments."""
    parser = commands.add_parser(
        "demo",
        help="make a small data set, train on it, evaluate and predict",
        description="Make a data set of synthetic pictures, train a small network on it, evaluate it and "
        "write predictions, in less than five minutes on two CPU cores. An interrupted demo resumes.",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("maskrcnn-demo"),
        metavar="DIR",
        help="folder for the data set and all results (default: maskrcnn-demo)",
    )
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the command; return its exit status."""
    from maskrcnn.data.synthetic import synthetic_dataset
    from maskrcnn.evaluation.tables import write_metrics
    from maskrcnn.predict.load import load as load_predictor
    from maskrcnn.predict.write import write_predictions
    from maskrcnn.training.checkpoint import load
    from maskrcnn.training.loop import resume_training, train

    output: Path = arguments.output
    data = synthetic_dataset(output / "data")
    if (output / "last.pt").exists():
        weights = resume_training(data, output=output, settings=_DEMO)
    else:
        weights = train(
            data, recipe="resnet18_fpn", recipe_arguments=_DEMO_RECIPE, output=output, settings=_DEMO
        )
    write_metrics(output / "metrics.json", load(weights).metrics)
    predictor = load_predictor(weights)
    write_predictions(predictor, sorted((data / "val").iterdir())[:_DEMO_PICTURES], output / "pictures")
    print(f"network {weights}\nmetrics {output / 'metrics.json'}\npictures {output / 'pictures'}")
    return 0
