"""Makes the network that a base starts from: new, with pretrained weights, or from a checkpoint."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import Tensor, nn

from ..errors import ArchitectureError, ConfigError, LwmEdgeError, first_line, ran_out_of_memory
from ..model.architectures.registry import Architecture, blamed_on, is_built_in
from ..model.architectures.surgery import check_surgery, take_apart
from ..model.network import Network
from ..photos.preprocessing import Preprocessing
from ..wording import counted
from .checkpoint import load_into, read_checkpoint
from .choose_levels import map_shapes
from .config import PRETRAINED_SHARE, BaseConfig, PackConfig
from .rehearsal import rehearse


def start_network(
    architecture: Architecture,
    config: BaseConfig,
    classes: int,
    preprocessing: Preprocessing,
    notes: list[str] | None = None,
) -> Network:
    """Makes the network before training, in eval mode.

    `notes` gets a line about each choice that was made in reading the checkpoint.

    Raises:
        ArchitectureError: The network cannot be taken apart, or the weights do not fit it.
        ConfigError: The weights do not exist or cannot be fetched, the checkpoint cannot be read, or the
            network cannot take images of this size.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = _build(architecture, config.architecture)
    state: Mapping[str, Tensor] = {}
    if config.weights:
        state = _pretrained(architecture, config.architecture, config.weights)
    elif config.checkpoint:
        state = _read(config.checkpoint, architecture, model, notes)
    whole_head = bool(config.checkpoint) and _rows(architecture, state) == classes
    if state:
        _load(model, architecture, config.architecture, state, whole_head)
    network = _assemble(model, architecture, config, preprocessing)
    network.add_classes(classes, torch.Generator().manual_seed(config.seed))
    if whole_head:
        network.set_head(*_head(model, architecture))
    return network.eval()


def trained_network(
    architecture: Architecture,
    checkpoint: Path,
    config: PackConfig,
    classes: int,
    preprocessing: Preprocessing,
    notes: list[str] | None = None,
) -> Network:
    """Makes the network from a checkpoint with a head for all classes, in eval mode.

    `notes` gets a line about each choice that was made in reading the checkpoint.

    Raises:
        ArchitectureError: The network cannot be taken apart, or the weights do not fit it.
        ConfigError: The checkpoint cannot be read or has a head for a different number of classes, or the
            network cannot take images of this size.
    """
    model = _build(architecture, config.architecture)
    state = _read(checkpoint, architecture, model, notes)
    rows = _rows(architecture, state)
    if rows not in (classes, None):  # if the checkpoint has no head, `_load` below says so
        raise ConfigError(
            f"the head of {checkpoint} has {counted(rows, 'class', 'classes')}, but the photos are in "
            f"{counted(classes, 'folder', 'folders')}; give photos of the classes that it was trained on, or "
            "train it on these with lwm-edge build-base --checkpoint"
        )
    _load(model, architecture, config.architecture, state, whole_head=True)
    network = _assemble(model, architecture, config, preprocessing)
    network.set_head(*_head(model, architecture))
    return network.eval()


def _pretrained(architecture: Architecture, name: str, weights: str) -> Mapping[str, Tensor]:
    if weights not in architecture.weights:
        offered = ", ".join(architecture.weights) or "none"
        raise ConfigError(f"{name} has no weights {weights!r}; it offers: {offered}")
    whose = f"the {weights} weights of {name}"
    elsewhere = (
        f"download them elsewhere and pass them with --checkpoint FILE --pretrained-share {PRETRAINED_SHARE}"
    )
    try:
        state = architecture.weights[weights]()
    except OSError as error:
        raise ConfigError(f"{whose} cannot be fetched ({first_line(error)}); {elsewhere}") from None
    except Exception as error:  # a damaged file, or whatever else a vendor's function may raise
        if isinstance(error, LwmEdgeError) or ran_out_of_memory(error):
            raise
        unsafe = isinstance(error, UnpicklingError)  # torch's own message advises reading the file unsafely
        raise ConfigError(
            f"{whose} cannot be read ({'no state dict' if unsafe else first_line(error)}); if a download was "
            f"cut short, delete its file in {torch.hub.get_dir()} and try again, or {elsewhere}"
        ) from error
    if not isinstance(state, Mapping) or not state or not all(isinstance(t, Tensor) for t in state.values()):
        raise ArchitectureError(f"{whose} are no state dict: their function must return tensors by name")
    return state


