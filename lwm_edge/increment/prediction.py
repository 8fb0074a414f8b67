"""Predicts the memory and time of an increment from a few trial steps."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

from ..errors import ResourceError
from ..freed_memory import drop_library_pages
from ..learning.config import IncrementConfig
from ..memory import peak_rss_bytes, reset_peak_rss
from .job import PROBED_IMAGES, Candidate, Job, Strategy, batchings

# benchmarks/memory.py tests these margins, on ResNet-18 and MobileNetV2 at 224 px: the predictions in its
# table lie 2% to 17% above the actual peaks.
MARGIN = 1.05  # factor for memory that the allocator and the libraries' buffers add from step to step
_MARGIN_KEEPING_MEMORY = 1.15  # the same factor, if freed memory is kept
# Times the memory of a step, if freed memory is kept. This was chosen, a little above 2.6, the highest seen.
_MAX_KEPT_FACTOR = 2.75
_REPLANNING_MARGIN = 1.02  # factor for a limit that an error names, as the next plan may need a little more

# The next two were chosen; benchmarks/speed_instant.py compares such predictions with the actual peaks.
_LIBRARY_BYTES = 10 * 2**20  # pages of NumPy and ONNX that are first read to export and write a model
# Library pages that are first read when photos are decoded, the model runs and the head is solved, plus what
# ONNX Runtime keeps of a freed model. All library pages are given back before the new model is exported.
_LIBRARY_BYTES_WHEN_SOLVING = 20 * 2**20

USUAL_STEPS = 3  # trial steps: one that loads libraries, one with one image, and one with several

# This was chosen, not measured.
_FORWARD_SHARE = 1 / 3  # share of a training step's time that its forward pass takes
_FLOAT64_BYTES = 8


class _Probe(NamedTuple):
    """Holds the results of trial steps: peak with one image, bytes per further image, seconds per image."""

    peak_bytes: int
    bytes_per_image: int
    seconds_per_image: float

    def peak_with(self, images: int) -> int:
        """Extrapolates the peak memory of a step to this number of images at once."""
        return self.peak_bytes + (images - 1) * self.bytes_per_image


class Prediction(NamedTuple):
    """Predicts the memory and time of an increment that is done in the way a candidate describes.

    Attributes:
        peak_bytes: Peak memory, if photos are read again.
        peak_without_reading_bytes: Peak memory, if all photos stay in memory, so that none is read again.
        seconds_per_image: Seconds per image.
    """

    peak_bytes: int
    peak_without_reading_bytes: int
    seconds_per_image: float


class Predictor:
    """Predicts the memory and time that candidates take.

    A strategy that keeps freed memory is tried anew for each candidate; any other is tried once, when it is
    first needed.

    Args:
        job: Increment that is planned.
        config: Settings of the increment.
        limit: Bytes that the increment may take; `predict` says what is not tried because of it.
    """

    def __init__(self, job: Job, config: IncrementConfig, limit: int) -> None:
        self._job, self._config, self._limit = job, config, limit
        self._probes: dict[Strategy, _Probe] = {}
        self._rss_before_trials = job.rss_bytes()

    def first_that_fits(self, listed: Iterator[Candidate], limit: int) -> tuple[Candidate, Prediction] | None:
        """Returns the first candidate whose predicted peak stays within the limit, with its prediction."""
        for candidate in listed:
            prediction = self.predict(candidate)
            if prediction and prediction.peak_bytes <= limit:
                return candidate, prediction
        return None

    def predict(self, candidate: Candidate) -> Prediction | None:
        """Predicts what a candidate takes; returns None if it is not tried.

        A candidate that keeps freed memory is tried only if it is certain to stay within the limit. One
        that recomputes is always tried. Any other is tried unless it is certain to exceed the limit.
        If a GPU has no memory for a candidate that keeps freed memory, the result is None as well.

        Raises:
            ResourceError: A GPU has too little memory for a step with one image.
        """
        if candidate.strategy.keeps_freed_memory:
            return self._predict_keeping_memory(candidate)
        if not candidate.strategy.recompute and not self._may_fit(candidate.strategy):
            return None
        probe = self._probe(candidate.strategy)
        peak, without_reading = (
            self._peak(candidate, probe, decoding) for decoding in (self._job.decoding_bytes, 0)
        )
        return Prediction(peak, without_reading, probe.seconds_per_image)

    def smallest_limit(self) -> int:
        """Returns the smallest limit that would be enough for one of the strategies that were tried.

        It leaves room for reading a photo. With such a limit, some photos may have to be read again; even if
        none has to be, each must be read once.
        """
        decoding = max(self._job.decoding_bytes, self._job.separate_decoding_bytes)
        peaks = [
            self._peak(Candidate(strategy, size, prefetch), probe, decoding)
            for strategy, probe in self._probes.items()
            for size, prefetch in batchings(self._job, self._config)
        ]
        return int(_REPLANNING_MARGIN * min(peaks))

    def _may_fit(self, strategy: Strategy) -> bool:
        needed = minimum_bytes(self._job) + in_precision(self._job.activation_bytes, strategy)
        return not self._job.trained_bytes or needed <= self._limit

    def _peak(self, candidate: Candidate, probe: _Probe, decoding_bytes: int) -> int:
        step = probe.peak_with(candidate.micro_batch_size) + decoding_bytes
        step += _overhead_bytes(self._job, self._config, candidate.prefetch)
        # What trials use in ONNX Runtime is freed before the model is written; what torch loads stays.
        idle_rss = self._rss_before_trials if self._job.loaded else self._job.rss_bytes()
        return int(MARGIN * max(step, idle_rss + _writing_bytes(self._job)))

    def _predict_keeping_memory(self, candidate: Candidate) -> Prediction | None:
        """Tries the micro-batch itself, as no simple rule says how much freed memory stays unused."""
        if not self._may_fit(candidate.strategy):
            return None
        job, idle_rss = self._job, self._job.rss_bytes()
        overhead = _overhead_bytes(job, self._config, candidate.prefetch) + job.decoding_bytes
        step = self._probe(Strategy(precision=candidate.strategy.precision)).peak_with(
            candidate.micro_batch_size
        )
        if idle_rss + _MAX_KEPT_FACTOR * (step - idle_rss) + overhead > self._limit - job.held_bytes:
            return None
        try:
            peak, seconds = _measure_step(job, candidate.micro_batch_size, candidate.strategy)
        except ResourceError:  # a GPU has no memory for so many images
            return None
        reset_peak_rss()
        writing = int(MARGIN * (idle_rss + _writing_bytes(job)))
        training = int(_MARGIN_KEEPING_MEMORY * (peak + overhead))
        reading = int(_MARGIN_KEEPING_MEMORY * job.decoding_bytes)
        return Prediction(max(training, writing), max(training - reading, writing), seconds)

    def _probe(self, strategy: Strategy) -> _Probe:
        """Tries one image, and then several if they are certain to fit the limit."""
        if strategy in self._probes:
            return self._probes[strategy]
        job = self._job
        if job.loaded is None:  # otherwise, the model has already run
            _measure_step(job, 1, strategy)  # this first step also loads libraries
            drop_library_pages()
        peak, seconds = _measure_step(job, 1, strategy)
        image_bytes = in_precision(job.activation_bytes, strategy)
        if peak + PROBED_IMAGES * image_bytes <= self._limit - job.held_bytes:
            with suppress(ResourceError):  # a GPU may have no memory for several
                peak_of_several, seconds_of_several = _measure_step(job, PROBED_IMAGES, strategy)
                seen = max(peak_of_several - peak, 0) // (PROBED_IMAGES - 1)
                image_bytes = seen if strategy.recompute else max(image_bytes, seen)
                seconds = min(seconds, seconds_of_several)
        reset_peak_rss()  # the trial's peak must not count as the increment's
        self._probes[strategy] = _Probe(peak, image_bytes, seconds)
        return self._probes[strategy]


def _measure_step(job: Job, images: int, strategy: Strategy) -> tuple[int, float]:
    """Measures a step: its peak memory, less the photos in memory, and its seconds per image.

    A step has two micro-batches of `images` each.

    Raises:
        ResourceError: A GPU has too little memory for the step.
    """
    job.before_step()
    reset_peak_rss()
    started = time.monotonic()
    job.step(images, strategy)
    return peak_rss_bytes() - job.held_bytes, (time.monotonic() - started) / (2 * images)


def _overhead_bytes(job: Job, config: IncrementConfig, prefetch: int) -> int:
    """Returns the bytes that batches and observations take, besides those for a step and reading a photo."""
    return (1 + prefetch) * config.batch_size * job.photo_bytes + job.observed_bytes


def in_precision(float32_bytes: int, strategy: Strategy) -> int:
    """Returns the bytes that blocks' outputs take in the strategy's precision."""
    return float32_bytes // 2 if strategy.precision == "bfloat16" else float32_bytes


def minimum_bytes(job: Job) -> int:
    """Returns the fewest bytes needed: for gradients and momentum, or for writing the result."""
    return job.rss_bytes() + max(2 * job.trained_bytes, _writing_bytes(job))


def _writing_bytes(job: Job) -> int:
    """Returns the bytes needed once the networks have run, to solve the head and write the model."""
    if job.loaded is None:  # after training, `follow_drift` needs more arrays than solving does
        numbers = (6 * job.features + 5 * job.photos) * job.features
        if job.compares:  # another model is solved, and both are kept until one is chosen
            numbers += (4 * job.features + 2 * (job.photos + job.held_back)) * job.features
        return 2 * job.bundle_bytes + numbers * _FLOAT64_BYTES
    numbers = (3 * job.features + 4 * (job.photos + job.held_back)) * job.features
    solving = numbers * _FLOAT64_BYTES + _LIBRARY_BYTES_WHEN_SOLVING
    exporting = job.bundle_bytes + job.loaded.peak_bytes + _LIBRARY_BYTES
    # the tensors, their bytes and the file each take a bundle's length; the ONNX file, at most half of that
    writing = 3 * job.bundle_bytes + job.bundle_bytes // 2 + _LIBRARY_BYTES
    return max(solving, exporting, writing) - job.loaded.held_bytes


def saving_bytes(job: Job, strategy: Strategy) -> int:
    """Returns the bytes needed to write a checkpoint: momentum, and two copies of parameters and momentum.

    If the student's kernels have their channels last, there is a third copy of parameters and momentum in the
    usual layout, and a copy of the teacher's kernels.
    """
    third = 2 * job.trained_bytes + job.bundle_bytes if strategy.keeps_freed_memory else 0
    return int(MARGIN * (job.rss_bytes() + 5 * job.trained_bytes + third))


def seconds_needed(job: Job, config: IncrementConfig, seconds_per_image: float) -> float:
    """Predicts the seconds from the command's start to its end."""
    if job.trained_bytes:
        images = job.photos * (config.epochs + 2 * _FORWARD_SHARE) + 2 * _FORWARD_SHARE * job.held_back
    else:
        images = job.photos + job.held_back
    return round(job.elapsed_seconds + images * seconds_per_image + job.ending_seconds, 1)
