"""Plans an increment before it starts: predicts the memory, time and disk space that it will take.

The peak is measured, not guessed: training steps with one and with four images run once, on grey pictures,
and the memory that the kernel reports is extrapolated to the micro-batch. All candidates are in one list,
from the fastest to the one that takes the least memory, and the first that fits the limit is chosen. The
limit decides only the micro-batch, the cache, the prefetch and how memory is traded for time, not what is
learnt. Where two precisions may be used, each has its candidates, and the steps that were tried decide.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ..errors import ResourceError
from ..freed_memory import drop_library_pages
from ..learning.config import IncrementConfig
from ..memory import (
    ASSUMED_BYTES,
    available_memory_bytes,
    available_memory_is_known,
    peak_rss_bytes,
    reset_peak_rss,
    rss_bytes,
)
from ..model.terms import Precision
from .reports import PlanReport

# These were measured by benchmarks/memory.py, on ResNet-18 and MobileNetV2 at 224 px: with these margins the
# predictions in its table lie between 1% below and 17% above the actual peaks.
_MARGIN = 1.05  # the allocator and the libraries' own buffers add this from step to step
_MARGIN_KEEPING_MEMORY = 1.15  # the same, if freed memory is kept
_MAX_KEPT_FACTOR = 2.75  # times the memory of a step, if freed memory is kept; up to 2.6 was measured
_REPLANNING_MARGIN = 1.02  # plans may differ this much; a limit that an error names must suffice next time
_LIBRARY_BYTES = 10 * 2**20  # pages of NumPy and ONNX that solving and exporting read for the first time

# These were chosen, not measured.
SHARE_OF_AVAILABLE = 0.5
SHARE_FOR_CHECKED_PHOTOS = 0.1  # share of the memory left within the limit, for photos kept before the plan
_SHARE_FOR_CACHE = 0.25
_FORWARD_SHARE = 1 / 3  # share of a training step's time that its forward pass takes
_FEWEST_BATCHES_TO_KEEP_MEMORY = 20  # with fewer, trying a step takes longer than it saves
_ROOM_TO_TRY_FACTOR = 4  # past the limit, a step is tried only if this many times its minimum is free
_SECONDS_WORTH_A_TRIAL = 30.0  # of training; a shorter one does not try a second precision
_CLEARLY_FASTER = 0.75  # share of a step's time that the less exact precision may take at most
_PROBED_IMAGES = 4  # images in the step that shows what each further image costs
_PREFETCH = 1
_FLOAT64_BYTES = 8


class Strategy(NamedTuple):
    """Says how a step trades memory for time; its result is the same but for rounding.

    Attributes:
        recompute: Whether trained blocks are computed again in the backward pass, instead of keeping their
            activations.
        keeps_freed_memory: Whether freed tensors stay in the process for the next ones.
        precision: Precision in which the networks' blocks compute.
    """

    recompute: bool = False
    keeps_freed_memory: bool = False
    precision: Precision = "float32"


class Candidate(NamedTuple):
    """Describes one way to go through the increment.

    Attributes:
        strategy: Strategy of each step.
        micro_batch_size: Number of images computed at once.
        prefetch: Number of batches read ahead.
    """

    strategy: Strategy
    micro_batch_size: int
    prefetch: int


class Loaded(NamedTuple):
    """Says what a model takes in ONNX Runtime, as measured when it was loaded.

    Attributes:
        held_bytes: Bytes that it holds; they are free again once it has seen the photos.
        peak_bytes: Most bytes that loading it took; loading the new model, to compare it, takes as many.
    """

    held_bytes: int
    peak_bytes: int


@dataclass(frozen=True)
class Job:
    """Describes an increment for planning.

    Attributes:
        step: Function that does a step with two micro-batches of the given number of images (the second one
            adds to the gradients of the first) and leaves nothing behind.
        photos: Number of photos to learn from.
        held_back: Number of further photos that are held back.
        photo_bytes: Bytes of one prepared photo.
        held_bytes: Bytes of the prepared photos that are in memory already.
        observed_bytes: Bytes that are kept of all photos once the networks have seen them.
        features: Number d of values that the head reads.
        trained_bytes: Bytes of the parameters that train; 0 if none do.
        activation_bytes: Minimum bytes that one image occupies between forward and backward pass, in float32.
        decoding_bytes: Bytes that reading a photo takes in addition.
        bundle_bytes: Length of the bundle.
        generation_bytes: Total length of the model's files in the home.
        images_at_once: Most images that are worth computing at once; None if more are always faster.
        loaded: What the model takes in ONNX Runtime; None if torch runs it, and another process exports it.
        elapsed_seconds: Seconds from the command's start to now.
        ending_seconds: Seconds from the last photo to the command's end.
        frozen_bytes: Bytes of the frozen blocks' output for one photo, in float32, if it is the same in every
            epoch; 0 otherwise.
        precisions: Precisions that may be used, the most exact first; a later one must be clearly faster.
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
    precisions: tuple[Precision, ...] = ("float32",)

    def rss_bytes(self) -> int:
        """Returns the resident memory now, less the photos in it; the plan decides how many of those stay."""
        return rss_bytes() - self.held_bytes


