"""Turns a trained network into the bundle that ships, whether it was trained here or elsewhere."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from .. import outputs
from ..errors import ArchitectureError, CapacityError, ConfigError
from ..learning.class_statistics import ClassStatistics
from ..learning.discriminant import Labels
from ..learning.reports import TrainingReport
from ..learning.running import Observation
from ..learning.unknown import score_tensors
from ..model.bundle import ONNX_GRAPH, PROBE, Arrays, Bundle, save_bundle, tensors_digest
from ..model.evaluation import EvaluationReport, evaluate_predictions
from ..model.loading import network_arrays
from ..model.manifest import BASE, Manifest
from ..model.network import Network, attention_cells, few_cells_warnings
from ..model.onnx.parity import PARITY_BATCH_SIZES, head_inputs_of_probe, parity_probe, verified_file
from ..model.onnx.reports import ParityReport
from ..model.onnx.tracing import trace_graph
from ..photos.photo_set import PhotoSet
from ..records import ProgressCallback, StepReporter, one_step
from .choose_levels import choose_levels, possible_levels
from .config import BundleConfig
from .copies import COPIES, in_other_light
from .measure import BY_HEART, HEADS, NEARLY_ALL, Settled, measured_tensors, settle
from .observing import learn_all, observe_all
from .ranks import Ranks
from .reports import BaseReport, StatisticsReport

PIXEL_CACHE_BYTES = 1024 * 1024 * 1024  # a base is made on a vendor's workstation
_LISTED = 10
_POOR = 0.5  # accuracy below which the vendor is warned
_WORSE = 0.05  # how far a solved head's accuracy may lie below the trained one's without a warning
_EXPORT_SECONDS, _SECONDS_PER_LAYER = 1.0, 0.04  # ResNet-18, with 52 layers, took 3.0 s on an AMD EPYC


@dataclass(frozen=True)
class Material:
    """Holds what a base is made of besides its network.

    Attributes:
        class_names: Names of the classes in class_index order.
        learnt: Photos that the network learnt from.
        unseen: Photos that it never saw; there may be none.
        for_statistics: Photos to make the statistics from, instead of those that it learnt from; there may be
            none.
        warnings: Warnings so far, such as those about files that were left out.
    """

    class_names: tuple[str, ...]
    learnt: PhotoSet
    unseen: PhotoSet
    for_statistics: PhotoSet
    warnings: tuple[str, ...] = ()


def check_capacity(classes: int, config: BundleConfig) -> None:
    """Refuses more classes than the bundle will have room for.

    Raises:
        CapacityError: There are more classes than the capacity allows.
    """
    if classes > config.capacity:
        raise CapacityError(f"{classes} classes do not fit a capacity of {config.capacity}")


def check_output(output: Path, *inputs: Path | None) -> None:
    """Refuses an output that cannot be written, or that would replace what the base is made from.

    Args:
        output: Path of the bundle.
        inputs: Paths of files that are read, and of folders whose class folders are read.

    Raises:
        ConfigError: The output is a file that is read, or lies in a class folder.
    """
    outputs.check_output(output)
    place = Path(os.path.realpath(output))  # unlike resolve(), it tolerates a link that leads to itself
    for path in (Path(os.path.realpath(path)) for path in inputs if path):
        if place == path or (place.is_relative_to(path) and place.parent != path):
            raise ConfigError(f"{output} would replace {path} or a photo in it; write the base elsewhere")


def finish_base(
    network: Network,
    material: Material,
    config: BundleConfig,
    output: Path,
    on_progress: ProgressCallback,
    *,
    ranks: Ranks,
    training: TrainingReport | None,
    started: float,
) -> BaseReport:
    """Measures a trained network, makes its statistics and writes its bundle.

    All processes look at the photos, but the first one alone decides and writes.

    Args:
        network: Network without levels, in eval mode.
        material: Photos and names of its classes.
        config: Settings of the bundle.
        output: Path of the bundle.
        on_progress: Function that is called at every step.
        ranks: Processes that make the base, each of which has the same network.
        training: Report on the training; None if there was none here.
        started: Time by the monotonic clock at which the work began.
    """
    candidates = possible_levels(network, config.grid)
    levels = choose_levels(network, material.learnt, candidates, ranks, on_progress)
    network.cpu()  # statistics and probe are computed in float32 on the CPU, wherever the network was trained
    seen = _look(network, material, config.capacity, ranks, on_progress, may_copy=training is None)

    def ship() -> BaseReport:
        settled, of_unseen = _decide(network, seen, material, on_progress)
        on_progress(one_step("commit", _seconds_of_export(network)))
        bundle, parity = _write(network, settled, material, config, output)
        cells = attention_cells(network)
        return BaseReport(
            bundle=output,
            architecture=config.architecture,
            class_names=material.class_names,
            capacity=config.capacity,
            bundle_bytes=bundle.manifest.bundle_bytes,
            training=training,
            levels=levels,
            learnt=seen.of_learnt,
            unseen=of_unseen,
            statistics=settled.report,
            parity=parity,
            attention_cells=cells,
            warnings=(
                *material.warnings,
                *_warnings(seen.of_learnt, of_unseen, settled.report, material.class_names),
                *few_cells_warnings(network, cells),
            ),
            model_digest=bundle.manifest.model_digest,
            seconds=time.monotonic() - started,
        )

    return ranks.by_first(ship)


def _seconds_of_export(network: Network) -> float:
    """Predicts how long torch's exporter takes, as it goes through the network layer by layer."""
    layers = sum(next(module.children(), None) is None for module in network.modules())
    return _EXPORT_SECONDS + _SECONDS_PER_LAYER * layers


