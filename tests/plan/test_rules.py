"""Each kind of data gets the settings that suit it."""

from dataclasses import replace

import pytest

from maskrcnn import recipes
from maskrcnn.plain import options_of, with_values
from maskrcnn.plan.fingerprint import Fingerprint, ObjectStatistics
from maskrcnn.plan.lines import Wish
from maskrcnn.plan.machine import Machine
from maskrcnn.plan.memory import StepMemory
from maskrcnn.plan.rules import plan
from maskrcnn.plan.view import choose_view
from maskrcnn.training.settings import Settings

CPU, GPU = Machine("cpu", 4, 8 << 30, "bf16"), Machine("cuda:0", 16, 40 << 30, "bf16")
NUCLEI = Fingerprint(
    pictures=564,
    size_hw=(256.0, 320.0),
    longest_side=1388,
    is_grey=False,
    white=None,
    classes=(24_197,),
    class_pictures=(564,),
    keypoints=0,
    has_up=False,
    objects=ObjectStatistics(
        24_197, (26.0, 259.0, 375.0), (6.0, 8.0, 17.0, 43.0, 53.0), 0.76, 0.03, 0.1, 0.1, 19_460, 0.11
    ),
)
LARGE = replace(  # a few large objects a photo, five classes
    NUCLEI,
    pictures=113,
    size_hw=(600.0, 800.0),
    longest_side=800,
    classes=(40, 40, 30, 30, 2),
    class_pictures=(35, 35, 25, 25, 2),
    has_up=True,
    objects=ObjectStatistics(
        142, (1.0, 3.0, 4.0), (74.0, 86.0, 164.0, 360.0, 457.0), 0.52, 0.01, 0.0, 0.1, 37, 0.09
    ),
)
HUGE = replace(  # 12 megapixels with objects of 10 px
    NUCLEI,
    size_hw=(3000.0, 4000.0),
    longest_side=4000,
    objects=ObjectStatistics(
        500, (5.0, 20.0, 30.0), (8.0, 9.0, 10.0, 12.0, 13.0), 0.9, 0.0, 0.0, 0.0, 500, 0.001
    ),
)


def names(made):
    return {line.name for line in made.lines}


def value(made, name):
    [line] = [line for line in made.lines if line.name == name]
    assert len(line.reason) > 4
    return line.value


@pytest.mark.parametrize("data", [NUCLEI, LARGE, HUGE])
@pytest.mark.parametrize("machine", [CPU, GPU])
@pytest.mark.parametrize("minutes", [None, 5.0])
@pytest.mark.parametrize("start", ["scratch", "backbone", "detector"])
def test_a_plan_is_a_pure_function_of_settings_that_exist(data, machine, minutes, start):
    wish = Wish(minutes=minutes, start=start)
    made = plan(data, machine, wish)
    assert made == plan(data, machine, wish)
    assert len({line.name for line in made.lines}) == len(made.lines)
    recipe = recipes.options_of_recipe(made.recipe or "resnet50_fpn")
    settings = with_values(Settings(), made.values(options_of(Settings())))
    options = made.values(options_of(recipe))
    with_values(recipe, options)
    assert len(options) + len(made.values(options_of(Settings()))) == len(made.lines) - 2  # recipe, init
    assert settings.length.time_limit == minutes


def test_crowded_small_pictures_are_learnt_in_windows_as_the_log_found_best():
    made = plan(NUCLEI, CPU, Wish(minutes=15.0))
    expected = {
        "pictures.short_sides": None,
        "augmentation.crop": (256, 256),
        "augmentation.scale": (0.6, 1.6),
        "augmentation.object_crops": 0.33,
        "augmentation.flip_vertical": 0.5,
        "augmentation.quarter_turns": 0.5,
        "augmentation.copy_paste": 0.5,
        "proposals.anchor_sizes": (8.0, 16.0, 32.0, 64.0, 128.0),
        "proposals.aspect_ratios": (1.0,),
        "boxes.max_detections": 400,
        "pyramid.channels": 128,
        "optimiser.lr": 0.002,
        "step.precision": "bf16",
        "length.steps": None,
    }
    assert made.recipe == "resnet18_fpn" and {name: value(made, name) for name in expected} == expected
    assert value(made, "pictures.long_side") == 1388


