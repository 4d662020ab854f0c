"""The commands: ``maskrcnn demo``, ``train``, ``evaluate``, ``predict``, ``export`` and ``weights``."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from maskrcnn.training.settings import Settings, explain, parse_sets

_INTERRUPTED = 130  # what a shell reports after Ctrl-C

# From scratch on drawn pictures of 128 × 128 pixels, in less than three and a half minutes on two CPU cores
_DEMO_PICTURES = 16
_DEMO_RECIPE = {
    "channels": 64,
    "hidden": 256,
    "anchor_sizes": (16.0, 32.0, 48.0, 64.0, 96.0),
    "aspect_ratios": (1.0,),
    "proposals": 100,
    "budget": 64,
}
_DEMO = Settings(
    steps=100_000,
    time_limit=3.4,
    batch_size=4,
    optimiser="adamw",
    lr=0.002,
    weight_decay=0.01,
    warmup_steps=50,
    schedule="cosine",
    short_sides=None,
    log_every=20,
    eval_every=None,
    workers=0,
)


_WEIGHTS = "a file, such as runs/train/best.pt, or a published name (maskrcnn weights list)"


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return 0, 1 when not all could be done, 2 for a mistake in what was asked."""
    arguments = _parser().parse_args(argv)
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: print(f"maskrcnn: {message}", file=sys.stderr)
        try:
            return arguments.command(arguments)
        except (ValueError, FileNotFoundError) as error:
            print(f"maskrcnn: {error}", file=sys.stderr)
            return 2
        except FloatingPointError as error:
            print(f"maskrcnn: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            return _INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="maskrcnn", description="Mask R-CNN: train, evaluate and predict.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    demo = commands.add_parser("demo", help="draw a small data set, train on it, evaluate and predict")
    demo.add_argument("--output", type=Path, default=Path("maskrcnn-demo"), metavar="DIR")
    demo.set_defaults(command=_demo)

    train = commands.add_parser(
        "train",
        help="train a network on a folder in COCO layout",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"--set takes arguments of the recipe, as recipe.NAME=VALUE, and these fields:\n\n{explain()}",
    )
    train.add_argument(
        "data", metavar="DATA", help="folder with annotations/instances_{train,val}.json, or the like"
    )
    train.add_argument("--recipe", help="the network, of maskrcnn.recipes (default: resnet50_fpn)")
    train.add_argument("--output", type=Path, default=Path("runs/train"), metavar="DIR")
    train.add_argument(
        "--init",
        metavar="WEIGHTS",
        help="weights to start from: a file or a published name, of a network or body",
    )
    train.add_argument(
        "--synonyms",
        nargs="+",
        default=[],
        metavar="ours=theirs",
        help="classes of --init that are called otherwise there",
    )
    train.add_argument("--resume", action="store_true", help="go on from last.pt in the output folder")
    train.add_argument("--device", choices=("cpu", "cuda", "mps", "auto"), default="auto")
    train.add_argument("--set", nargs="+", action="extend", default=[], metavar="field=value", dest="sets")
    train.set_defaults(command=_train)

    evaluate = commands.add_parser("evaluate", help="measure COCO's average precision of a checkpoint")
    evaluate.add_argument("weights", metavar="WEIGHTS", help=_WEIGHTS)
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
        choices=("boundary",),
        default=[],
        help="to judge beside boxes, masks and keypoints",
    )
    evaluate.add_argument(
        "--report", type=Path, metavar="DIR", help="write a page: curves, errors, worst pictures"
    )
    evaluate.add_argument("--output", type=Path, default=Path("metrics.json"), metavar="metrics.json")
    evaluate.set_defaults(command=_evaluate)

    predict = commands.add_parser("predict", help="find objects in pictures")
    predict.add_argument("weights", metavar="WEIGHTS", help=f"{_WEIGHTS}, or one of maskrcnn export")
    predict.add_argument("pictures", nargs="+", metavar="PICTURE", help="files, folders or patterns")
    predict.add_argument("--output", type=Path, default=Path("predictions"), metavar="DIR")
    predict.add_argument("--score", type=float, default=0.5, help="least confidence (default: 0.5)")
    predict.set_defaults(command=_predict)

    _add_export(commands.add_parser("export", help="write a network for another runtime, and check it"))
    _add_weights(commands.add_parser("weights", help="list, describe, convert and compare weights"))
    _add_paper(commands.add_parser("paper", help="the paper's tables: list them, train and judge their rows"))
    return parser


def _add_export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("weights", metavar="WEIGHTS", help=_WEIGHTS)
    parser.add_argument("--format", choices=("onnx", "openvino", "torch"), default="onnx")
    parser.add_argument(
        "--size",
        type=_input_size,
        default=None,
        metavar="HxW",
        help="of the input, px; or dynamic, for any (default)",
    )
    parser.add_argument(
        "--batch",
        type=_input_batch,
        default=None,
        metavar="N",
        help="pictures of an input; or dynamic, for any number (default)",
    )
    parser.add_argument("--half", action="store_true", help="compute the layers in half precision")
    parser.add_argument(
        "--int8",
        type=Path,
        metavar="DATA",
        help="quantise on these pictures, for openvino: a folder, or a data set, by which both are judged",
    )
    parser.add_argument(
        "--picture", type=Path, metavar="FILE", help="to check the file by (default: one is drawn)"
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="(default: beside WEIGHTS)")
    parser.set_defaults(command=_export)


