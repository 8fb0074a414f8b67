"""Processes fewer images at once if the GPU has no memory for more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from ..errors import ResourceError, ran_out_of_gpu_memory
from .batches import Pace

T = TypeVar("T")


def as_gpu_memory_allows(work: Callable[[Pace], T], pace: Pace) -> tuple[T, Pace]:
    """Does some work; each time the GPU runs out of memory, tries again with half the micro-batch size.

    Returns:
        The result, and the pace with the micro-batch size that fitted.

    Raises:
        ResourceError: The GPU has too little memory for a single image.
    """
    while True:
        try:
            return work(pace), pace
        except RuntimeError as error:
            if not ran_out_of_gpu_memory(error):
                raise
            if pace.micro_batch_size == 1:
                raise no_room_for_one_image() from error
        # Only here, where the error no longer keeps tensors alive, is their memory free.
        pace = replace(pace, micro_batch_size=pace.micro_batch_size // 2)


def no_room_for_one_image() -> ResourceError:
    """Makes the error for a GPU that has too little memory for a single image."""
    return ResourceError(
        "the GPU has too little memory to train on even one image at a time; the model is unchanged: close "
        "other programs that use the GPU, freeze more of the network (--frozen-blocks), or pass --device cpu"
    )
