"""Runs the training loop of Learning without Memorizing (Dhar et al. 2019).

    L = L_C + beta * L_D + gamma * L_AD

A student learns from one frozen teacher, on photos of the new classes alone. The loop knows nothing of paths
or files.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from ..errors import GateError
from ..model.network import Network
from ..model.terms import Activation
from ..photos.photo_set import PhotoSet
from ..records import Progress, ProgressCallback
from .batches import Batch, Pace, loaded_batches
from .config import IncrementConfig, Recipe
from .frozen import FrozenOutputs, keep_frozen_outputs
from .gpu_memory import as_gpu_memory_allows
from .optimizer import MomentumSGD, all_finite
from .reports import TrainingReport
from .step import accumulate_gradients


class TrainingState(NamedTuple):
    """Holds everything that interrupted training needs to continue.

    Attributes:
        step: Number of optimiser updates done.
        loss_sums: Sums of L_C, L_D and L_AD over the photos of the current epoch so far.
        tensors: Trained parameters and their momenta by name; these tensors change with every update.
    """

    step: int
    loss_sums: tuple[float, float, float]
    tensors: dict[str, Tensor]


def train_increment(
    student: Network,
    teacher: Network,
    photos: PhotoSet,
    config: IncrementConfig,
    recipe: Recipe,
    classification: Activation,
    pace: Pace,
    on_progress: ProgressCallback,
    *,
    resume: Callable[[], TrainingState | None] = lambda: None,
    after_step: Callable[[TrainingState], None] = lambda state: None,
) -> TrainingReport:
    """Teaches the student the new classes; the teacher is not touched.

    Both networks stay in eval mode: otherwise, BatchNorm statistics would drift to the new classes, dropout
    would break the attention maps, and the micro-batches would not add up to the whole batch's gradient. On a
    CPU, the result is the same for the same seed, pace and number of threads, even if training was
    interrupted.

    Args:
        student: Network M_t, with the new rows of the head.
        teacher: Network M_{t-1}.
        photos: Photos of the new classes.
        config: Settings of the increment.
        recipe: Recipe; it sets beta, gamma and the learning rates, and says which parameters are trained.
        classification: Kind of L_C.
        pace: Pace at which to work through the batches.
        on_progress: Function that is called after every update and, before the first one, while the frozen
            blocks run.
        resume: Function that returns the state in which training was interrupted; if it returns None,
            training starts from the beginning.
        after_step: Function that is called with the current state, after every update and a few times a
            second while the next photos are not ready. It can save the state, or raise an error to stop.

    Raises:
        GateError: The loss, a gradient or a weight is no longer finite.
        ResourceError: The GPU has too little memory for a single image.
    """
    parameters = trained_parameters(student, recipe)
    optimizer, rates = MomentumSGD(parameters), learning_rates(parameters, recipe)
    student.recompute, max_norm = pace.recompute, recipe.max_gradient_norm
    steps_per_epoch = -(-len(photos.photos) // config.batch_size)
    total_steps = config.epochs * steps_per_epoch
    done, loss_sums = _resume(resume, optimizer)
    started = time.monotonic()
    frozen, pace = as_gpu_memory_allows(
        lambda pace: keep_frozen_outputs(student, photos, pace, on_progress), pace
    )
    accumulate = partial(_accumulate, student, teacher, recipe, classification, frozen, optimizer)
    state = _state(done, loss_sums, optimizer)

    def save_or_stop() -> None:
        """Lets the caller save the current state, or stop the training, while photos are not ready."""
        after_step(state)

    for batch in loaded_batches(photos, config, pace.prefetch, done, len(frozen), save_or_stop):
        if batch.step % steps_per_epoch == 0:
            loss_sums = np.zeros(3)
        batch_losses, pace = as_gpu_memory_allows(partial(accumulate, batch), pace)
        L_C, L_D, L_AD = batch_losses
        loss, norm = float(L_C + recipe.beta * L_D + recipe.gamma * L_AD), optimizer.gradient_norm()
        for name, value in (("the loss", loss), ("the norm of the gradients", norm)):
            if not math.isfinite(value):
                raise diverged(f"{name} became {value} at step {batch.step + 1}", config, recipe)
        # Cut long gradients: with BatchNorm frozen, nothing else limits the length of a step.
        optimizer.update(rates, config.momentum, scale=max_norm / max(norm, max_norm))

        loss_sums += len(batch.labels) * batch_losses
        on_progress(Progress(phase="train", done=batch.step + 1, total=total_steps, loss=loss))
        state = _state(batch.step + 1, loss_sums, optimizer)
        after_step(state)

    if not all_finite(parameters.values()):  # no loss is computed after the last update
        raise diverged(f"the weights were no longer finite after step {total_steps}", config, recipe)
    student.requires_grad_(False)
    seconds, mean_losses = time.monotonic() - started, loss_sums / len(photos.photos)
    step_ms = 1000 * seconds / max(1, total_steps - done)
    report = _report(mean_losses, recipe, config.epochs, total_steps, step_ms, seconds)
    return report.model_copy(update={"micro_batch_size": pace.micro_batch_size})


def _resume(
    resume: Callable[[], TrainingState | None], optimizer: MomentumSGD
) -> tuple[int, NDArray[np.float64]]:
    """Restores the state of interrupted training, if there is any.

    The state itself is not returned, as its tensors keep a file mapped.

    Returns:
        The number of updates done, and the sums of L_C, L_D and L_AD over the current epoch so far.
    """
    state = resume()
    if state is None:
        return 0, np.zeros(3)
    optimizer.restore(state.tensors)
    return state.step, np.array(state.loss_sums)


def _state(step: int, loss_sums: NDArray[np.float64], optimizer: MomentumSGD) -> TrainingState:
    sums = float(loss_sums[0]), float(loss_sums[1]), float(loss_sums[2])
    return TrainingState(step, sums, optimizer.tensors())


def diverged(what_happened: str, config: IncrementConfig, recipe: Recipe) -> GateError:
    """Makes the error for training that diverged; its message says what to do."""
    names = {"learning_rate": "--learning-rate", "head_learning_rate": "head_learning_rate in lwm-edge.toml"}
    used = {name: rate for name in names if (rate := getattr(recipe, name))}
    # A rate that the user set is the likelier cause, as the recipes' own rates have been tested.
    chosen = [name for name in used if getattr(config, name) is not None] or list(used)
    advice = " and ".join(f"{names[name]} below {used[name]:g}" for name in chosen)
    return GateError(f"{what_happened}; the model is unchanged: try again with {advice}")


def _report(
    losses: NDArray[np.float64], recipe: Recipe, epochs: int, steps: int, step_ms: float, seconds: float
) -> TrainingReport:
    """Makes the report; a loss that the recipe leaves out is None."""
    L_C, L_D, L_AD = (float(loss) for loss in losses)
    return TrainingReport(
        epochs=epochs,
        steps=steps,
        classification_loss=L_C,
        distillation_loss=L_D if recipe.beta else None,
        attention_distillation_loss=L_AD if recipe.gamma else None,
        step_ms=step_ms,
        seconds=seconds,
    )


def _accumulate(
    student: Network,
    teacher: Network,
    recipe: Recipe,
    classification: Activation,
    frozen: FrozenOutputs,
    optimizer: MomentumSGD,
    batch: Batch,
    pace: Pace,
) -> NDArray[np.float64]:
    """Adds up a batch's gradients, starting from none; returns L_C, L_D and L_AD of the batch."""
    optimizer.forget_gradients()  # an earlier try may have ended in the middle
    size, precision = pace.micro_batch_size, pace.precision
    return accumulate_gradients(student, teacher, batch, size, recipe, classification, precision, frozen)


def trained_parameters(student: Network, recipe: Recipe) -> dict[str, nn.Parameter]:
    """Prepares a student for training, and returns the parameters that the recipe trains, by name.

    They are the parameters of all blocks after the frozen ones and, if the recipe trains the head, those of
    the head. From now on, only they require gradients, and the student is in eval mode.
    """
    student.eval().requires_grad_(False)
    for block in student.blocks()[student.frozen_blocks :]:
        block.requires_grad_(True)
    student.head.requires_grad_(recipe.head == "trained")
    return {name: parameter for name, parameter in student.named_parameters() if parameter.requires_grad}


def learning_rates(parameters: Iterable[str], recipe: Recipe) -> dict[str, float]:
    """Returns the learning rate of each parameter; the head's parameters have a rate of their own."""
    return {
        name: recipe.head_learning_rate if name.startswith("head.") else recipe.learning_rate
        for name in parameters
    }
