"""Keeps the registry of architectures, in which the `architecture` key of a bundle is looked up.

Every architecture ends in feature maps, global average pooling and one linear layer, so that Grad-CAM has the
closed form of `learning.attention`. If a network has other layers before the last linear one, their output
counts as the feature maps. MobileNetV3 pools before these layers, so its maps are 1x1, and it gains nothing
from the attention loss. A vendor adds architectures through the entry-point group `lwm_edge.architectures`,
in which each entry is an `Architecture`:

    [project.entry-points."lwm_edge.architectures"]
    my_net = "my_package:ARCHITECTURE"
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib import metadata

import torch
from torch import Tensor, nn

from ...errors import ArchitectureError, LwmEdgeError, first_line, ran_out_of_memory
from ...photos.preprocessing import Preprocessing
from ..terms import ARCHITECTURE_KEY
from ._small_resnet import SmallResNet
from ._torchvision import models

ENTRY_POINT_GROUP = "lwm_edge.architectures"
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

_MAX_HEAD_INPUTS = 4000
_TOO_LARGE = ("regnet_y_128gf",)  # its head reads 7392 values, and no ONNX file can hold its 2.6 GB

_OWN_ENTRY_POINTS = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")

WeightsSource = Callable[[], Mapping[str, Tensor]]


@dataclass(frozen=True)
class Architecture:
    """Describes a classifier that ends in feature maps, global average pooling and one linear layer.

    Attributes:
        build: Function that makes the whole classifier, untrained. It is called without arguments, if
            possible on the meta device, which takes no memory.
        features: Names of the classifier's child modules that, one after the other, turn images
            [B, 3, H, W] float32 into the last feature maps [B, d, h, w] float32, or into the tail's input.
        tail: Function that takes the whole classifier and returns all layers between `features` and the
            global average pooling, as one module that turns maps into maps. None if there are no such layers.
        head: Dotted name of the last linear layer.
        preprocessing: Preprocessing that turns a photo into the input, unless the vendor chooses another.
        weights: Pretrained weights by name; each entry is a function that returns the weights as a state dict
            for the module that `build` makes.
    """

    build: Callable[[], nn.Module]
    features: tuple[str, ...]
    head: str
    preprocessing: Preprocessing
    weights: Mapping[str, WeightsSource] = field(default_factory=dict)
    tail: Callable[[nn.Module], nn.Module] | None = None


def _imagenet(size: int) -> Preprocessing:
    return Preprocessing(image_size=size, resize_size=size * 8 // 7, mean=_IMAGENET_MEAN, std=_IMAGENET_STD)


def _small(size: int) -> Preprocessing:
    return Preprocessing(image_size=size, resize_size=size, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


def _final_relu(model: nn.Module) -> nn.Module:
    """Makes the tail of DenseNet, whose forward method applies a ReLU before it pools."""
    return nn.ReLU()


def _hidden_layer(model: nn.Module) -> nn.Module:
    """Makes the tail of MobileNetV3: pooling, and the classifier's hidden layer as a 1x1 convolution."""
    linear = model.get_submodule("classifier.0")
    assert isinstance(linear, nn.Linear)
    convolution = nn.Conv2d(linear.in_features, linear.out_features, 1, device="meta")
    convolution.weight = nn.Parameter(linear.weight.detach()[:, :, None, None], requires_grad=False)
    convolution.bias = linear.bias
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), convolution, nn.Hardswish())


_FAMILIES: dict[str, tuple[tuple[str, ...], str]] = {  # by prefix of the name in torchvision: features, head
    "resnet": (("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"), "fc"),
    "resnext": (("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"), "fc"),
    "wide_resnet": (("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"), "fc"),
    "mobilenet_v2": (("features",), "classifier.1"),
    "mobilenet_v3": (("features",), "classifier.3"),
    "densenet": (("features",), "classifier"),
    "efficientnet_b": (("features",), "classifier.1"),
    "efficientnet_v2": (("features",), "classifier.1"),
    "shufflenet_v2": (("conv1", "maxpool", "stage2", "stage3", "stage4", "conv5"), "fc"),
    "mnasnet": (("layers",), "classifier.1"),
    "regnet": (("stem", "trunk_output"), "fc"),
}


_TAILS = {"mobilenet_v3": _hidden_layer, "densenet": _final_relu}


