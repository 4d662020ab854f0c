"""Each kind of data gets the settings that suit it."""

from dataclasses import replace

import pytest

from maskrcnn import recipes
from maskrcnn.plain import options_of, with_values
from maskrcnn.plan.fingerprint import Fingerprint, ObjectStatistics
from maskrcnn.plan.machine import Machine
from maskrcnn.plan.memory import StepMemory
from maskrcnn.plan.rules import Wish, choose_view, plan
from maskrcnn.training.settings import Settings

CPU, GPU = Machine("cpu", 4, 8 << 30, "bf16"), Machine("cuda:0", 16, 40 << 30, "bf16")
NUCLEI = Fingerprint(
    pictures=564,
    size_hw=(256.0, 320.0),
    longest_side=1388,
    is_grey=False,
    white=None,
    classes=(24_197,),
    keypoints=0,
    has_up=False,
    objects=ObjectStatistics(
        24_197, (26.0, 259.0, 375.0), (6.0, 8.0, 17.0, 43.0, 53.0), 0.76, 0.03, 0.1, 0.1
    ),
)
LARGE = replace(  # a few large objects a photo, five classes
    NUCLEI,
    pictures=113,
    size_hw=(600.0, 800.0),
    longest_side=800,
    classes=(40, 40, 30, 30, 2),
    has_up=True,
    objects=ObjectStatistics(142, (1.0, 3.0, 4.0), (74.0, 86.0, 164.0, 360.0, 457.0), 0.52, 0.01, 0.0, 0.1),
)
HUGE = replace(  # 12 megapixels with objects of 10 px
    NUCLEI,
    size_hw=(3000.0, 4000.0),
    longest_side=4000,
    objects=ObjectStatistics(500, (5.0, 20.0, 30.0), (8.0, 9.0, 10.0, 12.0, 13.0), 0.9, 0.0, 0.0, 0.0),
)


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
    assert len(options) + len(made.values(options_of(Settings()))) == len(made.lines)
    assert settings.length.time_limit == minutes


def test_crowded_small_pictures_are_learnt_in_windows_as_the_log_found_best():
    made = plan(NUCLEI, CPU, Wish(minutes=15.0))
    expected = {
        "pictures.short_sides": None,
        "augmentation.crop": (256, 256),
        "augmentation.scale": (0.6, 1.6),
        "augmentation.flip_vertical": 0.5,
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
    assert not {"augmentation.crop", "augmentation.flip_vertical"} & {line.name for line in made.lines}
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
    names = {line.name for line in plan(LARGE, CPU, Wish(start="detector")).lines}
    assert not names & {
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


def test_replaced_lines_say_why():
    made = plan(LARGE, CPU, Wish()).replaced({"optimiser.lr": 0.5, "seed": 3}, "set by --set")
    assert value(made, "optimiser.lr") == 0.5 and value(made, "seed") == 3
    assert {line.name for line in made.lines if line.reason == "set by --set"} == {"optimiser.lr", "seed"}


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
