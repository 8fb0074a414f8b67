"""What an increment will take on this device, before any heat is spent: memory, time and disk.

The peak is measured, not guessed: training steps of one and four images run once, on grey pictures, and
what the kernel saw of them is carried on to the micro-batch. All ways to go stand in one list, from the
fastest to the one that takes least memory, and the first that fits the limit is taken. Only micro-batch,
cache, prefetch and how memory is traded for time follow from the limit; what the photos teach does not.
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

# Measured by benchmarks/memory.py, on ResNet-18 and MobileNetV2 at 224 px: with these margins the predictions
# of its table lie between 1% below and 17% above the peaks that followed.
_MARGIN = 1.05  # what the allocator and the libraries' own buffers add from step to step
_MARGIN_IF_KEPT = 1.15  # the same where freed memory is kept
_KEPT_AT_MOST = 2.75  # times what a step takes, where freed memory is kept; up to 2.6 was seen there
_REPEATED = 1.02  # from one planning to the next, so that a limit that an error names would do

# Chosen, not measured.
SHARE_OF_AVAILABLE = 0.5
SHARE_BEFORE_PLAN = 0.1  # of the room, for photos that are kept while they are being checked
_SHARE_FOR_CACHE = 0.25
_FORWARD_SHARE = 1 / 3  # of a training step's time is its forward pass
_FEWEST_BATCHES_TO_KEEP = 20  # with fewer, trying a step takes longer than it saves
_ROOM_TO_TRY = 4  # times what a step surely takes, free on the device
_SEVERAL = 4  # images of a step, from which the cost of each further one is seen
_PREFETCH = 1
_FLOAT64_BYTES = 8


class Strategy(NamedTuple):
    """How a step trades memory for time; its result is the same.

    Attributes:
        recompute: Whether trained blocks are computed again in the backward pass, instead of keeping their
            activations.
        keeps_freed_memory: Whether freed tensors stay in the process for the next ones.
    """

    recompute: bool = False
    keeps_freed_memory: bool = False


class Candidate(NamedTuple):
    """One way to go through the increment.

    Attributes:
        strategy: Of each step.
        micro_batch_size: Images computed at once.
        prefetch: Batches read ahead.
    """

    strategy: Strategy
    micro_batch_size: int
    prefetch: int


@dataclass(frozen=True)
class Job:
    """What is to be planned for.

    Attributes:
        step: Does a step with two micro-batches of so many images, and leaves nothing behind; the second one
            meets the gradients of the first.
        photos: How many photos to learn from.
        held_back: How many further photos are held back.
        photo_bytes: Bytes of one prepared photo.
        held_bytes: Bytes of prepared photos that are in memory already.
        observed_bytes: What is kept of all photos once a network has seen them.
        features: d, what the head reads.
        trained_bytes: Bytes of the parameters that train; 0 where none do.
        activation_bytes: What one image surely leaves in memory between forward and backward pass.
        decoding_bytes: What reading a photo takes besides.
        bundle_bytes: Length of the bundle.
        generation_bytes: Length of all files of the model in the home.
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

    def rss_bytes(self) -> int:
        """Resident memory now, without the photos in it: how many of them stay is for the plan to say."""
        return rss_bytes() - self.held_bytes


class _Probe(NamedTuple):
    """What single steps took: peak memory with one image, for each further one, and seconds an image."""

    peak_bytes: int
    bytes_an_image: int
    seconds_an_image: float

    def peak_with(self, images: int) -> int:
        """Peak of a step with so many images at once."""
        return self.peak_bytes + (images - 1) * self.bytes_an_image


class _Prediction(NamedTuple):
    """The peak of an increment that goes a candidate's way, and seconds an image."""

    peak_bytes: int
    seconds_an_image: float


def memory_limit(config: IncrementConfig) -> tuple[int, str]:
    """The most bytes that this process may take, and where that number comes from."""
    if config.max_memory is not None:
        return int(config.max_memory), "as set"
    limit = rss_bytes() + int(SHARE_OF_AVAILABLE * available_memory_bytes())
    return limit, f"{SHARE_OF_AVAILABLE:.0%} of what is free here"


