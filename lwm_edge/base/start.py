"""Makes the network that a base starts from: new, with pretrained weights, or from a checkpoint."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..errors import ArchitectureError, ConfigError
from ..model.architectures.registry import Architecture
from ..model.architectures.surgery import check_surgery, take_apart
from ..model.network import Network
from ..photos.preprocessing import Preprocessing
from .config import BaseConfig


def start_network(
    architecture: Architecture, config: BaseConfig, classes: int, preprocessing: Preprocessing
) -> Network:
    """Makes the network before training, in eval mode.

    Raises:
        ArchitectureError: The network cannot be taken apart, or the weights do not fit it.
        ConfigError: There are no such weights, or no such checkpoint.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = architecture.build()
    state = _read_state(architecture, config)
    whole_head = _load_state(model, architecture, config, state, classes)
    backbone, head = take_apart(model, architecture, config.architecture)
    check_surgery(model, backbone, head, config.architecture)
    full_head = torch.nn.Linear(head.in_features, config.capacity)
    for tensor in full_head.parameters():
        torch.nn.init.zeros_(tensor)
    network = Network(backbone, full_head, 0, preprocessing)
    network.add_classes(classes, torch.Generator().manual_seed(config.seed))
    if whole_head:
        with torch.no_grad():
            network.head.weight[:classes], network.head.bias[:classes] = head.weight, head.bias
    elif config.epochs == 0:
        raise ConfigError(
            f"{config.checkpoint} has no head of {classes} classes, so it must be trained; "
            "epochs 0 cannot be used"
        )
    return network.eval()


def _read_state(architecture: Architecture, config: BaseConfig) -> Mapping[str, Tensor]:
    if config.weights:
        if config.weights not in architecture.weights:
            offered = ", ".join(architecture.weights) or "none"
            raise ConfigError(
                f"{config.architecture} has no weights {config.weights!r}; it offers: {offered}"
            )
        try:
            return architecture.weights[config.weights]()
        except OSError as error:
            raise ConfigError(
                f"the {config.weights} weights of {config.architecture} cannot be fetched ({error}); "
                "download them elsewhere and pass them with --checkpoint"
            ) from None
    if config.checkpoint:
        return read_checkpoint(config.checkpoint)
    return {}


def read_checkpoint(path: Path) -> Mapping[str, Tensor]:
    """Reads a torch state dict without ever running pickled code (`weights_only=True`).

    Raises:
        ConfigError: There is no such file, or it holds something else.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about odd pickle protocols, which are refused anyway
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files raise almost anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(
            f"{path} cannot be read as a state dict of tensors ({reason}); "
            "save one with torch.save(model.state_dict(), ...)"
        ) from None
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    if not isinstance(state, Mapping) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in state.items()
    ):
        raise ConfigError(
            f"{path} is not a state dict of tensors; save one with torch.save(model.state_dict(), ...)"
        )
    return {name.removeprefix("module."): tensor for name, tensor in state.items()}


def _load_state(
    model: torch.nn.Module,
    architecture: Architecture,
    config: BaseConfig,
    state: Mapping[str, Tensor],
    classes: int,
) -> bool:
    """Loads the backbone, and the head if it has one row per class; returns whether it loaded the head."""
    if not state:
        return False
    weight, bias = f"{architecture.head}.weight", f"{architecture.head}.bias"
    whole_head = bool(config.checkpoint) and weight in state and bias in state
    whole_head = whole_head and state[weight].dim() == 2 and len(state[weight]) == classes
    if whole_head:
        owner, _, attribute = architecture.head.rpartition(".")
        inputs = state[weight].shape[1]
        setattr(model.get_submodule(owner), attribute, torch.nn.Linear(inputs, classes))
    else:
        state = {name: tensor for name, tensor in state.items() if name not in (weight, bias)}
    try:
        missing, unexpected = model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise ArchitectureError(f"the weights do not fit {config.architecture}: {error}") from None
    missing = [name for name in missing if name not in (weight, bias)]
    if missing or unexpected:
        problems = [f"{name} is missing" for name in missing] + [f"{name} is unknown" for name in unexpected]
        raise ArchitectureError(f"the weights do not fit {config.architecture}", problems)
    return whole_head