def _build(architecture: Architecture, name: str) -> nn.Module:
    with blamed_on(name, "it cannot be built"):
        model = architecture.build()
    if not isinstance(model, nn.Module):
        raise ArchitectureError(f"architecture {name}: `build` returns no torch.nn.Module")
    if other := {str(tensor.dtype).removeprefix("torch.") for tensor in model.parameters()} - {"float32"}:
        raise ArchitectureError(
            f"architecture {name} has weights of {', '.join(sorted(other))}; `build` must return float32"
        )
    return model


def _read(
    checkpoint: Path, architecture: Architecture, model: nn.Module, notes: list[str] | None
) -> Mapping[str, Tensor]:
    state = read_checkpoint(checkpoint, model.state_dict(), architecture.head, notes)
    return _with_bias(architecture, state)


def _with_bias(architecture: Architecture, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Adds a bias of zeros to a state dict whose head has only a weight, which changes no output."""
    weight, bias = (state.get(f"{architecture.head}.{name}") for name in ("weight", "bias"))
    if weight is None or weight.dim() != 2 or bias is not None:
        return state
    return {**state, f"{architecture.head}.bias": torch.zeros(len(weight))}


def _rows(architecture: Architecture, state: Mapping[str, Tensor]) -> int | None:
    """Returns the number of classes in the head of a state dict; None if it has no linear head with bias."""
    weight, bias = (state.get(f"{architecture.head}.{name}") for name in ("weight", "bias"))
    return None if weight is None or bias is None or weight.dim() != 2 else len(weight)


def _load(
    model: nn.Module, architecture: Architecture, name: str, state: Mapping[str, Tensor], whole_head: bool
) -> None:
    """Loads the backbone, and the head too if `whole_head` is set."""
    weight, bias = f"{architecture.head}.weight", f"{architecture.head}.bias"
    if whole_head and _rows(architecture, state) is not None:
        owner, _, attribute = architecture.head.rpartition(".")
        inputs = _head(model, architecture)[0].shape[1]
        setattr(model.get_submodule(owner), attribute, nn.Linear(inputs, len(state[weight])))
    load_into(model, state, name, () if whole_head else (weight, bias))


def _assemble(
    model: nn.Module,
    architecture: Architecture,
    config: BaseConfig | PackConfig,
    preprocessing: Preprocessing,
) -> Network:
    """Turns a whole classifier into a network that has no classes yet, but room for `capacity` of them."""
    name, size = config.architecture, preprocessing.image_size
    backbone, head = take_apart(model, architecture, name)
    full_head = nn.Linear(head.in_features, config.capacity)
    for tensor in full_head.parameters():
        nn.init.zeros_(tensor)
    network = Network(backbone, full_head, 0, preprocessing).eval()
    try:
        if not all(map(math.prod, map_shapes(network))):
            raise ValueError("its feature maps would be empty")
        check_surgery(model, backbone, head, name, size)
    except Exception as error:  # torch and a network's own checks raise almost anything
        if isinstance(error, LwmEdgeError) or ran_out_of_memory(error):
            raise
        raise ConfigError(
            f"{name} cannot take images of {size} px ({first_line(error)}); use another --image-size"
        ) from error
    if not is_built_in(name):
        rehearse(network, config)
    return network


def _head(model: nn.Module, architecture: Architecture) -> tuple[Tensor, Tensor]:
    head = model.get_submodule(architecture.head)
    assert isinstance(head, nn.Linear)
    return head.weight.detach(), head.bias.detach()