class _Seen(NamedTuple):
    """Holds what a network made of its photos, each of which was looked at once.

    Attributes:
        of_learnt: Accuracy on the photos that the network learnt from.
        of_given: Statistics of the photos given for this purpose, by default those that it learnt from.
        are_copies: Whether the statistics are of varied copies of the photos that it learnt from.
        unseen: Observation of the photos that it never saw; None if there are none.
    """

    of_learnt: EvaluationReport
    of_given: ClassStatistics
    are_copies: bool
    unseen: Observation | None


def _look(
    network: Network,
    material: Material,
    capacity: int,
    ranks: Ranks,
    on_progress: ProgressCallback,
    *,
    may_copy: bool,
) -> _Seen:
    """Runs a network on the photos that it learnt from, those that it never saw, and those for statistics.

    Args:
        network: Network in eval mode.
        material: Photos and names of its classes.
        capacity: Maximum number of classes.
        ranks: Processes, each of which looks at a share of the photos.
        on_progress: Function that is called at every step.
        may_copy: Whether varied copies are new to the network; they may not be if it was trained here.
    """
    names, unseen = material.class_names, material.unseen
    learnt = learn_all(network, material.learnt, capacity, ranks, on_progress)
    by_unseen = observe_all(network, unseen, ranks, on_progress) if unseen.photos else None
    of_learnt = evaluate_predictions(learnt.predictions, learnt.labels, names, len(names))
    given, are_copies = learnt.statistics, False
    if material.for_statistics.photos:
        given = learn_all(network, material.for_statistics, capacity, ranks, on_progress).statistics
    elif may_copy and not unseen.photos and of_learnt.accuracy >= NEARLY_ALL:
        varied = in_other_light(material.learnt)
        copies = learn_all(network, varied, capacity, ranks, on_progress, epochs=range(COPIES))
        right = evaluate_predictions(copies.predictions, copies.labels, names, len(names))
        if of_learnt.accuracy - right.accuracy > BY_HEART:
            given, are_copies = copies.statistics, True
            given.counts /= COPIES  # copies show how photos vary, but are not additional photos
            given.photos /= COPIES
    return _Seen(of_learnt, given, are_copies, by_unseen)


def _decide(
    network: Network, seen: _Seen, material: Material, on_progress: ProgressCallback
) -> tuple[Settled, EvaluationReport | None]:
    """Decides what ships, puts the head in place, and measures it on the unseen photos."""
    names, labels = material.class_names, _labels(material.unseen)
    settled = settle(
        seen.of_given,
        seen.unseen,
        labels,
        seen.unseen.logits(network) if seen.unseen else None,
        seen.of_learnt.accuracy,
        len(names),
        StepReporter("evaluate", HEADS, on_progress),
        are_copies=seen.are_copies,
    )
    of_unseen = None
    if len(labels):
        of_unseen = evaluate_predictions(settled.predictions, labels, names, len(names))
    if settled.report.head == "solved":
        network.set_head(*(torch.from_numpy(rows) for rows in settled.statistics.solve_head(len(names))))
    return settled, of_unseen


