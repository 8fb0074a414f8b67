"""Describes an increment for planning, and lists the ways in which it can be done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from ..learning.config import IncrementConfig
from ..memory import rss_bytes
from ..model.terms import Precision
from ..records import report_nothing

# This was chosen, not measured: with fewer updates, the trial step would take more time than it could save.
_FEWEST_BATCHES_TO_KEEP_MEMORY = 20
PROBED_IMAGES = 4  # images in the step that shows what each further image costs
_PREFETCH = 1


class Strategy(NamedTuple):
    """Says how a step trades memory for time; apart from rounding, the result is the same.

    Attributes:
        recompute: Whether trained blocks are computed again in the backward pass, instead of keeping their
            activations.
        keeps_freed_memory: Whether the process keeps the memory of freed tensors for the next ones, and
            copies of the kernels with their channels last.
        precision: Precision in which the networks' blocks compute.
    """

    recompute: bool = False
    keeps_freed_memory: bool = False
    precision: Precision = "float32"


class Candidate(NamedTuple):
    """Describes one way in which the increment can be done.

    Attributes:
        strategy: Strategy of each step.
        micro_batch_size: Number of images processed at once.
        prefetch: Number of batches read ahead.
    """

    strategy: Strategy
    micro_batch_size: int
    prefetch: int


class Loaded(NamedTuple):
    """Says how much memory a model takes in ONNX Runtime, as measured when it was loaded.

    Attributes:
        held_bytes: Bytes that the loaded model takes; they are freed once it has run on the photos.
        peak_bytes: Largest number of bytes taken while the model was being loaded; loading the new model, to
            check it, takes as many.
    """

    held_bytes: int
    peak_bytes: int


@dataclass(frozen=True)
class Job:
    """Describes an increment for planning.

    Attributes:
        step: Function that tries two micro-batches of the given number of images, and changes no
            model. In training, the second one adds to the gradients of the first.
        photos: Number of photos to learn from.
        held_back: Number of further photos that are held back.
        photo_bytes: Bytes of one prepared photo.
        held_bytes: Bytes of the prepared photos that are already in memory.
        observed_bytes: Bytes that are kept for all photos once the networks have run on them.
        features: Number d of values that the head reads.
        trained_bytes: Bytes of the parameters that are trained; 0 if none are.
        activation_bytes: Estimated bytes that one image occupies between forward and backward pass, in
            float32.
        decoding_bytes: Further bytes that reading a photo takes.
        separate_decoding_bytes: The same if the limit is so tight that a separate process decodes costly
            photos; 0 if none of them is costly.
        bundle_bytes: Length of the bundle.
        generation_bytes: Total length of the model's files in the home.
        images_at_once: Largest number of images worth processing at once; None if more are always faster.
        loaded: Memory that the model takes in ONNX Runtime; None if torch runs the model.
        elapsed_seconds: Seconds from the command's start to now.
        ending_seconds: Seconds from the last photo to the command's end, as predicted.
        frozen_bytes: Bytes of the frozen blocks' output for one photo, in float32, if it is the same in every
            epoch; 0 otherwise.
        precisions: Precisions that may be used, the most exact first; a later one is used only if it is
            clearly faster.
        compares: Whether the student is compared with a model whose backbone stayed as it was.
        on_gpu: Whether the steps run on a GPU.
        before_step: Function that is called before each trial step; any exception that it raises ends the
            planning.
    """

    step: Callable[[int, Strategy], None]
    photos: int
    held_back: int
    photo_bytes: int
    held_bytes: int
    observed_bytes: int
    features: int
    trained_bytes: int
    activation_bytes: int
    decoding_bytes: int
    bundle_bytes: int
    generation_bytes: int
    images_at_once: int | None = None
    loaded: Loaded | None = None
    elapsed_seconds: float = 0.0
    ending_seconds: float = 0.0
    frozen_bytes: int = 0
    separate_decoding_bytes: int = 0
    precisions: tuple[Precision, ...] = ("float32",)
    compares: bool = False
    on_gpu: bool = False
    before_step: Callable[[], None] = report_nothing

    def rss_bytes(self) -> int:
        """Returns the resident memory now, less the photos in it; the plan decides how many of these stay."""
        return rss_bytes() - self.held_bytes


def candidates(job: Job, config: IncrementConfig, precision: Precision = "float32") -> Iterator[Candidate]:
    """Lists a precision's candidates, from the fastest to the one that takes the least memory."""
    ways = list(batchings(job, config))
    batches = config.epochs * job.photos / config.batch_size
    if job.trained_bytes and batches >= _FEWEST_BATCHES_TO_KEEP_MEMORY:
        for size, prefetch in ways:
            if size >= min(PROBED_IMAGES, ways[0][0]):
                yield Candidate(Strategy(keeps_freed_memory=True, precision=precision), size, prefetch)
    for recompute in (False, True) if job.trained_bytes else (False,):
        for size, prefetch in ways:
            yield Candidate(Strategy(recompute=recompute, precision=precision), size, prefetch)


def batchings(job: Job, config: IncrementConfig) -> Iterator[tuple[int, int]]:
    """Lists pairs: how many images to process at once, and how many batches to read ahead.

    With the last pair, none are read ahead.
    """
    size = config.micro_batch_size or min(config.batch_size, job.images_at_once or config.batch_size)
    yield size, _PREFETCH
    while config.micro_batch_size is None and size > 1:
        size //= 2
        yield size, _PREFETCH
    yield size, 0
