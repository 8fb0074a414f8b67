"""What an increment will take on this device, before any heat is spent: memory, time and disk.

The peak is measured, not guessed: training steps of one and four images run once, on grey pictures, and
what the kernel saw of them is carried on to the micro-batch. Only micro-batch, cache, prefetch and how memory
is traded for time follow from the limit; what the photos teach does not.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ..errors import ResourceError
from ..learning.config import IncrementConfig
from ..memory import available_memory_bytes, drop_library_pages, peak_rss_bytes, reset_peak_rss, rss_bytes
from .reports import PlanReport

SHARE_OF_AVAILABLE = 0.5
_MARGIN = 1.05  # what the allocator and the libraries' own buffers add from step to step
_SHARE_FOR_CACHE = 0.25
_PREFETCH = 1
_FORWARD_SHARE = 1 / 3  # of a training step's time
_FLOAT64_BYTES = 8
_SEVERAL = 4  # images of a step, from which the cost of each further one is seen
_MARGIN_IF_KEPT = 1.15
_REPEATED = 1.02  # from one planning to the next, so that a limit that was named would do
_KEPT_AT_MOST = 2.75  # times what a step takes, where freed memory is kept; up to 2.6 was seen
_LEAST_BATCHES = 20  # for which it is worth trying that
_ROOM_TO_TRY = 4  # times what a step surely takes, free on the device


class Way(NamedTuple):
    """How a step trades memory for time; its result is the same.

    Attributes:
        recompute: Compute trained blocks again in the backward pass instead of keeping their activations.
        keeps_freed_memory: Leave freed tensors in the process for the next ones.
    """

    recompute: bool
    keeps_freed_memory: bool


@dataclass(frozen=True)
class Job:
    """What is to be planned for.

    Attributes:
        step: Does a step with two micro-batches of so many images, and leaves nothing behind; the second one
            meets the gradients of the first.
        photos: How many to learn from.
        photo_bytes: Of one, prepared.
        features: d, what the head reads.
        trained_bytes: Of the parameters that train; 0 where none do.
        activation_bytes: What one image surely leaves in memory between forward and backward pass.
        decoding_bytes: What reading a photo takes besides.
        bundle_bytes: Length of the bundle.
        generation_bytes: Of all files of the model in the home.
    """

    step: Callable[[int, Way], None]
    photos: int
    photo_bytes: int
    features: int
    trained_bytes: int
    activation_bytes: int
    decoding_bytes: int
    bundle_bytes: int
    generation_bytes: int


class _Probe(NamedTuple):
    """What single steps took: peak memory with one image, for each further one, and seconds an image."""

    peak_bytes: int
    bytes_an_image: int
    seconds_an_image: float

    def peak_with(self, images: int) -> int:
        """Peak of a step with so many images at once."""
        return self.peak_bytes + (images - 1) * self.bytes_an_image


class _Batching(NamedTuple):
    """Images at once, and batches read ahead."""

    micro_batch_size: int
    prefetch: int


class _Choice(NamedTuple):
    """A way and a batching, with the predicted peak, and seconds an image."""

    way: Way
    batching: _Batching
    peak_bytes: int
    probe: _Probe
    seconds_an_image: float


def memory_limit(config: IncrementConfig) -> tuple[int, str]:
    """Most bytes that this process may take, and where that comes from."""
    if config.max_memory is not None:
        return int(config.max_memory), "as set"
    limit = rss_bytes() + int(SHARE_OF_AVAILABLE * available_memory_bytes())
    return limit, f"{SHARE_OF_AVAILABLE:.0%} of what is free here"


def make_plan(job: Job, config: IncrementConfig, limit: int, limit_source: str) -> PlanReport:
    """Chooses the largest micro-batch, and the cache, whose predicted peak stays below the limit.

    Raises:
        ResourceError: Not even one image at a time does; says the smallest limit that would. Where the limit
            is below all doubt and the device has plenty, one step is tried to learn that; where it has not,
            it is an estimate from below.
    """
    needed = _least_bytes(job)
    if needed > limit and available_memory_bytes() < _ROOM_TO_TRY * (needed - rss_bytes()):
        raise _too_small(job, limit, int(_MARGIN**2 * needed), " or more,")  # no room to try a step
    choice, smallest = _choose(job, config, limit)
    if choice is None:
        raise _too_small(job, limit, smallest)
    choice = _keep_freed_memory(job, config, limit, choice) or choice
    saving = _saving_bytes(job)
    checkpoints = saving <= limit
    highest = max(choice.peak_bytes, saving) if checkpoints else choice.peak_bytes
    cache = min(job.photos * job.photo_bytes, int(_SHARE_FOR_CACHE * (limit - highest)))
    micro_batch_size, prefetch = choice.batching
    return PlanReport(
        micro_batch_size=micro_batch_size,
        micro_batches_an_update=-(-config.batch_size // micro_batch_size),
        prefetch=prefetch,
        recompute=choice.way.recompute,
        keeps_freed_memory=choice.way.keeps_freed_memory,
        checkpoints=checkpoints,
        pixel_cache_bytes=cache,
        limit_bytes=limit,
        limit_source=limit_source,
        predicted_peak_rss_bytes=highest + cache,
        smallest_limit_bytes=min(smallest, limit),
        predicted_seconds=_seconds(job, config, choice.seconds_an_image),
        disk_bytes=2 * job.generation_bytes + 4 * job.trained_bytes,
    )


def _choose(job: Job, config: IncrementConfig, limit: int) -> tuple[_Choice | None, int]:
    """The first way, and in it the largest micro-batch, that fits; and the smallest limit that would do."""
    keeping_fits = _least_bytes(job) + job.activation_bytes <= limit
    smallest: list[int] = []
    for recompute in (False, True) if job.trained_bytes and keeping_fits else (not keeping_fits,):
        way = Way(recompute, keeps_freed_memory=False)
        probe = _measure(job, way, limit)
        peaks = {batching: _peak(job, config, probe, batching) for batching in _batchings(config)}
        smallest.append(int(_REPEATED * min(peaks.values())))
        for batching, peak in peaks.items():
            if peak <= limit:
                return _Choice(way, batching, peak, probe, probe.seconds_an_image), min(smallest)
    return None, min(smallest)


def _peak(job: Job, config: IncrementConfig, probe: _Probe, batching: _Batching) -> int:
    training = probe.peak_with(batching.micro_batch_size) + _beside_bytes(job, config, batching.prefetch)
    return int(_MARGIN * max(training, rss_bytes() + _writing_bytes(job)))


def _keep_freed_memory(job: Job, config: IncrementConfig, limit: int, choice: _Choice) -> _Choice | None:
    """A faster way, where the limit surely has room to try it and there is enough to do.

    How much memory stays unused then follows no simple rule, so the micro-batch itself is tried.
    """
    batches = (config.epochs if job.trained_bytes else 1) * job.photos / config.batch_size
    if choice.way.recompute or batches < _LEAST_BATCHES:
        return None
    way, at_rest = Way(recompute=False, keeps_freed_memory=True), rss_bytes()
    for batching in _batchings(config):
        micro_batch_size, prefetch = batching
        beside = _beside_bytes(job, config, prefetch)
        may_take = at_rest + _KEPT_AT_MOST * (choice.probe.peak_with(micro_batch_size) - at_rest) + beside
        if may_take <= limit and micro_batch_size >= min(_SEVERAL, choice.batching.micro_batch_size):
            peak, seconds = _try(job, micro_batch_size, way)
            reset_peak_rss()
            highest = int(max(_MARGIN_IF_KEPT * (peak + beside), _MARGIN * (at_rest + _writing_bytes(job))))
            if highest <= limit:
                return _Choice(way, batching, highest, choice.probe, seconds)
    return None


def check_disk(folder: Path, plan: PlanReport) -> None:
    """Raises a ResourceError where the disk of a folder has less room than the plan needs."""
    free = shutil.disk_usage(folder).free
    if free < plan.disk_bytes:
        raise ResourceError(
            f"{folder} is on a disk with {free:,} bytes free, and the increment needs {plan.disk_bytes:,}; "
            "nothing was trained: free some space and try again"
        )


def _batchings(config: IncrementConfig) -> Iterator[_Batching]:
    """From the fastest to the one that takes least; nothing is read ahead only where all else is too much."""
    size = config.micro_batch_size or config.batch_size
    yield _Batching(size, _PREFETCH)
    while config.micro_batch_size is None and size > 1:
        size //= 2
        yield _Batching(size, _PREFETCH)
    yield _Batching(size, 0)


def _measure(job: Job, way: Way, limit: int) -> _Probe:
    """Tries one image, and several where the limit surely has room for them."""
    _try(job, 1, way)  # the first one also loads libraries
    drop_library_pages()
    peak, seconds = _try(job, 1, way)
    an_image = job.activation_bytes
    if peak + _SEVERAL * an_image <= limit:
        peak_of_several, seconds_of_several = _try(job, _SEVERAL, way)
        seen = max(peak_of_several - peak, 0) // (_SEVERAL - 1)
        an_image = seen if way.recompute else max(an_image, seen)
        seconds = min(seconds, seconds_of_several)
    reset_peak_rss()  # what was tried is not what the increment takes
    return _Probe(peak, an_image, seconds)


def _try(job: Job, images: int, way: Way) -> tuple[int, float]:
    """Peak memory of a step, and its seconds an image."""
    reset_peak_rss()
    started = time.monotonic()
    job.step(images, way)
    return peak_rss_bytes(), (time.monotonic() - started) / (2 * images)


def _beside_bytes(job: Job, config: IncrementConfig, prefetch: int) -> int:
    """Beside a step: the batch at hand, those read ahead, the reading of a photo, and the features."""
    loading = (1 + prefetch) * config.batch_size * job.photo_bytes + job.decoding_bytes
    return loading + job.photos * job.features * _FLOAT64_BYTES


def _least_bytes(job: Job) -> int:
    """Surely needed: gradients and momentum, or what writing the result takes."""
    return rss_bytes() + max(2 * job.trained_bytes, _writing_bytes(job))


def _writing_bytes(job: Job) -> int:
    """Solving the head, following the drift, and the bundle's content twice more where it is written."""
    copies = 5 if job.trained_bytes else 3  # of all features
    return 2 * job.bundle_bytes + (6 * job.features + copies * job.photos) * job.features * _FLOAT64_BYTES


def _saving_bytes(job: Job) -> int:
    """What writing a checkpoint takes: the momentum of what trains, and both of them twice more."""
    return int(_MARGIN * (rss_bytes() + 5 * job.trained_bytes))


def _seconds(job: Job, config: IncrementConfig, seconds_an_image: float) -> float:
    passes = config.epochs + 2 * _FORWARD_SHARE if job.trained_bytes else 1.0
    return round(job.photos * passes * seconds_an_image, 1)


def _too_small(job: Job, limit: int, smallest: int, more: str = "") -> ResourceError:
    mib = 2**20
    message = (
        f"{limit // mib} MiB of memory are too few for this increment; nothing was trained: say "
        f"--max-memory {smallest // mib + 1}MiB{more} if there is as much"
    )
    if job.trained_bytes:
        message += (
            ", leave more of the network as it is (--frozen-blocks), or take recipe lda, which trains nothing"
        )
    return ResourceError(message)
