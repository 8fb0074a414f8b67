"""Tries out a vendor's own network before it is trained, so that nobody trains what cannot be shipped."""

from __future__ import annotations

import numpy as np
import torch

from ..errors import ArchitectureError, ExportError
from ..model.architectures.registry import blamed_on
from ..model.loading import empty_network, load_tensors, network_arrays
from ..model.manifest import BASE, Manifest
from ..model.network import Network
from ..model.onnx.parity import head_inputs_of_probe, parity_probe, verified_file
from ..model.onnx.tracing import trace_graph
from ..model.tensors import ONNX_GRAPH, PROBE, empty_tensors, problems_of_tensors
from .choose_levels import possible_levels
from .config import BaseConfig, PackConfig


def rehearse(network: Network, config: BaseConfig | PackConfig) -> None:
    """Does with an untrained network what making, checking and loading a base will do with the trained one.

    Args:
        network: Network without classes, which stays as it is.
        config: Settings of the base.

    Raises:
        ArchitectureError: Some of it fails; the message says what to change in the network.
        ConfigError: The grid does not fit the network.
    """
    name = config.architecture
    with blamed_on(name, "it cannot be copied, or its blocks do not turn maps into maps"):
        trial = network.student(trains=False)
        trial.add_classes(1, torch.Generator().manual_seed(0))
        if candidates := possible_levels(trial, config.grid):
            trial.read_levels(candidates[-1])
        probe = head_inputs_of_probe(trial)
    with blamed_on(name, "its tensors cannot be written to a bundle"):
        tensors = network_arrays(trial)
    if problems := problems_of_tensors(tensors):
        raise ArchitectureError(
            f"architecture {name} has tensors that no bundle can hold; rename or convert them in the network",
            problems,
        )
    manifest = Manifest(
        architecture=name,
        preprocessing=trial.preprocessing,
        activation=config.activation,
        levels=trial.levels,
        class_names=("class",),
        shipped_classes=1,
        capacity=config.capacity,
        bundle_bytes=0,
        recipe=BASE,
        tensors_digest="0" * 64,
    )
    try:
        arrays = {
            **empty_tensors(config.capacity, trial.head.in_features),
            **tensors,
            PROBE: probe,
            ONNX_GRAPH: np.frombuffer(trace_graph(trial, config.activation), dtype=np.uint8),
        }
        verified_file(arrays, manifest, parity_probe(trial))
    except ExportError as error:
        raise ArchitectureError(
            f"architecture {name} cannot be exported in the form that devices run; replace the layers that "
            "need other operations, or that treat the images of a batch differently",
            error.problems or [error.message],
        ) from error
    load_tensors(empty_network(manifest), {name: torch.from_numpy(array) for name, array in tensors.items()})
