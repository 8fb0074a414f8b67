"""Saves unfinished training in a checkpoint, so that it can continue after an interruption.

A checkpoint is one file of constant length in the home, rewritten now and then. It holds the parameters that
are trained, their momentum, the step, the losses so far and the plan. It fits one job only: the same model,
photos and settings. It leaves out whatever can be computed from these three, but names the folder of photos
and the settings, so that nobody needs to type them again.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import ValidationError
from safetensors.numpy import save

from .. import inspection, storage
from ..errors import ConfigError
from ..home import ownership
from ..home.home import Home
from ..home.ownership import CHECKPOINT_HEADER
from ..learning.config import GATE_SETTINGS, IncrementConfig, Recipe
from ..model.manifest import Manifest
from ..photos.photo_set import PhotoSet
from ..records import Digest, ExactPath, Report, absolute, printable
from .reports import PlanReport

if TYPE_CHECKING:
    from ..learning.training import TrainingState

SECONDS_BETWEEN_SAVES = 60.0
HEADER_BYTES = 8192
# Settings that do not affect what the network learns.
_SETTINGS_NOT_IN_DIGEST = {
    "max_memory",
    "micro_batch_size",
    "force",
    "fresh",
    "sign_with",
    "class_name",
    "time_budget_seconds",
    *GATE_SETTINGS,
}


class CheckpointHeader(Report):
    """Says which job a checkpoint belongs to, and how far that job has got.

    Attributes:
        parent_digest: Digest of the model before the increment.
        job: Digest of photos, settings and recipe; only a job with the same digest may continue.
        step: Number of optimiser updates done.
        loss_sums: Sums of the losses over the current epoch so far.
        plan: Plan that the training follows.
        photos: Path of the folder of photos; None if it is too long to be kept here.
        photos_digest: Digest of the photos alone, which shows whether another job has different photos.
        settings: Settings of the job.
    """

    parent_digest: Digest
    job: Digest
    step: int
    loss_sums: tuple[float, float, float]
    plan: PlanReport
    photos: ExactPath | None
    photos_digest: Digest
    settings: IncrementConfig


class SavedTraining:
    """Reads and writes the checkpoint of one job.

    Args:
        path: Path of the checkpoint.
        manifest: Manifest of the model before the increment.
        folder: Path of the folder of photos.
        photos: Photos to learn from.
        config: Settings of the increment.
        recipe: Recipe with its values; in another version of this package, the same settings may lead to
            other values.
    """

    def __init__(
        self,
        path: Path,
        manifest: Manifest,
        folder: Path,
        photos: PhotoSet,
        config: IncrementConfig,
        recipe: Recipe,
    ) -> None:
        self._path = path
        self._parent_digest = manifest.model_digest
        self._folder = folder
        self._photos = [(photo.digest, photo.label) for photo in photos.photos]
        self._config = config
        self._job = _digest({"photos": self._photos, "config": _settings_in_digest(config), "recipe": recipe})

    def plan(self) -> PlanReport | None:
        """Returns the plan that the training followed; None if there is nothing to continue.

        A checkpoint that no job can continue is removed.

        Raises:
            ConfigError: An increment with other photos, settings or values in its recipe was interrupted.
        """
        header = read_header(self._path)
        if header is None or header.parent_digest != self._parent_digest:
            self.forget()  # there is none, it cannot be read, or the model has changed since
            return None
        if header.job != self._job:
            raise _other_settings(header.step, self._differences(header))
        return header.plan

    def _differences(self, header: CheckpointHeader) -> list[str]:
        """Says in which photos and settings this job differs from the one that was interrupted."""
        found = _changes(header.settings, self._config)
        if header.photos_digest != _digest(self._photos):
            where = f", which were in {printable(header.photos)}" if header.photos else ""
            found.insert(0, f"the photos are not those of the interrupted increment{where}")
        return found or [
            "it was begun by another version of lwm-edge, whose recipe had different default values"
        ]

    def state(self) -> TrainingState | None:
        """Returns the state to continue from, with tensors mapped from the file; None if there is none."""
        from ..learning.training import TrainingState
        from ..model.loading import mapped_tensors

        header = read_header(self._path)
        if header is None:
            return None
        tensors = mapped_tensors(self._path)
        del tensors[CHECKPOINT_HEADER]
        return TrainingState(header.step, header.loss_sums, tensors)

    def save(self, plan: PlanReport, state: TrainingState) -> None:
        """Replaces the checkpoint with one of the current state."""
        key = self._config.sign_with
        header = CheckpointHeader(
            parent_digest=self._parent_digest,
            job=self._job,
            step=state.step,
            loss_sums=state.loss_sums,
            plan=plan,
            photos=absolute(self._folder),
            photos_digest=_digest(self._photos),
            settings=self._config.model_copy(update={"sign_with": key and absolute(key), "fresh": False}),
        )
        block = np.frombuffer(_encoded(header).ljust(HEADER_BYTES), dtype=np.uint8)
        tensors = {n: np.asarray(tensor.cpu().numpy(), order="C") for n, tensor in state.tensors.items()}
        storage.write_file(self._path, save({**tensors, CHECKPOINT_HEADER: block}))

    def may_save(self) -> bool:
        """Returns whether the path is free or holds a checkpoint; no other file is ever overwritten."""
        return not os.path.lexists(self._path) or ownership.is_checkpoint(self._path)

    def forget(self) -> None:
        """Removes the checkpoint, if there is one."""
        ownership.remove_checkpoint(self._path)


def read_header(path: Path) -> CheckpointHeader | None:
    """Reads a checkpoint's header; returns None if there is none, or this version does not understand it.

    Raises:
        HomeError: There is a file that may not be read, so nobody can tell what would be lost without it.
    """
    if inspection.is_regular_file(path):
        with inspection.explained("read", path):
            inspection.read_regular(path, 1)
    try:
        return CheckpointHeader.model_validate_json(ownership.checkpoint_header(path) or b"")
    except (ValidationError, ConfigError):  # a ConfigError is about the settings in the header
        return None


def interrupted_increment(home: Home, config: IncrementConfig) -> CheckpointHeader | None:
    """Returns the header of the checkpoint of an interrupted increment; None if there is none to continue."""
    header = None if config.fresh else read_header(home.training)
    if header is None or header.parent_digest != home.open_bundle().manifest.model_digest:
        return None
    return header


def resumed_settings(home: Home, config: IncrementConfig) -> IncrementConfig:
    """Completes the given settings with those of an interrupted increment, if there is one to continue.

    Args:
        home: Model home, whose lock is held.
        config: Settings as they were given; with `fresh`, they stay as they are.

    Raises:
        ConfigError: The given settings do not fit those of the interrupted increment.
    """
    header = interrupted_increment(home, config)
    if header is None:
        return config
    not_given = IncrementConfig.model_fields.keys() - config.model_fields_set
    resumed = config.model_copy(update={name: getattr(header.settings, name) for name in not_given})
    if resumed.misfit():  # such as `instant`, if the interrupted increment had a recipe that trains
        raise _other_settings(header.step, _changes(header.settings, resumed))
    return resumed


def _encoded(header: CheckpointHeader) -> bytes:
    """Encodes a header, without its paths if they make it too long."""
    text = header.model_dump_json().encode()
    if len(text) > HEADER_BYTES:
        settings = header.settings.model_copy(update={"sign_with": None})
        text = header.model_copy(update={"photos": None, "settings": settings}).model_dump_json().encode()
    return text


def _settings_in_digest(config: IncrementConfig) -> dict[str, Any]:
    """Returns the settings that must be the same if a job is to continue."""
    return config.model_dump(mode="json", exclude=_SETTINGS_NOT_IN_DIGEST)


def _other_settings(step: int, differences: list[str]) -> ConfigError:
    """Makes the error that refuses other photos or settings than those of an interrupted increment."""
    return ConfigError(
        f"an increment with other photos or settings was interrupted at step {step}: give the original ones "
        "to continue it, or pass --fresh to start over with the new ones",
        differences,
    )


def _changes(before: IncrementConfig, after: IncrementConfig) -> list[str]:
    """Says which of the settings that affect what is learnt have changed."""
    then, now = _settings_in_digest(before), _settings_in_digest(after)
    return [
        f"{name} is {_shown(now[name])} now, and was {_shown(then[name])} before"
        for name in now
        if now[name] != then[name]
    ]


def _shown(value: object) -> str:
    return "not set" if value is None else str(value)


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