def make_plan(job: Job, config: IncrementConfig, limit: int, limit_source: str) -> PlanReport:
    """Takes the first candidate, from the fastest on, whose predicted peak stays within the limit.

    Raises:
        ResourceError: None does; says the smallest limit that would. Where the limit is below all doubt and
            the device has plenty, one step is tried to learn that; where it has not, it is an estimate from
            below.
    """
    needed = _minimum_bytes(job)
    if needed > limit and available_memory_bytes() < _ROOM_TO_TRY * (needed - job.rss_bytes()):
        raise _too_small(job, limit, int(_MARGIN**2 * needed), " or more,")  # no room to try a step
    predictor = _Predictor(job, config, limit)
    for candidate in candidates(job, config):
        prediction = predictor.predict(candidate)
        if prediction and prediction.peak_bytes <= limit:
            return _report(
                job, config, limit, limit_source, candidate, prediction, predictor.smallest_limit()
            )
    raise _too_small(job, limit, predictor.smallest_limit())


def candidates(job: Job, config: IncrementConfig) -> Iterator[Candidate]:
    """All ways to go, from the fastest to the one that takes least memory."""
    batchings = list(_batchings(config))
    batches = (config.epochs if job.trained_bytes else 1) * job.photos / config.batch_size
    if batches >= _FEWEST_BATCHES_TO_KEEP:
        for size, prefetch in batchings:
            if size >= min(_SEVERAL, batchings[0][0]):
                yield Candidate(Strategy(keeps_freed_memory=True), size, prefetch)
    for recompute in (False, True) if job.trained_bytes else (False,):
        for size, prefetch in batchings:
            yield Candidate(Strategy(recompute=recompute), size, prefetch)


def _batchings(config: IncrementConfig) -> Iterator[tuple[int, int]]:
    """Images at once and batches read ahead; nothing is read ahead only where all else is too much."""
    size = config.micro_batch_size or config.batch_size
    yield size, _PREFETCH
    while config.micro_batch_size is None and size > 1:
        size //= 2
        yield size, _PREFETCH
    yield size, 0