def test_a_few_large_objects_are_learnt_from_whole_small_pictures():
    made = plan(LARGE, CPU, Wish(minutes=15.0))
    assert value(made, "pictures.short_sides") == (224, 256, 288)
    assert value(made, "pictures.test_short_side") == 256
    assert value(made, "masks.coding") == "class_agnostic" and value(made, "boxes.max_detections") == 100
    absent = {"crop", "object_crops", "scale", "flip_vertical", "quarter_turns"}
    assert not {f"augmentation.{name}" for name in absent} & names(made)
    # the smallest twentieth has 74 * 256 / 600 = 32 px
    assert value(made, "proposals.anchor_sizes") == (32.0, 64.0, 128.0, 256.0, 512.0)
    assert value(made, "proposals.aspect_ratios") == (0.5, 1.0, 2.0)


def test_tiny_objects_in_large_pictures_are_never_shrunk_away():
    made = plan(HUGE, CPU, Wish(minutes=5.0))
    assert value(made, "pictures.short_sides") is None and value(made, "pictures.long_side") == 4000
    assert value(made, "augmentation.crop") == (256, 256)
    assert choose_view(HUGE, is_gpu=True).crop == 256


def test_the_length_comes_from_the_data_where_no_time_is_given():
    assert value(plan(NUCLEI, CPU, Wish()), "length.steps") == 300 * 564 // 4
    assert value(plan(LARGE, CPU, Wish()), "length.steps") == 8475  # 300 passes over 113
    few = replace(LARGE, pictures=16)
    assert value(plan(few, CPU, Wish()), "step.batch_size") == 2  # 5 % of the pictures
    assert value(plan(few, CPU, Wish()), "length.steps") == 5000  # at least
    assert value(plan(few, CPU, Wish(start="backbone")), "length.steps") == 1000
    many = replace(NUCLEI, pictures=118_000)
    assert value(plan(many, GPU, Wish(start="detector")), "length.steps") == 12 * 118_000 // 16


def test_a_trained_network_keeps_what_its_weights_were_trained_with():
    assert not names(plan(LARGE, CPU, Wish(start="detector"))) & {
        "proposals.anchor_sizes",
        "proposals.aspect_ratios",
        "pyramid.channels",
        "masks.coding",
    }
    assert plan(LARGE, CPU, Wish(start="detector")).recipe is None
    assert plan(LARGE, CPU, Wish(recipe="resnet34_fpn", start="detector")).recipe == "resnet34_fpn"


def test_long_objects_get_long_anchors():
    data = replace(LARGE, objects=replace(LARGE.objects, share_long=0.2))
    assert value(plan(data, CPU, Wish()), "proposals.aspect_ratios") == (0.25, 0.5, 1.0, 2.0, 4.0)


def timed(machine, seconds):
    return replace(machine, picture_seconds=seconds)


def test_minutes_that_suffice_change_nothing():
    # 15 minutes * 60 * 0.92 = 828 s are 40 passes over 113 pictures of 0.183 s
    made = plan(LARGE, timed(CPU, 0.18), Wish(minutes=15.0))
    assert made == plan(LARGE, CPU, Wish(minutes=15.0))
    assert plan(LARGE, timed(CPU, 9.0), Wish()) == plan(LARGE, CPU, Wish())  # no minutes, no limit


SMALL_ONES = replace(  # 640 x 480 px with objects for which 512 px are right
    LARGE,
    pictures=128,
    size_hw=(480.0, 640.0),
    objects=ObjectStatistics(
        900, (4.0, 9.0, 12.0), (10.0, 13.0, 40.0, 200.0, 300.0), 0.5, 0.01, 0.0, 0.1, whole=300, cover=0.2
    ),
)