def _labels(photos: PhotoSet) -> Labels:
    return np.array(photos.labels, dtype=np.int64)


def _warnings(
    learnt: EvaluationReport,
    unseen: EvaluationReport | None,
    choice: StatisticsReport,
    class_names: tuple[str, ...],
) -> list[str]:
    """Says what is wrong with a base, or what cannot be known about it.

    Args:
        learnt: Accuracy of the trained head on the photos that it learnt from.
        unseen: Accuracy of the head that ships on unseen photos; None if there are none.
        choice: Choice of statistics and head.
        class_names: Names of all classes.
    """
    trained = choice.accuracy.get("trained", learnt.accuracy)
    warnings = []
    if unseen is None:
        warnings.append(
            "no photos were given that the network never saw, so its accuracy is not known, and devices "
            "cannot estimate how much their models still know; pass them to pack with --unseen-photos, or "
            "let build-base hold some back"
        )
    elif missing := [name for name in class_names if name not in unseen.per_class]:
        warnings.append(
            f"there are no unseen photos of {', '.join(missing[:_LISTED])}"
            f"{f' and {len(missing) - _LISTED} more' if len(missing) > _LISTED else ''}, so the unseen ones "
            "decide nothing: the statistics are made from the given photos, and the trained head ships"
        )
    of_same = [learnt.per_class[name] for name in (unseen or learnt).per_class]
    if (known := sum(of_same) / len(of_same)) - trained > BY_HEART:
        warnings.append(
            f"the network recognises {known:.0%} of the photos that it learnt from, but only "
            f"{trained:.0%} of those it never saw: it has learnt its photos by heart. Train it on more "
            "photos, with more augmentation or for fewer epochs"
        )
    for report, which in ((unseen, "that the network never saw"), (learnt, "that it learnt from")):
        if report and report.accuracy < _POOR:
            warnings.append(
                f"the base recognises only {report.accuracy:.0%} of the photos {which}; what devices add to "
                "it can hardly be better, so check its training, its preprocessing and its labels"
            )
    solved = choice.accuracy.get(choice.photos, trained)
    if choice.head == "trained" and trained - solved > _WORSE:
        warnings.append(
            f"the trained head recognises {trained:.0%} of the photos that the network never saw, but the "
            f"head, once solved on a device, recognises only {solved:.0%}: expect that loss with the first "
            "class that is added"
        )
    return warnings


def _learnt_tensors(network: Network, settled: Settled, material: Material, config: BundleConfig) -> Arrays:
    """Returns the bundle's tensors that come from a network and its statistics.

    Raises:
        ArchitectureError: Some values are too large for float32.
    """
    with np.errstate(over="ignore"):  # what is too large for float32 is refused below
        arrays = {
            **network_arrays(network),
            **settled.statistics.to_arrays(),
            **measured_tensors(settled, _labels(material.unseen), config.capacity),
            **score_tensors(settled.statistics, len(material.class_names)),
        }
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise ArchitectureError(
            f"this {config.architecture} computes features that are too large for class statistics; scale "
            "its last layers down, or use another checkpoint"
        )
    return arrays


def _write(
    network: Network, settled: Settled, material: Material, config: BundleConfig, output: Path
) -> tuple[Bundle, ParityReport]:
    """Writes the bundle, with a probe and a checked ONNX graph."""
    photos = material.learnt
    arrays = {
        **_learnt_tensors(network, settled, material, config),
        PROBE: head_inputs_of_probe(network),
        ONNX_GRAPH: np.frombuffer(trace_graph(network, config.activation), dtype=np.uint8),
    }
    manifest = Manifest(
        architecture=config.architecture,
        preprocessing=network.preprocessing,
        activation=config.activation,
        levels=network.levels,
        class_names=material.class_names,
        shipped_classes=len(material.class_names),
        author=config.author,
        license=config.license,
        description=config.description,
        permits=config.permits,
        capacity=config.capacity,
        bundle_bytes=0,
        recipe=BASE,
        tensors_digest=tensors_digest(arrays),
    )
    examples = photos.load(range(min(max(PARITY_BATCH_SIZES), len(photos.photos))))
    _, parity = verified_file(arrays, manifest, parity_probe(network, examples))
    return save_bundle(output, arrays, manifest, outputs.write_output), parity
