"""Each kind of data gets the settings that suit it."""

from dataclasses import replace

import pytest

from maskrcnn import recipes
from maskrcnn.plain import options_of, with_values
from maskrcnn.plan.fingerprint import Fingerprint, ObjectStatistics
from maskrcnn.plan.machine import Machine
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
    assert len(options) + len(made.values(options_of(Settings()))) == len(made.lines)
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
    few = replace(LARGE, pictures=40)
    assert value(plan(few, CPU, Wish()), "length.steps") == 5000  # at least
    assert value(plan(few, CPU, Wish(start="backbone")), "length.steps") == 1000
    many = replace(NUCLEI, pictures=118_000)
    assert value(plan(many, GPU, Wish(start="detector")), "length.steps") == 12 * 118_000 // 8


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
    made = plan(LARGE, CPU, Wish()).replaced({"optimiser.lr": 0.5, "seed": 3}, "set by --set")
    assert value(made, "optimiser.lr") == 0.5 and value(made, "seed") == 3
    assert {line.name for line in made.lines if line.reason == "set by --set"} == {"optimiser.lr", "seed"}