def _input_size(text: str) -> tuple[int, int] | None:
    height, _, width = text.partition("x")
    if text == "dynamic":
        return None
    if not (height.isdecimal() and width.isdecimal()):
        raise argparse.ArgumentTypeError(f"expected HxW in pixels, such as 800x1216, or dynamic, not {text}")
    return int(height), int(width)


def _input_batch(text: str) -> int | None:
    if text != "dynamic" and not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a number of pictures, or dynamic, not {text}")
    return None if text == "dynamic" else int(text)


def _add_weights(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    actions.add_parser("list", help="all published checkpoints").set_defaults(command=_weights_list)
    info = actions.add_parser("info", help="say which network a file holds")
    info.add_argument("weights", metavar="WEIGHTS", help=_WEIGHTS)
    info.set_defaults(command=_weights_info)
    convert = actions.add_parser("convert", help="write a network for this or another library")
    convert.add_argument("weights", metavar="WEIGHTS", help=_WEIGHTS)
    convert.add_argument("output", type=Path, metavar="OUT", help="a .pt, .pth or .pkl file")
    convert.add_argument("--layout", choices=("maskrcnn", "torchvision", "detectron2"), default="maskrcnn")
    convert.add_argument("--classes", metavar="A,B,…", help="their names, where the file does not know them")
    convert.add_argument("--set", nargs="+", action="extend", default=[], metavar="field=value", dest="sets")
    convert.set_defaults(command=_weights_convert)
    compare = actions.add_parser("compare", help="say where two networks differ")
    compare.add_argument("weights", metavar="A", help=_WEIGHTS)
    compare.add_argument("other", metavar="B")
    compare.set_defaults(command=_weights_compare)


def _add_paper(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    actions.add_parser("list", help="every row with its published figure").set_defaults(command=_paper_list)
    run = actions.add_parser("run", help="train and judge rows, beside their published figures")
    run.add_argument("table", metavar="TABLE", help="such as 2c (maskrcnn paper list)")
    run.add_argument("rows", nargs="*", metavar="ROW", help="their names (default: all)")
    run.add_argument("--data", type=Path, required=True, metavar="DATA")
    run.add_argument("--output", type=Path, default=Path("runs/paper"), metavar="DIR")
    run.add_argument(
        "--scale", choices=("full", "small"), default="full", help="the paper's schedule, or a small one"
    )
    run.add_argument("--body", help="for smaller machines, such as resnet18 (default: the row's own)")
    run.add_argument("--init", metavar="WEIGHTS", help="to start from (default: full ImageNet's, small none)")
    run.add_argument("--seeds", type=int, default=1, metavar="N")
    run.add_argument("--set", nargs="+", action="extend", default=[], metavar="field=value", dest="sets")
    run.set_defaults(command=_paper_run)


def _demo(arguments: argparse.Namespace) -> int:
    from maskrcnn.data.drawn import draw_dataset
    from maskrcnn.evaluation.coco import write_metrics
    from maskrcnn.predict import load as load_predictor
    from maskrcnn.predict import write_predictions
    from maskrcnn.training.checkpoint import load
    from maskrcnn.training.loop import train

    output: Path = arguments.output
    data = draw_dataset(output / "data")
    weights = train(
        data,
        recipe="resnet18_fpn",
        recipe_arguments=_DEMO_RECIPE,
        output=output,
        resume=(output / "last.pt").exists(),
        settings=_DEMO,
    )
    write_metrics(output / "metrics.json", load(weights).metrics)
    predictor = load_predictor(weights)
    write_predictions(predictor, sorted((data / "val").iterdir())[:_DEMO_PICTURES], output / "pictures")
    print(f"network {weights}\nmetrics {output / 'metrics.json'}\npictures {output / 'pictures'}")
    return 0


def _train(arguments: argparse.Namespace) -> int:
    from maskrcnn.recipes import Options
    from maskrcnn.training.checkpoint import load
    from maskrcnn.training.loop import train

    base = load(arguments.output / "last.pt").settings if arguments.resume else None
    settings, recipe_arguments = parse_sets(arguments.sets, Options, base)
    weights = train(
        arguments.data,
        recipe=arguments.recipe,
        recipe_arguments=recipe_arguments,
        output=arguments.output,
        init=arguments.init,
        synonyms=dict(_pair(text) for text in arguments.synonyms),
        resume=arguments.resume,
        device=arguments.device,
        settings=settings,
    )
    print(f"network {weights}")
    return 0


def _pair(text: str) -> tuple[str, str]:
    ours, equals, theirs = text.partition("=")
    if not equals:
        raise ValueError(f"--synonyms {text}: expected ours=theirs")
    return ours, theirs


def _evaluate(arguments: argparse.Namespace) -> int:
    from rich import print as print_table

    from maskrcnn.evaluation.cityscapes import cityscapes_metrics, is_cityscapes
    from maskrcnn.evaluation.coco import (
        coco_metrics,
        detections_to_coco,
        predicted,
        table,
        truth_of,
        write_metrics,
    )
    from maskrcnn.evaluation.report import write_report
    from maskrcnn.predict import predictor_of
    from maskrcnn.training.start import open_split
    from maskrcnn.weights.trained import read_trained

    if arguments.max_detections is not None and arguments.max_detections < 1:
        raise ValueError(f"--max-detections must be at least 1, not {arguments.max_detections}")
    trained = read_trained(arguments.weights)
    predictor = predictor_of(trained, trained.build())
    dataset = open_split(arguments.data, arguments.split, trained)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)  # known to work before the work is done
    cap = arguments.max_detections or trained.max_detections
    detections, kinds = detections_to_coco(predicted(predictor, dataset.paths), dataset)
    truth = truth_of(dataset)
    metrics = coco_metrics(truth, detections, dict.fromkeys([*kinds, *arguments.also]), cap)
    print_table(table(metrics))
    benchmark = {"cityscapes": cityscapes_metrics(truth, detections)} if is_cityscapes(truth) else {}
    for numbers in benchmark.values():
        print("Cityscapes: " + ", ".join(f"{name} {numbers[name] or 0.0:.1f}" for name in ("AP", "AP50")))
    write_metrics(arguments.output, {**metrics, **benchmark})
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


def _predict(arguments: argparse.Namespace) -> int:
    from maskrcnn.data.pictures import find_pictures
    from maskrcnn.predict import load, write_predictions

    if not 0 <= arguments.score <= 1:
        raise ValueError(f"--score must be from 0 to 1, not {arguments.score:g}")
    paths = find_pictures(arguments.pictures)
    summary = write_predictions(load(arguments.weights), paths, arguments.output, arguments.score)
    print(f"pictures {arguments.output}")
    return 1 if summary.failures else 0


def _export(arguments: argparse.Namespace) -> int:
    from rich import print as print_table

    from maskrcnn.export.check import table
    from maskrcnn.export.run import export

    written = export(
        arguments.weights,
        arguments.format,
        size_hw=arguments.size,
        batch=arguments.batch,
        half=arguments.half,
        int8=arguments.int8,
        picture=arguments.picture,
        output=arguments.output,
    )
    print_table(table(written.figures))
    for name, metrics in written.metrics.items():
        for kind, numbers in metrics.items():
            print(f"{name} {kind} AP {numbers['AP'] or 0.0:.1f}, AP50 {numbers['AP50'] or 0.0:.1f}")
    print(f"network {written.path}")
    return 0


def _weights_list(arguments: argparse.Namespace) -> int:
    from maskrcnn.weights.describe import published_list

    print(published_list())
    return 0


def _weights_info(arguments: argparse.Namespace) -> int:
    from maskrcnn.weights.describe import describe

    print(describe(arguments.weights))
    return 0


def _weights_convert(arguments: argparse.Namespace) -> int:
    from maskrcnn.recipes import Options
    from maskrcnn.weights.describe import convert

    settings, options = parse_sets(arguments.sets, Options)
    names = arguments.classes.split(",") if arguments.classes else None
    sides = settings.test_sides if any("_side" in text for text in arguments.sets) else None
    said = convert(
        arguments.weights,
        arguments.output,
        arguments.layout,
        class_names=names,
        options=options,
        sides=sides,
    )
    print(said)
    return 0


def _weights_compare(arguments: argparse.Namespace) -> int:
    from maskrcnn.weights.describe import compare

    differences = compare(arguments.weights, arguments.other)
    print("\n".join(differences) or "the same weights, to the bit")
    return 1 if differences else 0


def _paper_list(arguments: argparse.Namespace) -> int:
    from rich import print as print_table

    from maskrcnn.paper.tables import listed

    print_table(listed())
    return 0


def _paper_run(arguments: argparse.Namespace) -> int:
    from rich import print as print_table

    from maskrcnn.paper.run import IMAGENET, run_table, settings_of
    from maskrcnn.paper.tables import chosen
    from maskrcnn.recipes import Options

    if arguments.seeds < 1:
        raise ValueError(f"--seeds must be at least 1, not {arguments.seeds}")
    table = chosen(arguments.table, arguments.rows, arguments.body)
    settings, options = parse_sets(arguments.sets, Options, settings_of(table, arguments.scale))
    report = run_table(
        table,
        arguments.data,
        arguments.output / arguments.table,
        settings=settings,
        seeds=arguments.seeds,
        init=arguments.init or (IMAGENET if arguments.scale == "full" else None),
        options=options,
    )
    print_table(report.printed)
    print(f"figures {report.figures}\npage {report.page}")
    return 0
