"""Saves the unfinished training of a base, so that the same command can continue it.

The file lies next to the base that is to be written, and is removed once the base is written. It holds the
network, the optimiser's momenta and the states of every process's random generators. So on the same kind of
CPU, with the same number of processes, resumed training ends just as it would have without the interruption.
The file can be used only with the same photos, settings and network to start from; only the device may
differ.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from .. import inspection, outputs, storage
from ..errors import ConfigError
from ..model.bundle import tensors_digest
from ..model.loading import mapped_tensors
from ..photos.photo_set import PhotoSet
from .config import BaseConfig
from .ranks import Ranks

SECONDS_BETWEEN_SAVES = 60.0
_KIND = "lwm-edge: unfinished training of a base"


class TrainingParts(NamedTuple):
    """Holds everything that changes while a base is trained.

    Attributes:
        module: Network and, if the base also learns to tell rotations apart, the layer for that task.
        optimizer: Optimiser, whose momenta are kept.
        generators: Random generators of this process besides torch's own.
    """

    module: nn.Module
    optimizer: torch.optim.SGD
    generators: tuple[torch.Generator, ...]


class SavedTraining:
    """Reads and writes the unfinished training of one base.

    Args:
        output: Path of the base that is to be written.
        network: Network before training.
        photos: Photos that the base learns from.
        config: Settings of the base.
        ranks: Processes that train it; the first one writes.

    Attributes:
        epoch: Number of epochs that were done when the training was saved.
        loss: Mean classification loss (L_C) over the last of these epochs.

    Raises:
        ConfigError: The unfinished training of another base, or another kind of file, is in the way.
    """

    def __init__(
        self, output: Path, network: nn.Module, photos: PhotoSet, config: BaseConfig, ranks: Ranks
    ) -> None:
        self.path = output.with_name(f"{output.name}.training")
        self._job, self._ranks = _job_digest(network, photos, config), ranks
        self._started = self._latest = time.monotonic()
        outputs.check_output(self.path)
        self.epoch, self.loss = ranks.by_first(self._progress)

    def _progress(self) -> tuple[int, float]:
        """Reads how far the training had got; refuses a file that belongs to something else."""
        if not os.path.lexists(self.path):
            return 0, 0.0
        found: Mapping[str, str] = {}
        if inspection.is_regular_file(self.path):
            with suppress(SafetensorError, OSError), safe_open(self.path, "np") as file:
                found = file.metadata() or {}
        if found.get("kind") != _KIND:
            raise ConfigError(
                f"{self.path} is where unfinished training is saved, but another file is there; move that "
                "file elsewhere"
            )
        if found["job"] != self._job:
            raise ConfigError(
                f"{self.path} holds training with other photos or settings, or from another network, "
                f"interrupted after epoch {found['epoch']}: give the original ones to continue it, or remove "
                "the file to start over"
            )
        return int(found["epoch"]), float(found["loss"])

    def restore(self, parts: TrainingParts) -> None:
        """Restores the saved training, if there is any."""
        if not self.epoch:
            return
        saved = mapped_tensors(self.path)  # these must be copied, as nothing may write to them
        own = self._ranks.rank % sum(name.startswith("random.torch.") for name in saved)
        state = parts.module.state_dict()
        parts.module.load_state_dict({name: saved[f"module.{name}"] for name in state})
        for index, parameter in enumerate(_parameters(parts.optimizer)):
            if (name := f"momentum.{index}") in saved:
                parts.optimizer.state[parameter]["momentum_buffer"] = saved[name].to(
                    parameter.device, copy=True
                )
        for name, generator in _generators(parts).items():
            generator.set_state(saved[f"random.{name}.{own}"].clone())

    def save_if_due(self, parts: TrainingParts, epoch: int, epochs: int, loss: float) -> None:
        """Saves the training if a minute has passed since the last save or, without one, since the start.

        After the last epoch, it saves if a minute has passed since the start, however recent the last save.

        Args:
            parts: Parts to save.
            epoch: Number of epochs that are done.
            epochs: Total number of epochs.
            loss: Mean classification loss (L_C) over the latest epoch.
        """
        if not self._ranks.by_first(lambda: self._is_due(epoch == epochs)):
            return
        states = self._ranks.gather({name: g.get_state() for name, g in _generators(parts).items()})
        if self._ranks.is_first:
            tensors: dict[str, Tensor] = {f"module.{n}": t for n, t in parts.module.state_dict().items()}
            for index, parameter in enumerate(_parameters(parts.optimizer)):
                momentum = parts.optimizer.state[parameter].get("momentum_buffer")
                tensors |= {} if momentum is None else {f"momentum.{index}": momentum}
            for rank, of_rank in enumerate(states):
                tensors |= {f"random.{name}.{rank}": state for name, state in of_rank.items()}
            content = save(
                {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
                {"kind": _KIND, "job": self._job, "epoch": str(epoch), "loss": repr(loss)},
            )
            storage.write_file(self.path, content, of_user=True)
        self._latest = time.monotonic()

    def _is_due(self, is_last: bool) -> bool:
        since = self._started if is_last else self._latest  # the work after the training takes a while too
        return time.monotonic() - since >= SECONDS_BETWEEN_SAVES

    def forget(self) -> None:
        """Removes the saved training, now that the base is written."""
        if self._ranks.is_first and os.path.lexists(self.path):
            storage.remove_file(self.path)


class NeverSaved:
    """Stands in for `SavedTraining` where an interrupted training starts over.

    Attributes:
        epoch: Number of epochs that were done before: 0.
        loss: Loss of these epochs: 0.
    """

    epoch, loss = 0, 0.0

    def restore(self, parts: TrainingParts) -> None:
        """Leaves everything as it is, since nothing was saved."""

    def save_if_due(self, parts: TrainingParts, epoch: int, epochs: int, loss: float) -> None:
        """Saves nothing."""


def _generators(parts: TrainingParts) -> dict[str, torch.Generator]:
    """Returns the random generators that the training draws from, by name."""
    device = next(parts.module.parameters()).device
    found = {"torch": torch.default_generator}
    if device.type == "cuda":
        found["cuda"] = torch.cuda.default_generators[device.index or 0]
    return found | {f"own{index}": generator for index, generator in enumerate(parts.generators)}


def _parameters(optimizer: torch.optim.SGD) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _job_digest(network: nn.Module, photos: PhotoSet, config: BaseConfig) -> str:
    """Computes a digest of the photos, their labels, the network, and all settings except the device."""
    settings = config.model_dump(mode="json", exclude={"device", "pretrained_share"})
    if config.kept_share:  # otherwise the digest is that of versions before this setting
        settings["kept_share"] = config.kept_share
    content = {
        "photos": [(photo.digest, photo.label) for photo in photos.photos],
        "settings": settings,
        "network": tensors_digest(
            {name: tensor.detach().cpu().numpy() for name, tensor in network.state_dict().items()}
        ),
    }
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
