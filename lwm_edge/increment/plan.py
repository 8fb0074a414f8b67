"""Plans an increment before it starts: predicts the memory, time and disk space that it will take.

The peak is measured, not guessed: steps with one image and, if there is room, with four are tried on grey
pictures, and the memory that the kernel reports is extrapolated to the micro-batch. (If freed memory is kept,
the micro-batch itself is tried. If nothing trains, a step runs the backbone alone.) The candidates are listed
from the fastest to the one that takes the least memory, and the first that fits the limit is chosen. Once
the recipe is chosen, the limit decides only the micro-batch, the caches, the prefetch, how memory is traded
for time and whether training can be saved, not what is learnt. The one exception is the precision: if two may
be used, each has its own list of candidates, and the limit and trial steps decide between them.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from ..errors import ResourceError
from ..learning.config import IncrementConfig
from ..memory import ASSUMED_BYTES, available_memory_bytes, available_memory_is_known, rss_bytes
from .job import Candidate, Job, Strategy, candidates
from .prediction import (
    MARGIN,
    Prediction,
    Predictor,
    in_precision,
    minimum_bytes,
    saving_bytes,
    seconds_needed,
)
from .reports import PlanReport

# These were chosen, not measured.
SHARE_OF_AVAILABLE = 0.5
SHARE_FOR_CHECKED_PHOTOS = 0.1  # share of the memory left within the limit, for photos read before planning
_SHARE_FOR_CACHE = 0.25
_ROOM_TO_TRY_FACTOR = 4  # a step that exceeds the limit is tried only if this many times its minimum is free
_SECONDS_WORTH_A_TRIAL = 30.0  # if the increment takes less, a second precision is not tried
_CLEARLY_FASTER = 0.75  # a less exact precision is chosen if its step takes at most this share of the time


def memory_limit(config: IncrementConfig) -> tuple[int, str]:
    """Returns the most bytes that this process may take, and where that number comes from."""
    if config.max_memory is not None:
        return int(config.max_memory), "as set"
    limit = rss_bytes() + int(SHARE_OF_AVAILABLE * available_memory_bytes())
    if available_memory_is_known():
        return limit, f"{SHARE_OF_AVAILABLE:.0%} of what is free on this device"
    return limit, (
        f"this system does not say how much memory is free, so {ASSUMED_BYTES // 2**20} MiB is assumed, "
        f"and {SHARE_OF_AVAILABLE:.0%} of it may be used; pass --max-memory to set the limit"
    )


def make_plan(job: Job, config: IncrementConfig, limit: int, limit_source: str) -> PlanReport:
    """Chooses the first candidate, starting with the fastest, whose predicted peak stays within the limit.

    Raises:
        ResourceError: No candidate fits. The message names the smallest limit that would be enough. If the
            device has plenty of free memory, a step is tried to find that limit, even if the given one is
            clearly too small. Otherwise, the message names a lower bound.
    """
    needed = minimum_bytes(job)
    if needed > limit and available_memory_bytes() < _ROOM_TO_TRY_FACTOR * (needed - job.rss_bytes()):
        raise _too_small(job, limit, int(MARGIN**2 * needed), " or more")  # no room to try a step
    predictor = Predictor(job, config, limit)
    if chosen := _choose(predictor, job, config, limit):
        return _report(job, config, limit, limit_source, *chosen, predictor.smallest_limit())
    raise _too_small(job, limit, predictor.smallest_limit())


def _choose(
    predictor: Predictor, job: Job, config: IncrementConfig, limit: int
) -> tuple[Candidate, Prediction] | None:
    chosen: tuple[Candidate, Prediction] | None = None
    for precision in job.precisions:
        if chosen and seconds_needed(job, config, chosen[1].seconds_per_image) < _SECONDS_WORTH_A_TRIAL:
            break
        found = predictor.first_that_fits(candidates(job, config, precision), limit)
        if found and chosen and found[1].seconds_per_image > _CLEARLY_FASTER * chosen[1].seconds_per_image:
            break
        chosen = found or chosen
    return chosen


def _report(
    job: Job,
    config: IncrementConfig,
    limit: int,
    limit_source: str,
    candidate: Candidate,
    prediction: Prediction,
    smallest_limit: int,
) -> PlanReport:
    saving = saving_bytes(job, candidate.strategy)
    checkpoints = saving <= limit
    highest = max(prediction.peak_bytes, saving) if checkpoints else prediction.peak_bytes
    frozen = _frozen_cache_bytes(job, config, candidate.strategy, limit - highest)
    all_photos = (job.photos + job.held_back) * job.photo_bytes
    cache = min(all_photos, int(_SHARE_FOR_CACHE * (limit - highest - frozen)))
    keeps_all_photos = cache == all_photos == job.held_bytes
    if keeps_all_photos:
        highest = max(prediction.peak_without_reading_bytes, saving if checkpoints else 0)
    return PlanReport(
        micro_batch_size=candidate.micro_batch_size,
        micro_batches_per_update=-(-config.batch_size // candidate.micro_batch_size),
        prefetch=candidate.prefetch,
        recompute=candidate.strategy.recompute,
        keeps_freed_memory=candidate.strategy.keeps_freed_memory,
        precision=candidate.strategy.precision,
        checkpoints=checkpoints,
        frozen_cache_bytes=frozen,
        pixel_cache_bytes=cache,
        keeps_all_photos=keeps_all_photos,
        limit_bytes=limit,
        limit_source=limit_source,
        predicted_peak_rss_bytes=highest + frozen + cache,
        smallest_limit_bytes=min(smallest_limit, limit),
        predicted_seconds=seconds_needed(job, config, prediction.seconds_per_image),
        ending_seconds=round(job.ending_seconds, 1),
        disk_bytes=2 * job.generation_bytes + 4 * job.trained_bytes,
        trains=bool(job.trained_bytes),
    )


def _frozen_cache_bytes(job: Job, config: IncrementConfig, strategy: Strategy, room: int) -> int:
    """Returns how many bytes of the frozen blocks' outputs to keep, within a share of `room`."""
    if not job.trained_bytes or config.epochs == 1:
        return 0
    of_all = job.photos * in_precision(job.frozen_bytes, strategy)
    return min(of_all, int(_SHARE_FOR_CACHE * room))


def check_disk(folder: Path, plan: PlanReport) -> None:
    """Checks that the disk has as much free space as the plan needs.

    Raises:
        ResourceError: The disk is too full.
    """
    free = shutil.disk_usage(folder).free
    if free < plan.disk_bytes:
        raise ResourceError(
            f"{folder} is on a disk with {free:,} bytes free, but the increment needs {plan.disk_bytes:,}; "
            "nothing was trained: free some space and try again"
        )


def _too_small(job: Job, limit: int, smallest: int, more: str = "") -> ResourceError:
    mib = 2**20
    message = (
        f"{round(limit / mib, 1):g} MiB of memory is too little for this increment; nothing was trained: "
        f"pass --max-memory {smallest // mib + 1}MiB{more} (if that much is available)"
    )
    if job.on_gpu:
        message += ", train on the CPU, without the GPU's libraries (--device cpu)"
    if job.trained_bytes:
        message += ", freeze more of the network (--frozen-blocks), or use recipe lda, which trains nothing"
    return ResourceError(message)