def _torchvision_weights(name: str) -> Mapping[str, Tensor]:
    weights = models.get_model_weights(name).DEFAULT
    state: Mapping[str, Tensor] = weights.get_state_dict(check_hash=True, weights_only=True)
    return state


def _torchvision_architectures() -> dict[str, Architecture]:
    return {
        name: Architecture(
            build=partial(models.get_model, name, weights=None),
            features=features,
            head=head,
            preprocessing=_imagenet(224),
            weights={"imagenet": partial(_torchvision_weights, name)},
            tail=_TAILS.get(prefix),
        )
        for name in models.list_models(module=models)
        for prefix, (features, head) in _FAMILIES.items()
        if name.startswith(prefix) and name not in _TOO_LARGE
    }


_BUILT_IN: dict[str, Architecture] = {
    **_torchvision_architectures(),
    **{
        f"small_resnet{depth}": Architecture(
            build=partial(SmallResNet, blocks_per_stage=(depth - 2) // 6),
            features=("stem", "stage1", "stage2", "stage3"),
            head="fc",
            preprocessing=_small(32),
        )
        for depth in (20, 32)
    },
}


def architecture_names() -> tuple[str, ...]:
    """Lists every registered key, including those of vendors, in alphabetical order."""
    of_vendors = metadata.entry_points(group=ENTRY_POINT_GROUP).names
    return tuple(sorted({*_BUILT_IN, *(name for name in of_vendors if re.match(ARCHITECTURE_KEY, name))}))


def find_architecture(name: str) -> Architecture:
    """Looks up an architecture by its key.

    Raises:
        ArchitectureError: There is no such key, its entry point does not load an `Architecture`, or another
            package has the same key.
    """
    entries = {entry.value: entry for entry in metadata.entry_points(group=ENTRY_POINT_GROUP, name=name)}
    if len(entries) + (name in _BUILT_IN) > 1:
        others = [*(["lwm-edge itself"] if name in _BUILT_IN else []), *entries]
        raise ArchitectureError(
            f"several architectures are called {name}: that of {' and that of '.join(others)}; give yours "
            "another key, or uninstall the package that you do not need"
        )
    if name in _BUILT_IN:
        return _BUILT_IN[name]
    for value, entry in entries.items():
        if not re.match(ARCHITECTURE_KEY, name):
            raise ArchitectureError(
                f"architecture {name} ({value}) needs another key: up to 64 characters a-z, 0-9, _, . and -, "
                "of which the first is a letter or a digit"
            )
        with blamed_on(name, "its entry point cannot be loaded"):
            found = entry.load()
        if isinstance(found, Architecture):
            return found
        raise ArchitectureError(f"architecture {name}: {value} is not an lwm_edge.Architecture")
    is_torchvisions = name in models.list_models(module=models)
    reason = _why_unusable(name) if is_torchvisions else "is not a registered architecture"
    raise ArchitectureError(f"{name} {reason}; choose one of: {', '.join(architecture_names())}")


def is_built_in(name: str) -> bool:
    """Tells whether an architecture belongs to lwm-edge itself."""
    return name in _BUILT_IN or name in _OWN_ENTRY_POINTS


@contextmanager
def blamed_on(name: str, what: str) -> Iterator[None]:
    """Turns an error that a vendor's own code raises within the block into an ArchitectureError.

    Args:
        name: Key of the architecture; errors of built-in ones are passed on.
        what: Clause that says what goes wrong.
    """
    try:
        yield
    except (Exception, SystemExit) as error:
        known = isinstance(error, LwmEdgeError) or (isinstance(error, Exception) and ran_out_of_memory(error))
        if known or is_built_in(name):
            raise
        why = first_line(error) if isinstance(error, Exception) else "it ends the program"
        raise ArchitectureError(
            f"architecture {name}: {what} ({type(error).__name__}: {why}); correct its code"
        ) from error


def _why_unusable(name: str) -> str:
    """Says why one of torchvision's classifiers cannot be used."""
    if name in _TOO_LARGE:
        return "is larger than an ONNX file can be"
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old models warn about their defaults
        model = models.get_model(name, weights=None)
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if linear and (inputs := linear[-1].in_features) > _MAX_HEAD_INPUTS:
        return (
            f"has a head that reads {inputs} values, for which class statistics would take "
            f"{4 * inputs**2 / 2**20:.0f} MiB in the bundle and {3 * 8 * inputs**2 / 2**20:.0f} MiB of memory"
        )
    return "is not known to end in feature maps, average pooling and one linear layer"