class _Probe(NamedTuple):
    """Holds what single steps took: the peak with one image, bytes per further image, seconds per image."""

    peak_bytes: int
    bytes_per_image: int
    seconds_per_image: float

    def peak_with(self, images: int) -> int:
        """Extrapolates the peak memory of a step to this number of images at once."""
        return self.peak_bytes + (images - 1) * self.bytes_per_image


class _Prediction(NamedTuple):
    """Predicts the peak memory of an increment that follows a candidate, and its seconds per image."""

    peak_bytes: int
    seconds_per_image: float


def memory_limit(config: IncrementConfig) -> tuple[int, str]:
    """Returns the maximum bytes that this process may take, and where that number comes from."""
    if config.max_memory is not None:
        return int(config.max_memory), "as set"
    limit = rss_bytes() + int(SHARE_OF_AVAILABLE * available_memory_bytes())
    if available_memory_is_known():
        return limit, f"{SHARE_OF_AVAILABLE:.0%} of what is free on this device"
    return limit, (
        f"this system does not say how much memory is free, so {ASSUMED_BYTES // 2**20} MiB are assumed and "
        f"{SHARE_OF_AVAILABLE:.0%} of them used; pass --max-memory to set the limit"
    )


def make_plan(job: Job, config: IncrementConfig, limit: int, limit_source: str) -> PlanReport:
    """Chooses the first candidate, starting with the fastest, whose predicted peak stays within the limit.

    Raises:
        ResourceError: No candidate fits. The message names the smallest limit that would be enough. If the
            limit is clearly too small, a step is still tried to measure that, provided the device has plenty
            of free memory; otherwise the message names a lower bound.
    """
    needed = _minimum_bytes(job)
    if needed > limit and available_memory_bytes() < _ROOM_TO_TRY_FACTOR * (needed - job.rss_bytes()):
        raise _too_small(job, limit, int(_MARGIN**2 * needed), " or more,")  # no room to try a step
    predictor = _Predictor(job, config, limit)
    if chosen := _choose(predictor, job, config, limit):
        return _report(job, config, limit, limit_source, *chosen, predictor.smallest_limit())
    raise _too_small(job, limit, predictor.smallest_limit())


def _choose(
    predictor: _Predictor, job: Job, config: IncrementConfig, limit: int
) -> tuple[Candidate, _Prediction] | None:
    chosen: tuple[Candidate, _Prediction] | None = None
    for precision in job.precisions:
        if chosen and _seconds(job, config, chosen[1].seconds_per_image) < _SECONDS_WORTH_A_TRIAL:
            break
        found = predictor.first_that_fits(candidates(job, config, precision), limit)
        if found and chosen and found[1].seconds_per_image > _CLEARLY_FASTER * chosen[1].seconds_per_image:
            break
        chosen = found or chosen
    return chosen


def candidates(job: Job, config: IncrementConfig, precision: Precision = "float32") -> Iterator[Candidate]:
    """Lists all candidates of a precision, from the fastest to the one that takes the least memory."""
    batchings = list(_batchings(job, config))
    batches = config.epochs * job.photos / config.batch_size
    if job.trained_bytes and batches >= _FEWEST_BATCHES_TO_KEEP_MEMORY:
        for size, prefetch in batchings:
            if size >= min(_PROBED_IMAGES, batchings[0][0]):
                yield Candidate(Strategy(keeps_freed_memory=True, precision=precision), size, prefetch)
    for recompute in (False, True) if job.trained_bytes else (False,):
        for size, prefetch in batchings:
            yield Candidate(Strategy(recompute=recompute, precision=precision), size, prefetch)


def _batchings(job: Job, config: IncrementConfig) -> Iterator[tuple[int, int]]:
    """Lists pairs: how many images to compute at once, and how many batches to read ahead.

    Reading none ahead is the last resort.
    """
    size = config.micro_batch_size or min(config.batch_size, job.images_at_once or config.batch_size)
    yield size, _PREFETCH
    while config.micro_batch_size is None and size > 1:
        size //= 2
        yield size, _PREFETCH
    yield size, 0