class _Predictor:
    """Predicts what candidates take; each strategy is tried once, when it is first asked for.

    Args:
        job: What is to be planned for.
        config: The settings.
        limit: Bytes that nothing tried may pass, as far as that can be known before.
    """

    def __init__(self, job: Job, config: IncrementConfig, limit: int) -> None:
        self._job, self._config, self._limit = job, config, limit
        self._probes: dict[Strategy, _Probe] = {}

    def predict(self, candidate: Candidate) -> _Prediction | None:
        """The candidate's peak; None where it is too much beyond doubt, so that nothing was tried."""
        if candidate.strategy.keeps_freed_memory:
            return self._predict_kept(candidate)
        if not candidate.strategy.recompute and not self._surely_has_room():
            return None
        probe = self._probe(candidate.strategy)
        return _Prediction(self._peak(candidate, probe), probe.seconds_an_image)

    def smallest_limit(self) -> int:
        """The smallest limit that one of the strategies tried would do with."""
        peaks = [
            self._peak(Candidate(strategy, size, prefetch), probe)
            for strategy, probe in self._probes.items()
            for size, prefetch in _batchings(self._config)
        ]
        return int(_REPEATED * min(peaks))

    def _surely_has_room(self) -> bool:
        needed = _minimum_bytes(self._job) + self._job.activation_bytes
        return not self._job.trained_bytes or needed <= self._limit

    def _peak(self, candidate: Candidate, probe: _Probe) -> int:
        step = probe.peak_with(candidate.micro_batch_size)
        step += _overhead_bytes(self._job, self._config, candidate.prefetch)
        return int(_MARGIN * max(step, self._job.rss_bytes() + _writing_bytes(self._job)))

    def _predict_kept(self, candidate: Candidate) -> _Prediction | None:
        """How much freed memory stays unused follows no simple rule, so the micro-batch itself is tried."""
        if not self._surely_has_room():
            return None
        job, at_rest = self._job, self._job.rss_bytes()
        overhead = _overhead_bytes(job, self._config, candidate.prefetch)
        step = self._probe(Strategy()).peak_with(candidate.micro_batch_size)
        if at_rest + _KEPT_AT_MOST * (step - at_rest) + overhead > self._limit - job.held_bytes:
            return None
        peak, seconds = _try(job, candidate.micro_batch_size, candidate.strategy)
        reset_peak_rss()
        highest = max(_MARGIN_IF_KEPT * (peak + overhead), _MARGIN * (at_rest + _writing_bytes(job)))
        return _Prediction(int(highest), seconds)

    def _probe(self, strategy: Strategy) -> _Probe:
        """Tries one image, and several where the limit surely has room for them."""
        if strategy in self._probes:
            return self._probes[strategy]
        job = self._job
        _try(job, 1, strategy)  # the first one also loads libraries
        drop_library_pages()
        peak, seconds = _try(job, 1, strategy)
        an_image = job.activation_bytes
        if peak + _SEVERAL * an_image <= self._limit - job.held_bytes:
            peak_of_several, seconds_of_several = _try(job, _SEVERAL, strategy)
            seen = max(peak_of_several - peak, 0) // (_SEVERAL - 1)
            an_image = seen if strategy.recompute else max(an_image, seen)
            seconds = min(seconds, seconds_of_several)
        reset_peak_rss()  # what was tried is not what the increment takes
        self._probes[strategy] = _Probe(peak, an_image, seconds)
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
    all_photos = (job.photos + job.held_back) * job.photo_bytes
    cache = min(all_photos, int(_SHARE_FOR_CACHE * (limit - highest)))
    return PlanReport(
        micro_batch_size=candidate.micro_batch_size,
        micro_batches_an_update=-(-config.batch_size // candidate.micro_batch_size),
        prefetch=candidate.prefetch,
        recompute=candidate.strategy.recompute,
        keeps_freed_memory=candidate.strategy.keeps_freed_memory,
        checkpoints=checkpoints,
        pixel_cache_bytes=cache,
        limit_bytes=limit,
        limit_source=limit_source,
        predicted_peak_rss_bytes=highest + cache,
        smallest_limit_bytes=min(smallest_limit, limit),
        predicted_seconds=_seconds(job, config, prediction.seconds_an_image),
        disk_bytes=2 * job.generation_bytes + 4 * job.trained_bytes,
    )


def check_disk(folder: Path, plan: PlanReport) -> None:
    """Raises a ResourceError where the disk of a folder has less room than the plan needs."""
    free = shutil.disk_usage(folder).free
    if free < plan.disk_bytes:
        raise ResourceError(
            f"{folder} is on a disk with {free:,} bytes free, and the increment needs {plan.disk_bytes:,}; "
            "nothing was trained: free some space and try again"
        )


def _try(job: Job, images: int, strategy: Strategy) -> tuple[int, float]:
    """Peak memory of a step, without the photos in memory, and its seconds an image."""
    reset_peak_rss()
    started = time.monotonic()
    job.step(images, strategy)
    return peak_rss_bytes() - job.held_bytes, (time.monotonic() - started) / (2 * images)


def _overhead_bytes(job: Job, config: IncrementConfig, prefetch: int) -> int:
    """Beside a step: the batch at hand, those read ahead, the reading of a photo, and what was observed."""
    loading = (1 + prefetch) * config.batch_size * job.photo_bytes + job.decoding_bytes
    return loading + job.observed_bytes


def _minimum_bytes(job: Job) -> int:
    """What is surely needed: gradients and momentum, or what writing the result takes."""
    return job.rss_bytes() + max(2 * job.trained_bytes, _writing_bytes(job))


def _writing_bytes(job: Job) -> int:
    """Solving the head, following the drift, and the bundle's content twice more where it is written."""
    copies = 5 if job.trained_bytes else 3  # of all features
    return 2 * job.bundle_bytes + (6 * job.features + copies * job.photos) * job.features * _FLOAT64_BYTES


def _saving_bytes(job: Job) -> int:
    """What writing a checkpoint takes: the momentum of what trains, and both of them twice more."""
    return int(_MARGIN * (job.rss_bytes() + 5 * job.trained_bytes))


def _seconds(job: Job, config: IncrementConfig, seconds_an_image: float) -> float:
    passes = config.epochs + 2 * _FORWARD_SHARE if job.trained_bytes else 1.0
    return round(job.photos * passes * seconds_an_image, 1)


def _too_small(job: Job, limit: int, smallest: int, more: str = "") -> ResourceError:
    mib = 2**20
    message = (
        f"{limit // mib} MiB of memory are too few for this increment; nothing was trained: pass "
        f"--max-memory {smallest // mib + 1}MiB{more} if that much is available"
    )
    if job.trained_bytes:
        message += (
            ", leave more of the network as it is (--frozen-blocks), or take recipe lda, which trains nothing"
        )
    return ResourceError(message)