@pytest.mark.parametrize(
    ("seconds", "side"),
    [
        (0.16, 512),  # 828 / (0.16 * 128) = 40.4 passes
        (0.20, 448),  # 32.3; (448 / 512)² of the time are 42.2
        (0.40, 320),  # 16.2; 352 px would be 34.2, 320 px are 41.4
        (9.0, 256),  # a tenth of the objects has less than 13 * 256 / 480 = 7 px
    ],
)
def test_fewer_minutes_take_smaller_pictures_and_say_so(seconds, side):
    made = plan(SMALL_ONES, timed(CPU, seconds), Wish(minutes=15.0))
    assert value(made, "pictures.test_short_side") == side
    [line] = [line for line in made.lines if line.name == "pictures.short_sides"]
    loss = "512 px would suit them better, but leave 15 minutes fewer than 40 passes over the pictures"
    assert (loss in line.reason) == (side != 512)


def test_pictures_stay_large_enough_for_their_objects():
    tiny = replace(SMALL_ONES.objects, sides=(7.0, 8.0, 30.0, 200.0, 300.0))  # 6 px of 8 at 360 px
    assert (
        value(
            plan(replace(SMALL_ONES, objects=tiny), timed(CPU, 9.0), Wish(minutes=15.0)),
            "pictures.test_short_side",
        )
        == 384
    )
    # what a trained network knows has 32 px: half of the objects have 40 * 384 / 480
    known = plan(SMALL_ONES, timed(CPU, 9.0), Wish(minutes=15.0, start="detector"))
    assert value(known, "pictures.test_short_side") == 384


def test_trained_weights_need_half_of_the_passes():
    made = plan(SMALL_ONES, timed(CPU, 0.3), Wish(minutes=15.0, start="backbone", recipe="resnet18_fpn"))
    assert value(made, "pictures.test_short_side") == 512  # 21.6 passes


def test_windows_shrink_but_hold_whole_objects():
    crowded = replace(NUCLEI.objects, sides=(6.0, 7.0, 23.0, 109.0, 146.0))
    data = replace(NUCLEI, pictures=12, objects=crowded)
    assert value(plan(data, timed(CPU, 9.0), Wish(minutes=15.0)), "augmentation.crop") == (256, 256)
    # 828 / (2.2 * 12) = 31.4 passes; (320 / 384)² of the time are 45.2, (352 / 384)² 37.3
    assert value(plan(data, timed(CPU, 2.2), Wish(minutes=15.0)), "augmentation.crop") == (320, 320)
    larger = replace(data, objects=replace(crowded, sides=(6.0, 7.0, 23.0, 300.0, 350.0)))
    assert value(plan(larger, timed(CPU, 9.0), Wish(minutes=15.0)), "augmentation.crop") == (320, 320)


def test_a_gpu_takes_a_smaller_body_only_after_smaller_pictures():
    def bodies(seconds):
        made = plan(LARGE, timed(GPU, seconds), Wish(minutes=1.0))
        return made.recipe, value(made, "pictures.test_short_side")

    # 55.2 s are 40 passes over 113 pictures of 0.0122 s at 512 px, and of 0.0488 s at 256 px
    assert bodies(0.012) == ("resnet50_fpn", 512)
    assert bodies(0.045) == ("resnet50_fpn", 256)
    assert bodies(0.05) == ("resnet18_fpn", 256)
    small = replace(GPU, memory=4 << 30)
    assert plan(LARGE, small, Wish()).recipe == "resnet18_fpn"


@pytest.mark.parametrize(("overlap", "threshold"), [(0.5, None), (0.52, 0.57), (0.7, 0.75), (0.9, 0.8)])
def test_neighbours_that_overlap_are_both_kept(overlap, threshold):
    data = replace(LARGE, objects=replace(LARGE.objects, overlap=overlap))
    made = plan(data, CPU, Wish(start="detector"))
    assert made.values(["boxes.nms_threshold"]).get("boxes.nms_threshold") == threshold