class _Predictor:
    """Predicts what candidates take; tries each strategy once, when it is first needed.

    Args:
        job: Increment that is planned.
        config: Settings of the increment.
        limit: Bytes that no step may exceed; a step that is sure to exceed them is not tried.
    """

    def __init__(self, job: Job, config: IncrementConfig, limit: int) -> None:
        self._job, self._config, self._limit = job, config, limit
        self._probes: dict[Strategy, _Probe] = {}

    def first_that_fits(
        self, listed: Iterator[Candidate], limit: int
    ) -> tuple[Candidate, _Prediction] | None:
        """Finds the first candidate whose predicted peak stays within the limit, and returns both."""
        for candidate in listed:
            prediction = self.predict(candidate)
            if prediction and prediction.peak_bytes <= limit:
                return candidate, prediction
        return None

    def predict(self, candidate: Candidate) -> _Prediction | None:
        """Predicts what a candidate takes; returns None without trying it if it surely exceeds the limit."""
        if candidate.strategy.keeps_freed_memory:
            return self._predict_keeping_memory(candidate)
        if not candidate.strategy.recompute and not self._may_fit(candidate.strategy):
            return None
        probe = self._probe(candidate.strategy)
        return _Prediction(self._peak(candidate, probe), probe.seconds_per_image)

    def smallest_limit(self) -> int:
        """Returns the smallest limit that would be enough for one of the strategies that were tried."""
        peaks = [
            self._peak(Candidate(strategy, size, prefetch), probe)
            for strategy, probe in self._probes.items()
            for size, prefetch in _batchings(self._job, self._config)
        ]
        return int(_REPLANNING_MARGIN * min(peaks))

    def _may_fit(self, strategy: Strategy) -> bool:
        needed = _minimum_bytes(self._job) + _in_precision(self._job.activation_bytes, strategy)
        return not self._job.trained_bytes or needed <= self._limit

    def _peak(self, candidate: Candidate, probe: _Probe) -> int:
        step = probe.peak_with(candidate.micro_batch_size)
        step += _overhead_bytes(self._job, self._config, candidate.prefetch)
        return int(_MARGIN * max(step, self._job.rss_bytes() + _writing_bytes(self._job)))

    def _predict_keeping_memory(self, candidate: Candidate) -> _Prediction | None:
        """Tries the micro-batch itself, as no simple rule says how much freed memory stays unused."""
        if not self._may_fit(candidate.strategy):
            return None
        job, at_rest = self._job, self._job.rss_bytes()
        overhead = _overhead_bytes(job, self._config, candidate.prefetch)
        step = self._probe(Strategy(precision=candidate.strategy.precision)).peak_with(
            candidate.micro_batch_size
        )
        if at_rest + _MAX_KEPT_FACTOR * (step - at_rest) + overhead > self._limit - job.held_bytes:
            return None
        peak, seconds = _measure_step(job, candidate.micro_batch_size, candidate.strategy)
        reset_peak_rss()
        highest = max(_MARGIN_KEEPING_MEMORY * (peak + overhead), _MARGIN * (at_rest + _writing_bytes(job)))
        return _Prediction(int(highest), seconds)

    def _probe(self, strategy: Strategy) -> _Probe:
        """Tries one image, and then several if they are certain to fit the limit."""
        if strategy in self._probes:
            return self._probes[strategy]
        job = self._job
        _measure_step(job, 1, strategy)  # this first step also loads libraries
        drop_library_pages()
        peak, seconds = _measure_step(job, 1, strategy)
        image_bytes = _in_precision(job.activation_bytes, strategy)
        if peak + _PROBED_IMAGES * image_bytes <= self._limit - job.held_bytes:
            peak_of_several, seconds_of_several = _measure_step(job, _PROBED_IMAGES, strategy)
            seen = max(peak_of_several - peak, 0) // (_PROBED_IMAGES - 1)
            image_bytes = seen if strategy.recompute else max(image_bytes, seen)
            seconds = min(seconds, seconds_of_several)
        reset_peak_rss()  # the trial's peak must not count as the increment's
        self._probes[strategy] = _Probe(peak, image_bytes, seconds)
        return self._probes[strategy]


