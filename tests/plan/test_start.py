"""The weights that suit each kind of data and machine, and what is taken where they cannot be had."""

from dataclasses import replace

import pytest

from maskrcnn.plan.lines import Wish
from maskrcnn.plan.machine import Machine
from maskrcnn.plan.rules import plan
from maskrcnn.plan.start import Available, candidates, choose_start
from maskrcnn.weights.fit import meta_state_dict
from maskrcnn.weights.published import PUBLISHED
from plan.test_rules import CPU, GPU, LARGE, NUCLEI

SMALL_GPU = Machine("cuda:0", 16, 4 << 30, "bf16")
GREY = replace(LARGE, is_grey=True, share_grey=1.0)
DEEP = replace(LARGE, white=65535)
MOBILENET, RESNET18 = "torchvision/mobilenet_v2", "torchvision/resnet18"
DETECTOR, DETECTOR_V2 = "torchvision/maskrcnn_resnet50_fpn", "torchvision/maskrcnn_resnet50_fpn_v2"


@pytest.mark.parametrize(
    ("data", "machine", "wish", "best", "reason"),
    [
        (LARGE, GPU, Wish(), DETECTOR_V2, "photographs: a network that knows those of COCO"),
        (LARGE, GPU, Wish(minutes=5.0), DETECTOR_V2, "photographs"),
        (LARGE, CPU, Wish(), DETECTOR, "photographs"),
        (LARGE, CPU, Wish(minutes=30.0), DETECTOR, "photographs"),
        (LARGE, CPU, Wish(minutes=29.0), MOBILENET, "photographs and 29 minutes of a CPU: a small backbone"),
        (LARGE, SMALL_GPU, Wish(), RESNET18, "a small backbone for 4 GB of memory"),
        (GREY, GPU, Wish(), "torchvision/resnet50", "grey pictures: a backbone suits them, no detector"),
        (GREY, CPU, Wish(), MOBILENET, "grey pictures and a CPU: a small backbone"),
        (DEEP, CPU, Wish(minutes=9.0), MOBILENET, "pictures of more than 8 bits and 9 minutes of a CPU"),
        (LARGE, CPU, Wish(recipe="resnet50_fpn"), DETECTOR, "photographs"),
        (GREY, CPU, Wish(recipe="resnet50_fpn"), "torchvision/resnet50", "the backbone of resnet50_fpn"),
        (LARGE, GPU, Wish(recipe="resnet34_fpn"), "torchvision/resnet34", "the backbone of resnet34_fpn"),
        (LARGE, GPU, Wish(recipe="resnext101_64x4d_fpn"), "torchvision/resnext101_64x4d", "the backbone"),
        (LARGE, GPU, Wish(recipe="resnet50_c4"), "torchvision/resnet50", "the backbone of resnet50_c4"),
    ],
)
def test_the_best_weights(data, machine, wish, best, reason):
    suiting = candidates(data, machine, wish)
    assert suiting.names[0] == best and reason in suiting.reason
    assert set(suiting.names) <= set(PUBLISHED)
    entries = [PUBLISHED[name] for name in suiting.names]
    assert all(entry.size > 0 and entry.checksum and "BSD-3" in entry.licence for entry in entries)


@pytest.mark.parametrize(("share", "is_photograph"), [(0.49, True), (0.5, False)])
def test_a_data_set_of_photographs_may_have_grey_ones(share, is_photograph):
    names = candidates(replace(LARGE, share_grey=share), GPU, Wish()).names
    assert (names[0] == DETECTOR_V2) == is_photograph


def test_many_objects_that_are_no_photographs_need_no_weights():
    suiting = candidates(replace(NUCLEI, share_grey=0.8), GPU, Wish())
    wish, origin = choose_start(Wish(), suiting, Available())
    assert (wish.start, wish.init.value, origin) == ("scratch", None, None)
    assert wish.init.reason == "drawn weights: 24,197 objects in grey pictures are enough to learn from"


def test_a_detector_is_downloaded_where_it_can():
    wish, origin = choose_start(Wish(), candidates(LARGE, GPU, Wish()), Available())
    assert (wish.init.value, wish.start, wish.recipe) == (DETECTOR_V2, "detector", None)
    assert wish.init.reason == (
        "photographs: a network that knows those of COCO; 186 MB, BSD-3-Clause (torchvision's; the training "
        "data may add terms); will be downloaded"
    )
    assert origin.recipe == "resnet50_fpn" and origin.arguments["boxes.head"] == "conv"
    made = plan(LARGE, GPU, wish)
    kept = made.values(["init", "recipe", "body.norm", "body.norm_eps"])
    assert kept == {"init": DETECTOR_V2, "recipe": None, "body.norm": "frozen", "body.norm_eps": 1e-5}


def test_the_options_that_are_kept_fit_the_weights():
    wish, origin = choose_start(Wish(), candidates(LARGE, GPU, Wish()), Available())
    options = origin.arguments | {line.name: line.value for line in wish.kept}
    ours, theirs = (
        meta_state_dict("resnet50_fpn", 90, values, 10_000) for values in (options, origin.arguments)
    )
    assert all(theirs[name].shape == tensor.shape for name, tensor in ours.items())


def test_a_file_on_this_machine_needs_no_network():
    suiting, obstacle = candidates(LARGE, CPU, Wish(minutes=9.0)), "no connection: unreachable"
    wish, _ = choose_start(Wish(minutes=9.0), suiting, Available(frozenset({MOBILENET}), obstacle))
    assert (wish.init.value, wish.start, wish.recipe) == (MOBILENET, "backbone", "mobilenet_v2_fpn")
    assert wish.init.reason.endswith(
        "14 MB, BSD-3-Clause (torchvision's; the training data may add terms); on this machine"
    )
    second, _ = choose_start(Wish(minutes=9.0), suiting, Available(frozenset({RESNET18}), obstacle))
    assert (second.init.value, second.recipe) == (RESNET18, "resnet18_fpn")
    assert second.init.reason.startswith(f"{MOBILENET} cannot be had ({obstacle}), but this one; 47 MB")


def test_without_a_network_one_line_says_what_to_bring_and_how():
    suiting = candidates(LARGE, CPU, Wish(minutes=9.0))
    wish, _ = choose_start(Wish(minutes=9.0), suiting, Available(obstacle="no connection: gone", folder="/c"))
    assert (wish.init.value, wish.start, wish.recipe) == (None, "scratch", None)
    assert wish.init.reason == (
        f"drawn weights: {MOBILENET} cannot be had (no connection: gone); give a file by --init FILE, or put "
        "https://download.pytorch.org/models/mobilenet_v2-b0353104.pth into /c"
    )
    made = plan(LARGE, CPU, wish)
    assert made.recipe == "resnet18_fpn" and made.init is None


def test_a_recipe_of_the_user_is_kept():
    asked = Wish(recipe="resnet50_fpn")
    wish, _ = choose_start(asked, candidates(LARGE, CPU, asked), Available())
    assert (wish.recipe, wish.start, plan(LARGE, CPU, wish).recipe) == (
        "resnet50_fpn",
        "detector",
        "resnet50_fpn",
    )
