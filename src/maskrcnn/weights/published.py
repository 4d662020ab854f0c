"""The published checkpoints: their names, addresses and licences."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from maskrcnn.messages import nearest

# torchvision's README: the library is BSD-3-Clause, the terms of weights may follow from their training data.
BSD3 = "BSD-3-Clause (torchvision's; the training data may add terms)"
# Detectron2's MODEL_ZOO.md, "License": all models there.
CC_BY_SA = "CC BY-SA 3.0 (Detectron2's model zoo)"

_TORCHVISION = "https://download.pytorch.org/models/"
_DETECTRON2 = "https://dl.fbaipublicfiles.com/detectron2/"


class Published(NamedTuple):
    """A checkpoint published by others. `checksum` is the beginning of its hash, as in the file's name.

    `size` is about that of the file, in MB of 10^6 bytes. torchvision documents it; Detectron2's files hold 4
    bytes for each value of their network.
    """

    name: str
    url: str
    checksum: str  # "sha256:…", "md5:…", or "" where the file's name has none
    trained_on: str
    licence: str
    size: int = 0

    @property
    def file_name(self) -> str:
        """The last part of the address."""
        return self.url.rsplit("/", 1)[1]


# Name, file, data set and MB; the file's name ends in the beginning of its SHA-256.
_OF_TORCHVISION = """
maskrcnn_resnet50_fpn maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth coco 178
maskrcnn_resnet50_fpn_v2 maskrcnn_resnet50_fpn_v2_coco-73cbd019.pth coco 186
fasterrcnn_resnet50_fpn fasterrcnn_resnet50_fpn_coco-258fb6c6.pth coco 168
fasterrcnn_resnet50_fpn_v2 fasterrcnn_resnet50_fpn_v2_coco-dd69338a.pth coco 175
keypointrcnn_resnet50_fpn keypointrcnn_resnet50_fpn_coco-fc266e95.pth coco 237
keypointrcnn_resnet50_fpn_legacy keypointrcnn_resnet50_fpn_coco-9f466800.pth coco 237
resnet18 resnet18-f37072fd.pth imagenet 47
resnet34 resnet34-b627a593.pth imagenet 87
resnet50 resnet50-0676ba61.pth imagenet 103
resnet50_v2 resnet50-11ad3fa6.pth imagenet 103
resnet101 resnet101-63fe2227.pth imagenet 179
resnet101_v2 resnet101-cd907fc2.pth imagenet 179
resnext101_32x8d resnext101_32x8d-8ba56ff5.pth imagenet 356
resnext101_32x8d_v2 resnext101_32x8d-110c445d.pth imagenet 356
resnext101_64x4d resnext101_64x4d-173b62eb.pth imagenet 335
mobilenet_v2 mobilenet_v2-b0353104.pth imagenet 14
mobilenet_v2_v2 mobilenet_v2-7ebf99e0.pth imagenet 14
"""

# Name, number of the training, the beginning of the file's MD5, and MB.
_OF_DETECTRON2 = """
COCO-Detection/faster_rcnn_R_50_C4_1x 137257644 721ade 136
COCO-Detection/faster_rcnn_R_50_DC5_1x 137847829 51d356 663
COCO-Detection/faster_rcnn_R_50_FPN_1x 137257794 b275ba 167
COCO-Detection/faster_rcnn_R_50_C4_3x 137849393 f97cb7 136
COCO-Detection/faster_rcnn_R_50_DC5_3x 137849425 68d202 663
COCO-Detection/faster_rcnn_R_50_FPN_3x 137849458 280758 167
COCO-Detection/faster_rcnn_R_101_C4_3x 138204752 298dad 212
COCO-Detection/faster_rcnn_R_101_DC5_3x 138204841 3e0943 739
COCO-Detection/faster_rcnn_R_101_FPN_3x 137851257 f6e8b1 243
COCO-Detection/faster_rcnn_X_101_32x8d_FPN_3x 139173657 68b088 421
COCO-InstanceSegmentation/mask_rcnn_R_50_C4_1x 137259246 9243eb 144
COCO-InstanceSegmentation/mask_rcnn_R_50_DC5_1x 137260150 4f86c3 690
COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x 137260431 a54504 178
COCO-InstanceSegmentation/mask_rcnn_R_50_C4_3x 137849525 4ce675 144
COCO-InstanceSegmentation/mask_rcnn_R_50_DC5_3x 137849551 84107b 690
COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x 137849600 f10217 178
COCO-InstanceSegmentation/mask_rcnn_R_101_C4_3x 138363239 a2914c 220
COCO-InstanceSegmentation/mask_rcnn_R_101_DC5_3x 138363294 0464b7 766
COCO-InstanceSegmentation/mask_rcnn_R_101_FPN_3x 138205316 a3ec72 254
COCO-InstanceSegmentation/mask_rcnn_X_101_32x8d_FPN_3x 139653917 2d9806 431
new_baselines/mask_rcnn_R_50_FPN_100ep_LSJ 42047764 bb69de 185
new_baselines/mask_rcnn_R_50_FPN_200ep_LSJ 42047638 89a8d3 185
new_baselines/mask_rcnn_R_50_FPN_400ep_LSJ 42019571 14d201 185
new_baselines/mask_rcnn_R_101_FPN_100ep_LSJ 42025812 4f7b58 262
new_baselines/mask_rcnn_R_101_FPN_200ep_LSJ 42131867 0bb7ae 262
new_baselines/mask_rcnn_R_101_FPN_400ep_LSJ 42073830 f96b26 262
new_baselines/mask_rcnn_regnetx_4gf_dds_FPN_100ep_LSJ 42047771 b7fbab 173
new_baselines/mask_rcnn_regnetx_4gf_dds_FPN_200ep_LSJ 42132721 5d87c1 173
new_baselines/mask_rcnn_regnetx_4gf_dds_FPN_400ep_LSJ 42025447 f1362d 173
new_baselines/mask_rcnn_regnety_4gf_dds_FPN_100ep_LSJ 42047784 6ba57e 168
new_baselines/mask_rcnn_regnety_4gf_dds_FPN_200ep_LSJ 42047642 27b9c1 168
new_baselines/mask_rcnn_regnety_4gf_dds_FPN_400ep_LSJ 42045954 ef3a80 168
COCO-Keypoints/keypoint_rcnn_R_50_FPN_1x 137261548 04e291 237
COCO-Keypoints/keypoint_rcnn_R_50_FPN_3x 137849621 a6e10b 237
COCO-Keypoints/keypoint_rcnn_R_101_FPN_3x 138363331 997cc7 313
COCO-Keypoints/keypoint_rcnn_X_101_32x8d_FPN_3x 139686956 5ad38f 490
LVISv0.5-InstanceSegmentation/mask_rcnn_R_50_FPN_1x 144219072 571f7c 203
LVISv0.5-InstanceSegmentation/mask_rcnn_R_101_FPN_1x 144219035 824ab5 279
LVISv0.5-InstanceSegmentation/mask_rcnn_X_101_32x8d_FPN_1x 144219108 5e3439 456
Cityscapes/mask_rcnn_R_50_FPN 142423278 af9cf5 176
"""

_BACKBONES = {"MSRA/R-50": 102, "MSRA/R-101": 178, "FAIR/X-101-32x8d": 355}  # MB


def _published() -> Iterator[Published]:
    for line in _OF_TORCHVISION.split("\n")[1:-1]:
        name, file, data, size = line.split()
        checksum = f"sha256:{file.removesuffix('.pth').rsplit('-', 1)[1]}"
        yield Published(f"torchvision/{name}", _TORCHVISION + file, checksum, data, BSD3, int(size))
    for line in _OF_DETECTRON2.split("\n")[1:-1]:
        name, number, md5, size = line.split()
        url = f"{_DETECTRON2}{name}/{number}/model_final_{md5}.pkl"
        data = {"Cityscapes": "cityscapes", "LVISv0.5-InstanceSegmentation": "lvis"}.get(
            name.split("/")[0], "coco"
        )
        yield Published(f"detectron2/{name}", url, f"md5:{md5}", data, CC_BY_SA, int(size))
    for name, megabytes in _BACKBONES.items():
        url = f"{_DETECTRON2}ImageNetPretrained/{name}.pkl"
        yield Published(f"detectron2/ImageNetPretrained/{name}", url, "", "imagenet", CC_BY_SA, megabytes)


PUBLISHED: dict[str, Published] = {entry.name: entry for entry in _published()}


def _short(name: str) -> str:
    return name.rsplit("/", 1)[1]


_SHORT_NAMES = [_short(name) for name in PUBLISHED]
ALIASES = {_short(name): name for name in PUBLISHED if _SHORT_NAMES.count(_short(name)) == 1}


def find_published(name: str) -> Published:
    """Return the published checkpoint of a name or its last part. Raises ValueError for an unknown name."""
    full = ALIASES.get(name, name)
    if full not in PUBLISHED:
        raise ValueError(
            f"{name} is neither a file nor a published checkpoint; {nearest(name, [*PUBLISHED, *ALIASES])} "
            "(maskrcnn weights list names all)"
        )
    return PUBLISHED[full]


def published_by_file_name(file_name: str) -> Published | None:
    """Return the published checkpoint whose file has this name, or None."""
    return next((entry for entry in PUBLISHED.values() if entry.file_name == file_name), None)