def _report(
    job: Job,
    config: IncrementConfig,
    limit: int,
    limit_source: str,
    candidate: Candidate,
    prediction: _Prediction,
    smallest_limit: int,
) -> PlanReport:
    saving = _saving_bytes(job)
    checkpoints = saving <= limit
    highest = max(prediction.peak_bytes, saving) if checkpoints else prediction.peak_bytes
    frozen = _frozen_cache_bytes(job, config, candidate.strategy, limit - highest)
    all_photos = (job.photos + job.held_back) * job.photo_bytes
    cache = min(all_photos, int(_SHARE_FOR_CACHE * (limit - highest - frozen)))
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
        limit_bytes=limit,
        limit_source=limit_source,
        predicted_peak_rss_bytes=highest + frozen + cache,
        smallest_limit_bytes=min(smallest_limit, limit),
        predicted_seconds=_seconds(job, config, prediction.seconds_per_image),
        disk_bytes=2 * job.generation_bytes + 4 * job.trained_bytes,
    )


def _frozen_cache_bytes(job: Job, config: IncrementConfig, strategy: Strategy, room: int) -> int:
    """Returns how many bytes of the frozen blocks' outputs to keep, within a share of the room."""
    if not job.trained_bytes or config.epochs == 1:
        return 0
    of_all = job.photos * _in_precision(job.frozen_bytes, strategy)
    return min(of_all, int(_SHARE_FOR_CACHE * room))


def check_disk(folder: Path, plan: PlanReport) -> None:
    """Refuses to go on if the disk has less free space than the plan needs.

    Raises:
        ResourceError: The disk is too full.
    """
    free = shutil.disk_usage(folder).free
    if free < plan.disk_bytes:
        raise ResourceError(
            f"{folder} is on a disk with {free:,} bytes free, but the increment needs {plan.disk_bytes:,}; "
            "nothing was trained: free some space and try again"
        )


def _measure_step(job: Job, images: int, strategy: Strategy) -> tuple[int, float]:
    """Measures a step: its peak memory, less the photos in memory, and its seconds per image."""
    reset_peak_rss()
    started = time.monotonic()
    job.step(images, strategy)
    return peak_rss_bytes() - job.held_bytes, (time.monotonic() - started) / (2 * images)


def _overhead_bytes(job: Job, config: IncrementConfig, prefetch: int) -> int:
    """Returns what memory holds besides a step: batches, the photo being read, and observations."""
    loading = (1 + prefetch) * config.batch_size * job.photo_bytes + job.decoding_bytes
    return loading + job.observed_bytes


def _in_precision(float32_bytes: int, strategy: Strategy) -> int:
    """Returns the bytes that blocks' outputs take in the strategy's precision."""
    return float32_bytes // 2 if strategy.precision == "bfloat16" else float32_bytes


def _minimum_bytes(job: Job) -> int:
    """Returns the least that is needed: gradients and momentum, or what writing the result takes."""
    return job.rss_bytes() + max(2 * job.trained_bytes, _writing_bytes(job))


def _writing_bytes(job: Job) -> int:
    """Returns what comes once the networks have seen the photos: solving the head, and writing the bundle."""
    if job.loaded is None:  # following the drift takes further copies
        return 2 * job.bundle_bytes + (6 * job.features + 5 * job.photos) * job.features * _FLOAT64_BYTES
    solving = 3 * (job.features + job.photos + job.held_back) * job.features * _FLOAT64_BYTES
    exporting = job.bundle_bytes + job.loaded.peak_bytes
    writing = (
        3 * job.bundle_bytes + job.bundle_bytes // 2
    )  # tensors, their bytes, the file, and the ONNX file
    return max(solving, exporting, writing) - job.loaded.held_bytes + _LIBRARY_BYTES


def _saving_bytes(job: Job) -> int:
    """Returns what writing a checkpoint takes: the momentum, and two copies of parameters and momentum."""
    return int(_MARGIN * (job.rss_bytes() + 5 * job.trained_bytes))


def _seconds(job: Job, config: IncrementConfig, seconds_per_image: float) -> float:
    if job.trained_bytes:
        images = job.photos * (config.epochs + 2 * _FORWARD_SHARE) + 2 * _FORWARD_SHARE * job.held_back
    else:
        images = job.photos + job.held_back
    return round(job.elapsed_seconds + images * seconds_per_image + job.ending_seconds, 1)


def _too_small(job: Job, limit: int, smallest: int, more: str = "") -> ResourceError:
    mib = 2**20
    message = (
        f"{limit // mib} MiB of memory is too little for this increment; nothing was trained: pass "
        f"--max-memory {smallest // mib + 1}MiB{more} if that much is available"
    )
    if job.trained_bytes:
        message += ", freeze more of the network (--frozen-blocks), or use recipe lda, which trains nothing"
    return ResourceError(message)
