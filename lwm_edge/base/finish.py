"""Turns a trained network into the bundle that ships, whether it was trained here or elsewhere."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from .. import outputs
from ..errors import ArchitectureError
from ..learning.reports import TrainingReport
from ..learning.unknown import score_tensors
from ..model.bundle import Bundle, save_bundle, tensors_digest
from ..model.loading import network_arrays
from ..model.manifest import BASE, Manifest
from ..model.network import Network, attention_cells, few_cells_warnings
from ..model.onnx.parity import PARITY_BATCH_SIZES, head_inputs_of_probe, parity_probe, verified_file
from ..model.onnx.reports import ParityReport
from ..model.onnx.tracing import trace_graph
from ..model.tensors import ONNX_GRAPH, PROBE, Arrays
from ..records import ProgressCallback, one_step
from .choose_levels import choose_levels, possible_levels
from .config import BundleConfig
from .examine import decide, examine, vendor_warnings
from .material import Material
from .measure import Settled, measured_tensors
from .ranks import Ranks
from .reports import BaseReport

_EXPORT_SECONDS, _SECONDS_PER_LAYER = 1.0, 0.04  # ResNet-18, with 52 leaf modules, took 3.0 s on an AMD EPYC


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
    """Chooses a trained network's levels, statistics and head, measures it and writes its bundle.

    All processes run the network on the photos, but only the first one decides and writes.

    Args:
        network: Network without levels, in eval mode.
        material: Photos and class names.
        config: Settings of the bundle.
        output: Path of the bundle.
        on_progress: Function that is called at every step.
        ranks: Processes that make the base, all of which have the same network.
        training: Report on the training; None if the network was trained elsewhere.
        started: Time on the monotonic clock when the work began.
    """
    candidates = possible_levels(network, config.grid)
    levels = choose_levels(network, material.learnt, candidates, ranks, on_progress)
    network.cpu()  # statistics and probe are computed in float32 on the CPU, wherever the network was trained
    examined = examine(network, material, config.capacity, ranks, on_progress, may_copy=training is None)

    def ship() -> BaseReport:
        """Decides what ships, writes the bundle and returns the report."""
        settled, of_unseen = decide(network, examined, material, on_progress)
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
            learnt=examined.of_learnt,
            unseen=of_unseen,
            statistics=settled.report,
            parity=parity,
            attention_cells=cells,
            warnings=(
                *material.warnings,
                *vendor_warnings(examined.of_learnt, of_unseen, settled.report, material.class_names),
                *few_cells_warnings(network, cells),
            ),
            model_digest=bundle.manifest.model_digest,
            seconds=time.monotonic() - started,
        )

    return ranks.by_first(ship)


def _seconds_of_export(network: Network) -> float:
    """Predicts the seconds that torch's exporter takes; it goes through the network layer by layer."""
    layers = sum(next(module.children(), None) is None for module in network.modules())
    return _EXPORT_SECONDS + _SECONDS_PER_LAYER * layers


def _learnt_tensors(network: Network, settled: Settled, material: Material, config: BundleConfig) -> Arrays:
    """Returns those tensors of the bundle that come from a network and its statistics.

    Raises:
        ArchitectureError: Some values are too large for float32.
    """
    with np.errstate(over="ignore"):  # values that are too large for float32 are refused below
        arrays = {
            **network_arrays(network),
            **settled.statistics.to_arrays(),
            **measured_tensors(settled, material.unseen_labels, config.capacity),
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
    """Writes the bundle, with its parity probe and its ONNX graph, which is checked first."""
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
