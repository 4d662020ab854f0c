"""Names of other libraries' parameters, in ours."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

_TORCHVISION_RESNET = (
    (r"^conv1\.", "stem.conv."),
    (r"^bn1\.", "stem.norm."),
    (r"^layer(\d)\.", lambda match: f"res{int(match[1]) + 1}."),
    (r"\.bn(\d)\.", r".norm\1."),
    (r"\.downsample\.0\.", ".shortcut.conv."),
    (r"\.downsample\.1\.", ".shortcut.norm."),
)


def to_ours(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return `state_dict` under the names of our bodies.

    torchvision's classification ResNets and ResNeXts are renamed; its MobileNetV2 has our names already, and
    so have our own files. A ``module.`` before every name, left by parallel training, is cut. The classifier
    stays, so that `init_from` can report it as unused.
    """
    names = {name: name for name in state_dict}
    if all(name.startswith("module.") for name in names):
        names = {name: name.removeprefix("module.") for name in names}
    if any(name.startswith("layer1.") for name in names.values()):
        names = {name: _rename(ours) for name, ours in names.items()}
    return {ours: state_dict[name] for name, ours in names.items()}


def _rename(name: str) -> str:
    for pattern, replacement in _TORCHVISION_RESNET:
        name = re.sub(pattern, replacement, name)
    return name
