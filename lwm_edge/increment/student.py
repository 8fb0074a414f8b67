"""Makes the student of an increment that trains, and says what limits its training."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ..errors import ConfigError
from ..learning.config import IncrementConfig
from ..learning.training import trained_parameters
from ..model.manifest import Manifest
from ..model.network import Network, few_cells_warnings, pools_early
from .values import Approach


def refuse_single_cell(teacher: Network, cells: int, approach: Approach) -> None:
    """Refuses an attention loss on maps of a single cell, where it has no effect.

    Raises:
        ConfigError: The recipe has this loss, and the teacher's attention maps have a single cell.
    """
    if not approach.recipe.gamma or cells > 1:
        return
    if pools_early(teacher):
        raise ConfigError(
            "this network pools before its last hidden layer, so its attention maps have a single cell at "
            "any image size, and the attention distillation loss has no effect; use recipe auto or lda"
        )
    raise ConfigError(
        f"at {teacher.preprocessing.image_size} px this network's attention maps have a single cell, so "
        "the attention distillation loss has no effect; use recipe lwf-mc or a base made at a larger size"
    )


def make_student(teacher: Network, approach: Approach, new_classes: int, config: IncrementConfig) -> Network:
    """Makes the student: a copy of the teacher with rows for the new classes.

    Raises:
        ConfigError: All blocks are frozen.
    """
    student = teacher.student(trains=True)
    if not trained_parameters(student, approach.recipe):
        raise ConfigError(
            f"all blocks are frozen, so {approach.name} has nothing to train; freeze fewer, or use recipe lda"
        )
    student.add_classes(new_classes, torch.Generator().manual_seed(config.seed))
    return student


def training_warnings(
    approach: Approach, teacher: Network, cells: int, manifest: Manifest, *, slow_precision: bool
) -> Iterator[str]:
    """Warns the owner about the limits of training with this teacher on this device."""
    if slow_precision:
        yield "this device is not known to have instructions for bfloat16: float32 is probably faster here"
    if approach.recipe.gamma:
        yield from few_cells_warnings(teacher, cells)
    if approach.classification != manifest.activation:
        yield (
            f"the base was trained with {manifest.activation} outputs and the increment with "
            f"{approach.classification}"
        )
