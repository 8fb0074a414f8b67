"""Tries training steps that change nothing, so that the plan can measure their memory and time."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..errors import ArchitectureError, ran_out_of_gpu_memory
from ..freed_memory import drop_mapped_pages, freed_memory_kept
from ..learning.batches import Batch
from ..learning.config import IncrementConfig, Recipe
from ..learning.frozen import frozen_bytes
from ..learning.gpu_memory import no_room_for_one_image
from ..learning.layout import channels_last
from ..learning.optimizer import MomentumSGD
from ..learning.step import accumulate_gradients
from ..learning.training import trained_parameters
from ..model.bundle import Bundle
from ..model.network import Network, attention_cells
from ..model.precision import usable_precisions
from ..model.terms import Activation, Precision
from .job import Job, Strategy
from .timing import START, Timer
from .values import Approach, NewPhotos

_SMALL_IMAGE_SIDE = 64  # side, in pixels per grid cell, of the image whose activations are counted
_FLOAT32_BYTES, _FLOAT64_BYTES = 4, 8
_NETWORKS = 2  # teacher and student; the feature maps that both make of the held-back photos are kept


def describe_job(
    parent: Bundle,
    student: Network,
    teacher: Network,
    approach: Approach,
    photos: NewPhotos,
    config: IncrementConfig,
    *,
    decoding_bytes: int,
    generation_bytes: int,
    timer: Timer,
) -> Job:
    """Describes an increment for planning, with a step that can be tried.

    Args:
        parent: Bundle of the model before the increment.
        student: Network M_t, with the new rows of its head in use.
        teacher: Network M_{t-1}.
        approach: Approach of the increment.
        photos: Photos to learn from and held-back photos.
        config: Settings of the increment.
        decoding_bytes: Memory that reading a photo takes.
        generation_bytes: Total length of the model's files in the home.
        timer: Timer of the increment.
    """
    m, recipe = parent.manifest, approach.recipe

    def step(images: int, strategy: Strategy) -> None:
        """Tries a training step with this strategy."""
        student.recompute = strategy.recompute
        keep, precision = strategy.keeps_freed_memory, strategy.precision
        with freed_memory_kept(keep), channels_last(student, teacher, precision, keep):
            try_step(student, teacher, images, recipe, approach.classification, precision)
        drop_mapped_pages(teacher.mapped)

    features, held_back = student.head.in_features, len(photos.held_back.photos)
    map_values = student.attention_weight.shape[1] * attention_cells(student)
    return Job(
        step=step,
        photos=len(photos.to_learn.photos),
        held_back=held_back,
        photo_bytes=3 * m.preprocessing.image_size**2,
        held_bytes=photos.to_learn.cache.held_bytes,
        observed_bytes=_FLOAT64_BYTES * (len(photos.to_learn.photos) + held_back) * features
        + _FLOAT32_BYTES * _NETWORKS * held_back * map_values,
        features=features,
        trained_bytes=sum(p.numel() * p.element_size() for p in trained_parameters(student, recipe).values()),
        activation_bytes=saved_activation_bytes(student),
        frozen_bytes=0 if photos.to_learn.augmentation_seed is not None else frozen_bytes(student),
        precisions=usable_precisions(config.precision, student.head.weight.device),
        compares=approach.compares,
        on_gpu=student.head.weight.device.type == "cuda",
        decoding_bytes=decoding_bytes,
        bundle_bytes=m.bundle_bytes,
        generation_bytes=generation_bytes,
        elapsed_seconds=timer.seconds(),
        # the end takes about as long as the start: another process starts, to export and commit
        ending_seconds=timer.parts()[START],
    )


def try_step(
    student: Network,
    teacher: Network,
    images: int,
    recipe: Recipe,
    classification: Activation,
    precision: Precision = "float32",
) -> None:
    """Does a training step of two micro-batches of grey images, and changes nothing.

    Raises:
        ResourceError: The GPU has too little memory; the message says that not even one image fits.
    """
    size = student.preprocessing.image_size
    pixels = np.full((images, size, size, 3), 128, dtype=np.uint8)
    optimizer = MomentumSGD(trained_parameters(student, recipe))
    grey = Batch(step=0, labels=[teacher.classes] * 2 * images, pixels=np.concatenate([pixels, pixels]))
    try:
        accumulate_gradients(student, teacher, grey, images, recipe, classification, precision)
    except RuntimeError as error:
        if ran_out_of_gpu_memory(error):
            raise no_room_for_one_image() from error
        raise
    finally:
        optimizer.forget_gradients()


def saved_activation_bytes(student: Network) -> int:
    """Estimates the memory that one image occupies between the forward and the backward pass.

    The memory is counted for a small image and scaled up by the area, because the outputs of nearly all
    layers grow with the area.
    """
    size = student.preprocessing.image_size
    grid = student.levels.grid if student.levels else 1
    small = min(size, _SMALL_IMAGE_SIDE * grid)  # so that the maps are as fine as the grid
    try:
        return _bytes_saved_at(small, student) * size**2 // small**2
    except ArchitectureError:  # this network makes the maps even coarser
        return _bytes_saved_at(size, student)


def _bytes_saved_at(side: int, student: Network) -> int:
    """Counts the bytes that one image of side x side pixels occupies between the two passes."""
    sizes: dict[int, int] = {}
    parameters = {parameter.untyped_storage().data_ptr() for parameter in student.parameters()}

    def count(tensor: Tensor) -> Tensor:
        """Notes the size of a tensor that is saved for the backward pass, unless it is a parameter."""
        storage = tensor.untyped_storage().data_ptr()
        if storage not in parameters:
            sizes[storage] = tensor.numel() * tensor.element_size()
        return tensor.detach()  # undetached, an output would refer to itself and never be freed

    image = torch.zeros(1, side, side, 3, dtype=torch.uint8, device=student.head.weight.device)
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        output = student.after_stem(student.stem(image))
    del output
    return sum(sizes.values())