def with_objects(data, **changes):
    return replace(data, objects=replace(data.objects, **changes))


def test_whole_pictures_are_scaled_by_more_the_longer_they_are_looked_at():
    """In the input of LARGE a px of the file has 256 / 600; the smallest twentieth has 31.6 px of it."""
    long = plan(LARGE, CPU, Wish())
    assert value(long, "augmentation.scale") == (0.5, 2.0)  # 300 passes over few pictures
    assert value(long, "augmentation.crop") == (352, 352)  # 800 px become 341
    assert value(long, "augmentation.object_crops") == 0.33
    many = replace(LARGE, pictures=6000, class_pictures=(3000, 2000, 2000, 1000, 500))
    assert value(plan(many, CPU, Wish()), "augmentation.scale") == (0.19, 2.0)  # 6 of 31.6 px
    assert value(plan(many, GPU, Wish(start="detector")), "augmentation.scale")[0] == 0.1  # at 512 px: 63 px
    for data, wish in (
        (many, Wish(minutes=5.0)),  # nobody knows how many passes
        (replace(many, pictures=60_000), Wish(start="detector")),  # 12 passes
        (with_objects(LARGE, sides=(40.0, 86.0, 164.0, 360.0, 457.0)), Wish()),  # of all sizes already
    ):
        assert "augmentation.scale" not in names(plan(data, CPU, wish))
    small = with_objects(LARGE, sides=(20.0, 40.0, 80.0, 120.0, 200.0))  # 256 px: 8.5
    assert value(plan(small, CPU, Wish()), "augmentation.scale") == (0.7, 2.0)


def test_objects_are_pasted_where_there_are_enough_and_there_is_room():
    assert value(plan(LARGE, CPU, Wish()), "augmentation.copy_paste") == 0.5
    for data in (
        with_objects(LARGE, whole=19),
        with_objects(LARGE, cover=0.6),
        replace(LARGE, pictures=20_000, class_pictures=(9000, 9000, 9000, 9000, 200)),
    ):
        assert "augmentation.copy_paste" not in names(plan(data, CPU, Wish()))
    rare = replace(LARGE, pictures=20_000, class_pictures=(9000, 9000, 9000, 0, 199))
    assert value(plan(rare, CPU, Wish()), "augmentation.copy_paste") == 0.5


def test_pictures_of_rare_classes_are_repeated():
    [line] = [line for line in plan(LARGE, CPU, Wish()).lines if line.name == "pictures.repeat_threshold"]
    assert line.value == pytest.approx(10 / 113, abs=1e-6)
    assert line.reason == "a class is in 2 of 113 pictures: they come 2.2 times as often"  # √5
    common = replace(LARGE, class_pictures=(35, 35, 25, 10, 0))  # a class that is nowhere cannot be met
    assert "pictures.repeat_threshold" not in names(plan(common, CPU, Wish()))
    large = replace(LARGE, pictures=118_000, class_pictures=(60_000, 118, 500, 500, 1))
    [line] = [line for line in plan(large, CPU, Wish()).lines if line.name == "pictures.repeat_threshold"]
    assert line.value == 0.001 and "10.0 times" in line.reason
    assert "pictures.repeat_threshold" not in names(plan(NUCLEI, CPU, Wish()))
    few = replace(LARGE, pictures=5, class_pictures=(5, 4, 3, 2, 1))
    assert value(plan(few, CPU, Wish()), "pictures.repeat_threshold") == 1.0


def test_replaced_lines_say_why():
    before = plan(LARGE, CPU, Wish())
    made = before.replaced({"optimiser.lr": 0.5, "seed": 3}, "set by --set")
    assert [line.name for line in made.lines] == [*(line.name for line in before.lines), "seed"]
    assert value(made, "optimiser.lr") == 0.5 and value(made, "seed") == 3
    assert {line.name for line in made.lines if line.reason == "set by --set"} == {"optimiser.lr", "seed"}


