"""Saves unfinished training, so that it can continue after an interruption: the checkpoint.

A checkpoint is one file of constant length in the home, rewritten now and then. It holds the parameters that
train, their momentum, the step and the plan, and fits one job only: the same model, photos and settings. It
holds nothing that can be computed again from those.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import ValidationError
from safetensors.numpy import save

from .. import storage
from ..errors import ConfigError
from ..home import ownership
from ..home.ownership import CHECKPOINT_HEADER
from ..learning.config import GATE_SETTINGS, IncrementConfig, Recipe
from ..model.manifest import Manifest
from ..photos.photo_set import PhotoSet
from ..records import Digest, Report
from .reports import PlanReport

if TYPE_CHECKING:
    from ..learning.training import TrainingState

SECONDS_BETWEEN_SAVES = 60.0
HEADER_BYTES = 4096
# Settings that do not affect what is learnt.
_SETTINGS_NOT_IN_DIGEST = {
    "max_memory",
    "micro_batch_size",
    "force",
    "fresh",
    "sign_with",
    "class_name",
    *GATE_SETTINGS,
}


class CheckpointHeader(Report):
    """Says which job a checkpoint belongs to, and how far that job has got."""

    parent_digest: Digest
    job: Digest
    step: int
    loss_sums: tuple[float, float, float]
    plan: PlanReport


class SavedTraining:
    """Reads and writes the checkpoint of one job.

    Args:
        path: Path of the checkpoint.
        manifest: Manifest of the model that learns.
        photos: Photos that it learns from.
        config: Settings of the increment.
        recipe: Recipe with the numbers that the settings lead to; another version of this package may use
            other numbers for the same settings.
    """

    def __init__(
        self, path: Path, manifest: Manifest, photos: PhotoSet, config: IncrementConfig, recipe: Recipe
    ) -> None:
        self._path = path
        self._parent_digest = manifest.model_digest
        self._job = _job_digest(photos, config, recipe)

    def plan(self) -> PlanReport | None:
        """Returns the plan that the training followed; None if there is nothing to continue.

        Raises:
            ConfigError: An increment with other photos or settings was interrupted.
        """
        header = read_header(self._path)
        if header is None or header.parent_digest != self._parent_digest:
            self.forget()  # it is damaged, or the model has changed since
            return None
        if header.job != self._job:
            raise ConfigError(
                f"an increment with other photos or settings was interrupted at step {header.step}: give the "
                "same photos and settings to continue it, or pass --fresh to start over with these"
            )
        return header.plan

    def state(self) -> TrainingState | None:
        """Returns the state to continue from, its tensors mapped from the file; None if there is none."""
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
        header = CheckpointHeader(
            parent_digest=self._parent_digest,
            job=self._job,
            step=state.step,
            loss_sums=state.loss_sums,
            plan=plan,
        )
        block = np.frombuffer(header.model_dump_json().encode().ljust(HEADER_BYTES), dtype=np.uint8)
        tensors = {name: tensor.cpu().numpy() for name, tensor in state.tensors.items()}
        storage.write_file(self._path, save({**tensors, CHECKPOINT_HEADER: block}))

    def may_save(self) -> bool:
        """Returns whether the path is free or holds a checkpoint; any other file is never overwritten."""
        return not os.path.lexists(self._path) or ownership.is_checkpoint(self._path)

    def forget(self) -> None:
        """Removes the checkpoint, if there is one."""
        ownership.remove_checkpoint(self._path)


def read_header(path: Path) -> CheckpointHeader | None:
    """Reads a checkpoint's header; returns None if there is none that this version understands."""
    try:
        return CheckpointHeader.model_validate_json(ownership.checkpoint_header(path) or b"")
    except ValidationError:
        return None


def _job_digest(photos: PhotoSet, config: IncrementConfig, recipe: Recipe) -> str:
    job = {
        "photos": [(photo.digest, photo.label) for photo in photos.photos],
        "config": config.model_dump(mode="json", exclude=_SETTINGS_NOT_IN_DIGEST),
        "recipe": recipe,
    }
    return hashlib.sha256(json.dumps(job, sort_keys=True).encode()).hexdigest()
