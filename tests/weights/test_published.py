import re

import pytest

from maskrcnn.weights.fit import meta_state_dict
from maskrcnn.weights.published import ALIASES, PUBLISHED, find_published, published_by_file_name

V2 = dict.fromkeys(("body.norm", "pyramid.norm", "boxes.norm", "masks.norm"), "batch")
V2 |= {"boxes.head": "conv", "proposals.convolutions": 2}


def test_addresses_and_checksums_are_those_of_the_publishers():
    entry = find_published("torchvision/maskrcnn_resnet50_fpn_v2")
    assert entry.url == "https://download.pytorch.org/models/maskrcnn_resnet50_fpn_v2_coco-73cbd019.pth"
    assert (entry.checksum, entry.licence.split()[0]) == ("sha256:73cbd019", "BSD-3-Clause")
    entry = find_published("detectron2/COCO-InstanceSegmentation/mask_rcnn_R_101_FPN_3x")
    assert entry.url.endswith("/mask_rcnn_R_101_FPN_3x/138205316/model_final_a3ec72.pkl")
    assert (entry.checksum, entry.licence[:12]) == ("md5:a3ec72", "CC BY-SA 3.0")


def test_every_row_is_whole():
    assert len(PUBLISHED) == 17 + 40 + 3
    assert len({entry.url for entry in PUBLISHED.values()}) == len(PUBLISHED)
    for entry in PUBLISHED.values():
        assert re.fullmatch(r"https://\S+\.(pth|pkl)", entry.url)
        assert re.fullmatch(r"(sha256:[0-9a-f]{8}|md5:[0-9a-f]{6})?", entry.checksum)
        assert published_by_file_name(entry.file_name) == entry
        assert 10 < entry.size < 1000 and entry.licence


@pytest.mark.parametrize(
    ("name", "recipe", "classes", "options"),
    [
        ("mask_rcnn_R_101_C4_3x", "resnet101_c4", 80, {}),
        ("mask_rcnn_R_50_DC5_3x", "resnet50_dc5", 80, {}),
        ("mask_rcnn_X_101_32x8d_FPN_3x", "resnext101_fpn", 80, {}),
        ("faster_rcnn_R_50_FPN_3x", "resnet50_fpn_box", 80, {}),
        ("keypoint_rcnn_R_101_FPN_3x", "resnet101_fpn_keypoint", 1, {}),
        ("Cityscapes/mask_rcnn_R_50_FPN", "resnet50_fpn", 8, {}),
        ("torchvision/maskrcnn_resnet50_fpn_v2", "resnet50_fpn", 90, V2),
        ("torchvision/keypointrcnn_resnet50_fpn", "resnet50_fpn_keypoint", 1, {}),
    ],
)
def test_a_file_has_four_bytes_for_each_value_of_its_network(name, recipe, classes, options):
    names = [full for full in PUBLISHED if full.endswith(name)]
    assert len(names) == 1
    values = meta_state_dict(recipe, classes, options, 10_000).values()
    size = sum(4 * tensor.numel() for tensor in values) / 1e6
    assert PUBLISHED[names[0]].size == pytest.approx(size, rel=0.01)


def test_the_last_part_of_a_name_is_enough_where_it_is_unique():
    assert (
        find_published("mask_rcnn_R_50_C4_1x").name
        == "detectron2/COCO-InstanceSegmentation/mask_rcnn_R_50_C4_1x"
    )
    assert "mask_rcnn_R_50_FPN_1x" not in ALIASES  # COCO's and LVIS's


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(ValueError, match=r"neither a file nor .*did you mean torchvision/resnet50\?"):
        find_published("torchvison/resnet50")
