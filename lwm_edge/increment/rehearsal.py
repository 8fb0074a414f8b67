"""Single steps, done and taken back, from which the plan learns what the training will take."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..learning.batches import Batch
from ..learning.config import Recipe
from ..learning.optimizer import Momentum
from ..learning.training import accumulate_gradients, trained_parameters
from ..memory import drop_mapped_pages, freed_memory_kept
from ..model.bundle import Bundle
from ..model.manifest import Activation
from ..model.network import Network, attention_cells
from .plan import Job, Strategy
from .values import Approach, NewPhotos

_SMALL = 64  # pixels a side of the image that activations are counted on
_FLOAT32_BYTES, _FLOAT64_BYTES = 4, 8


def rehearse(
    parent: Bundle,
    student: Network,
    teacher: Network,
    approach: Approach,
    photos: NewPhotos,
    *,
    decoding_bytes: int,
    generation_bytes: int,
) -> Job:
    """An increment as the plan sees it.

    Args:
        parent: The bundle before.
        student: M_t, its new rows in place.
        teacher: M_{t-1}.
        approach: The recipe.
        photos: Those to learn from, and those held back.
        decoding_bytes: What reading a photo takes.
        generation_bytes: Length of all files of the model in the home.
    """
    m, recipe = parent.manifest, approach.recipe
    trained = trained_parameters(student, recipe).values() if recipe.trains else ()

    def step(images: int, strategy: Strategy) -> None:
        student.recompute = strategy.recompute
        with freed_memory_kept(strategy.keeps_freed_memory):
            try_step(student, teacher, images, recipe, approach.classification)
        drop_mapped_pages(teacher.mapped)

    features, held_back = student.head.in_features, len(photos.held_back.photos)
    map_values = student.attention_weight.shape[1] * attention_cells(student)
    networks = 2 if recipe.trains else 1  # whose maps of the photos held back are kept
    return Job(
        step=step,
        photos=len(photos.to_learn.photos),
        held_back=held_back,
        photo_bytes=3 * m.preprocessing.image_size**2,
        held_bytes=photos.to_learn.cache.held_bytes,
        observed_bytes=_FLOAT64_BYTES * (len(photos.to_learn.photos) + held_back) * features
        + _FLOAT32_BYTES * networks * held_back * map_values,
        features=features,
        trained_bytes=sum(parameter.numel() * parameter.element_size() for parameter in trained),
        activation_bytes=saved_activation_bytes(student) if recipe.trains else 0,
        decoding_bytes=decoding_bytes,
        bundle_bytes=m.bundle_bytes,
        generation_bytes=generation_bytes,
    )


def try_step(
    student: Network, teacher: Network, images: int, recipe: Recipe, classification: Activation
) -> None:
    """A step of two micro-batches of grey pictures, forward only where nothing trains; nothing is changed."""
    size = student.preprocessing.image_size
    pixels = np.full((images, size, size, 3), 128, dtype=np.uint8)
    if not recipe.trains:
        for _ in range(2):
            with torch.no_grad():
                student(torch.from_numpy(pixels).to(student.head.weight.device))
        return
    optimizer = Momentum(trained_parameters(student, recipe))
    grey = Batch(step=0, labels=[teacher.classes] * 2 * images, pixels=np.concatenate([pixels, pixels]))
    accumulate_gradients(student, teacher, grey, images, recipe, classification)
    optimizer.forget_gradients()


def saved_activation_bytes(student: Network) -> int:
    """About what one image leaves in memory between forward and backward pass.

    Counted on a small image, and scaled by the area, which nearly all layers' outputs follow.
    """
    sizes: dict[int, int] = {}
    parameters = {parameter.untyped_storage().data_ptr() for parameter in student.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage().data_ptr()
        if storage not in parameters:
            sizes[storage] = tensor.numel() * tensor.element_size()
        return tensor.detach()  # an output that keeps itself would never be freed

    size = student.preprocessing.image_size
    small = min(size, _SMALL * (student.levels.grid if student.levels else 1))  # maps as fine as the grid
    image = torch.zeros(1, small, small, 3, dtype=torch.uint8, device=student.head.weight.device)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        kept = student.after_stem(student.stem(image))
    del kept
    return sum(sizes.values()) * size**2 // small**2
