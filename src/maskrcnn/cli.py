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


_SIDES = {"short_sides", "long_side", "test_short_side", "test_long_side"}  # settings that a network keeps
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
        choices=("boundary", "lvis"),
        default=[],
        help="to judge beside boxes, masks and keypoints: masks' boundaries; by LVIS' rules",
    )
    evaluate.add_argument(
        "--report", type=Path, metavar="DIR", help="write a page: curves, errors, worst pictures"
    )
    evaluate.add_argument("--output", type=Path, default=Path("metrics.json"), metavar="metrics.json")
    _add_speed(evaluate)
    evaluate.set_defaults(command=_evaluate)

    predict = commands.add_parser("predict", help="find objects in pictures")
    predict.add_argument("weights", metavar="WEIGHTS", help=f"{_WEIGHTS}, or one of maskrcnn export")
    predict.add_argument("pictures", nargs="+", metavar="PICTURE", help="files, folders or patterns")
    predict.add_argument("--output", type=Path, default=Path("predictions"), metavar="DIR")
    predict.add_argument("--score", type=float, default=0.5, help="least confidence (default: 0.5)")
    _add_speed(predict)
    predict.set_defaults(command=_predict)

    _add_bench(commands.add_parser("bench", help="measure detection on this machine"))
    _add_export(commands.add_parser("export", help="write a network for another runtime, and check it"))
    _add_weights(commands.add_parser("weights", help="list, describe, convert and compare weights"))
    _add_paper(commands.add_parser("paper", help="the paper's tables: list them, train and judge their rows"))
    return parser


def _add_bench(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--recipe", default="resnet50_fpn", help="the network (default: resnet50_fpn)")
    parser.add_argument(
        "--size", type=_size, default=(800, 1216), metavar="HxW", help="of pictures, in pixels"
    )
    parser.add_argument("--batch", type=int, default=1, metavar="N", help="pictures at once (default: 1)")
    parser.add_argument("--against", choices=("torchvision",), help="with the same weights, in turns")
    parser.add_argument("--train", action="store_true", help="measure a training step, not a detection")
    parser.add_argument("--objects", type=int, default=10, metavar="N", help="a picture, for --train")
    _add_speed(parser)
    parser.add_argument("--device", choices=("cpu", "cuda", "mps", "auto"), default="auto")
    parser.add_argument("--repeats", type=int, default=10, metavar="N", help="timed turns (default: 10)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures, too")
    parser.set_defaults(command=_bench)


def _add_speed(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--precision",
        choices=("float32", "bf16"),
        default="float32",
        help="of the network's layers; bf16 is faster on GPUs and on processors that calculate in it",
    )
    either = parser.add_mutually_exclusive_group()
    either.add_argument(
        "--compile", action="store_true", help="compile the network: a slow start, then faster"
    )
    either.add_argument(
        "--capture", action="store_true", help="record a CUDA graph for each size: for pictures of few sizes"
    )


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise argparse.ArgumentTypeError(f"expected HxW in pixels, such as 800x1216, not {text}")
    return int(height), int(width)


def _add_export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("weights", metavar="WEIGHTS", help=_WEIGHTS)
    parser.add_argument("--format", choices=("onnx", "openvino", "torch", "aotinductor"), default="onnx")
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
    return None if text == "dynamic" else _size(text)


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
    convert.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="field=value",
        dest="sets",
        help="what the file does not tell: recipe.NAME, test_short_side, test_long_side",
    )
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
    from maskrcnn.memory import keep_memory
    from maskrcnn.predict import Speed, predictor_of
    from maskrcnn.training.start import open_split
    from maskrcnn.weights.trained import read_trained

    if arguments.max_detections is not None and arguments.max_detections < 1:
        raise ValueError(f"--max-detections must be at least 1, not {arguments.max_detections}")
    keep_memory()
    trained = read_trained(arguments.weights)
    speed = Speed(arguments.precision, arguments.compile, arguments.capture)
    predictor = predictor_of(trained, trained.build(), speed=speed)
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


def _predict(arguments: argparse.Namespace) -> int:
    from maskrcnn.data.pictures import find_pictures
    from maskrcnn.memory import keep_memory
    from maskrcnn.predict import load, write_predictions

    keep_memory()
    if not 0 <= arguments.score <= 1:
        raise ValueError(f"--score must be from 0 to 1, not {arguments.score:g}")
    paths = find_pictures(arguments.pictures)
    predictor = load(
        arguments.weights,
        precision=arguments.precision,
        compile=arguments.compile,
        capture=arguments.capture,
    )
    summary = write_predictions(predictor, paths, arguments.output, arguments.score)
    print(f"pictures {arguments.output}")
    return 1 if summary.failures else 0


def _bench(arguments: argparse.Namespace) -> int:
    from rich import print as print_tables

    from maskrcnn.bench.inference import bench, printed
    from maskrcnn.bench.training import Work, bench_training, printed_training
    from maskrcnn.files import write_json
    from maskrcnn.predict import Speed, resolve_device

    for name in ("batch", "repeats", "objects"):
        if getattr(arguments, name) < 1:
            raise ValueError(f"--{name} must be at least 1, not {getattr(arguments, name)}")
    if arguments.train and (arguments.compile or arguments.capture):
        raise ValueError("--compile and --capture are for detection: leave them away with --train")
    speed = Speed(arguments.precision, arguments.compile, arguments.capture)
    device = resolve_device(arguments.device)
    if arguments.train:
        work = Work(
            arguments.recipe,
            str(device),
            arguments.precision,
            arguments.batch,
            arguments.size,
            arguments.objects,
            _threads(),
        )
        figures = bench_training(work, against=arguments.against, repeats=arguments.repeats)
        print_tables(printed_training(figures))
    else:
        figures = bench(
            arguments.recipe,
            arguments.size,
            batch_size=arguments.batch,
            against=arguments.against,
            speed=speed,
            device=device,
            repeats=arguments.repeats,
        )
        print_tables(printed(figures))
    if arguments.json:
        write_json(arguments.json, figures)
        print(f"figures {arguments.json}")
    return 0


def _threads() -> int:
    import torch

    return torch.get_num_threads()


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
    given = {text.partition("=")[0] for text in arguments.sets} - {f"recipe.{name}" for name in options}
    if strangers := sorted(given - _SIDES):
        raise ValueError(
            f"--set {strangers[0]}: a conversion trains nothing: it takes only arguments of the recipe, as "
            f"recipe.NAME=VALUE, and the sizes of pictures: {', '.join(sorted(_SIDES))}"
        )
    names = arguments.classes.split(",") if arguments.classes else None
    sides = settings.test_sides if given else None
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
    _, options = parse_sets(arguments.sets, Options)
    report = run_table(
        table,
        arguments.data,
        arguments.output / arguments.table,
        settings=lambda row: parse_sets(arguments.sets, Options, settings_of(table, row, arguments.scale))[0],
        seeds=arguments.seeds,
        init=arguments.init or (IMAGENET if arguments.scale == "full" else None),
        options=options,
    )
    print_table(report.printed)
    print(f"figures {report.figures}\npage {report.page}")
    return 0
