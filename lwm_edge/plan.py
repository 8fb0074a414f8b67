"""What an increment will take on this device, before any heat is spent: memory, time and disk.

The peak is measured, not guessed: single training steps of one and two images run once, on grey pictures,
and what the kernel saw of them is carried on to the micro-batch. Only micro-batch, cache, prefetch and
whether blocks are computed again follow from the limit; what the photos teach does not.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from .config import IncrementConfig
from .errors import ResourceError
from .memory import available_memory_bytes, peak_rss_bytes, reset_peak_rss, rss_bytes
from .reports import PlanReport

SHARE_OF_AVAILABLE = 0.5
_MARGIN = 1.05  # what the allocator and the libraries' own buffers add from step to step
_SHARE_FOR_CACHE = 0.25
_PREFETCH = 1
_FORWARD_SHARE = 1 / 3  # of a training step's time
_FLOAT64_BYTES = 8
_SEVERAL = 4  # images of a step, from which the cost of each further one is seen


@dataclass(frozen=True)
class Job:
    """What is to be planned for.

    Attributes:
        step: Does one step with so many images and leaves nothing behind; the second argument says whether
            to compute blocks again.
        photos: How many to learn from.
        photo_bytes: Of one, prepared.
        features: d of the network.
        trained_bytes: Of the parameters that train; 0 where none do.
        activation_bytes: What one image surely leaves in memory between forward and backward pass.
        decoding_bytes: What reading a photo takes besides.
        bundle_bytes: Length of the bundle.
        generation_bytes: Of all files of the model in the home.
    """

    step: Callable[[int, bool], None]
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


def memory_limit(config: IncrementConfig) -> tuple[int, str]:
    """Most bytes that this process may take, and where that comes from."""
    if config.max_memory is not None:
        return int(config.max_memory), "as set"
    limit = rss_bytes() + int(SHARE_OF_AVAILABLE * available_memory_bytes())
    return limit, f"{SHARE_OF_AVAILABLE:.0%} of what is free here"


def make_plan(job: Job, config: IncrementConfig, limit: int, limit_source: str) -> PlanReport:
    """Chooses the largest micro-batch, and the cache, whose predicted peak stays below the limit.

    Raises:
        ResourceError: Not even one image at a time does; says the smallest limit that would.
    """
    needed = rss_bytes() + max(2 * job.trained_bytes, _writing_bytes(job))
    if needed > limit:  # refused before a step is tried that would break the limit
        raise _too_small(limit, int(_MARGIN**2 * needed))
    keeping_fits = needed + job.activation_bytes <= limit
    ways = (False, True) if job.trained_bytes and keeping_fits else (not keeping_fits,)
    for recompute in ways:
        probe = _measure(job, recompute, limit)
        batches = (1 + _PREFETCH) * config.batch_size * job.photo_bytes + job.decoding_bytes
        one = max(probe.peak_bytes + batches, rss_bytes() + _writing_bytes(job))
        for micro_batch_size in _micro_batch_sizes(config):
            peak = int(_MARGIN * (one + (micro_batch_size - 1) * probe.bytes_an_image))
            if peak <= limit:
                saving = _saving_bytes(job)
                checkpoints = saving <= limit
                highest = max(peak, saving) if checkpoints else peak
                cache = min(job.photos * job.photo_bytes, int(_SHARE_FOR_CACHE * (limit - highest)))
                return PlanReport(
                    micro_batch_size=micro_batch_size,
                    micro_batches_an_update=-(-config.batch_size // micro_batch_size),
                    prefetch=_PREFETCH,
                    recompute=recompute,
                    checkpoints=checkpoints,
                    pixel_cache_bytes=cache,
                    limit_bytes=limit,
                    limit_source=limit_source,
                    predicted_peak_rss_bytes=highest + cache,
                    smallest_limit_bytes=int(_MARGIN * one),
                    predicted_seconds=_seconds(job, config, probe),
                    disk_bytes=2 * job.generation_bytes + 4 * job.trained_bytes,
                )
    raise _too_small(limit, int(_MARGIN * one))


def check_disk(folder: Path, plan: PlanReport) -> None:
    """Raises a ResourceError where the disk of a folder has less room than the plan needs."""
    free = shutil.disk_usage(folder).free
    if free < plan.disk_bytes:
        raise ResourceError(
            f"{folder} is on a disk with {free:,} bytes free, and the increment needs {plan.disk_bytes:,}; "
            "nothing was trained: free some space and try again"
        )


def _micro_batch_sizes(config: IncrementConfig) -> Iterator[int]:
    size = config.micro_batch_size or config.batch_size
    yield size
    while config.micro_batch_size is None and size > 1:
        size //= 2
        yield size


def _measure(job: Job, recompute: bool, limit: int) -> _Probe:
    """Tries one image, and several where the limit surely has room for them."""
    _try(job, 1, recompute)  # the first one also loads libraries
    peak, seconds = _try(job, 1, recompute)
    if peak + _SEVERAL * job.activation_bytes > limit:
        an_image = job.activation_bytes
    else:
        _try(job, _SEVERAL, recompute)
        peak_of_several, seconds_of_several = _try(job, _SEVERAL, recompute)
        an_image = max(peak_of_several - peak, 0) // (_SEVERAL - 1)
        seconds = min(seconds, seconds_of_several)
    reset_peak_rss()  # what was tried is not what the increment takes
    return _Probe(peak, an_image, seconds)


def _try(job: Job, images: int, recompute: bool) -> tuple[int, float]:
    """Peak memory of a step, and its seconds an image."""
    reset_peak_rss()
    started = time.monotonic()
    job.step(images, recompute)
    return peak_rss_bytes(), (time.monotonic() - started) / images


def _writing_bytes(job: Job) -> int:
    """Solving the head, and the bundle's content twice more where it is written."""
    return 2 * job.bundle_bytes + 6 * job.features**2 * _FLOAT64_BYTES


def _saving_bytes(job: Job) -> int:
    """What writing a checkpoint takes: the momentum of what trains, and both of them twice more."""
    return int(_MARGIN * (rss_bytes() + 5 * job.trained_bytes))


def _seconds(job: Job, config: IncrementConfig, probe: _Probe) -> float:
    passes = config.epochs + 2 * _FORWARD_SHARE if job.trained_bytes else 1.0
    return round(job.photos * passes * probe.seconds_an_image, 1)


def _too_small(limit: int, smallest: int) -> ResourceError:
    mib = 2**20
    return ResourceError(
        f"{limit // mib} MiB of memory are too few for this increment; nothing was trained: say "
        f"--max-memory {smallest // mib + 1}MiB if there is as much, leave more of the network as it is "
        "(--frozen-blocks), or take recipe lda, which trains nothing"
    )