def test_what_keeps_the_best_of_a_training_is_on():
    for minutes in (None, 15.0):
        made = plan(NUCLEI, CPU, Wish(minutes=minutes))
        assert value(made, "optimiser.retries") == 3
    assert value(made, "optimiser.ema") == 0.9999  # its ramp follows the number of steps
    names = {line.name for line in made.lines}
    assert "length.patience" not in names and "logging.validation_loss" not in names  # one evaluation


@pytest.mark.parametrize(
    ("pictures", "start", "steps", "decay", "evaluations", "patience"),
    [
        (564, "scratch", 42_300, 0.9995, 20, 10),
        (40, "detector", 2000, 0.99, 20, 10),
        (60_000, "detector", 180_000, 0.9999, 6, None),  # 12 passes
    ],
)
def test_average_evaluations_and_patience_follow_the_length(
    pictures, start, steps, decay, evaluations, patience
):
    made = plan(replace(NUCLEI, pictures=pictures), CPU, Wish(start=start))
    assert value(made, "length.steps") == steps and value(made, "optimiser.ema") == decay
    assert value(made, "logging.eval_every") == steps // evaluations
    assert value(made, "logging.validation_loss") is True
    found = [line.value for line in made.lines if line.name == "length.patience"]
    assert found == ([] if patience is None else [patience])


def memory_of(fixed_gb, each_gb):
    return StepMemory(0, tuple((n, round((fixed_gb + n * each_gb) * 2**30)) for n in (1, 2, 4)))


def on_gpu(free_gb, pictures=564, **measured):
    """Return the lines of a step by their names, of a plan for a GPU with so much free memory."""
    machine = replace(GPU, memory=free_gb << 30, **measured)
    made = plan(replace(NUCLEI, pictures=pictures), machine, Wish())
    return {line.name: line for line in made.lines if line.name.startswith(("step.", "optimiser.lr"))}


@pytest.mark.parametrize(("pictures", "goal"), [(20, 2), (60, 3), (199, 4), (564, 8), (1000, 16)])
def test_a_gpu_takes_as_many_pictures_as_the_data_allow(pictures, goal):
    for measured in ({}, {"step_memory": memory_of(2, 1)}):
        lines = on_gpu(40, pictures, **measured)
        assert lines["step.batch_size"].value == goal and "step.accumulate" not in lines
        assert lines["optimiser.lr"].value == pytest.approx(0.002 * (goal / 4) ** 0.5, abs=1e-6)


def test_short_memory_is_met_by_accumulation_and_then_by_recomputed_activations():
    plain, recomputed = memory_of(2, 1), memory_of(1, 0.5)
    enough, short = on_gpu(40, step_memory=plain), on_gpu(6, step_memory=plain, recomputed_memory=recomputed)
    reason = "planned memory 10 GB for 8, 1.00 GB of it for each of the largest size (measured), of 40 GB"
    assert enough["step.batch_size"].reason.endswith(reason)
    # 2 + 1 n of 0.8 * 6
    assert short["step.batch_size"].value == 2 and short["step.accumulate"].value == 4
    assert short["optimiser.lr"] == enough["optimiser.lr"] and "step.recompute" not in short
    # 1 + 0.5 n of 0.8 * 3
    shorter = on_gpu(3, step_memory=plain, recomputed_memory=recomputed)
    assert shorter["step.recompute"].value is True and "4.00 GB for 2" in shorter["step.recompute"].reason
    assert shorter["step.batch_size"].value == 2 and shorter["step.accumulate"].value == 4


def test_memory_for_not_one_picture_is_said():
    lines = on_gpu(1, step_memory=StepMemory(0, (), refused=1))
    assert lines["step.batch_size"].value == 1 and lines["step.accumulate"].value == 8
    assert "a step of 1 picture runs out of 1.00 GB of memory: lower short_sides" in (
        lines["step.batch_size"].reason
    )
