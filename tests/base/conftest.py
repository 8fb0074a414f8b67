"""These tests use torch."""

from collections.abc import Iterator

import pytest

from lwm_edge.base import finish
from lwm_edge.model.network import Network
from lwm_edge.model.onnx.tracing import trace_graph
from lwm_edge.model.terms import Activation
from tests.support.autouse import (  # noqa: F401
    _count_only_where_counts_matter,
    _same_random_numbers,
)


@pytest.fixture(scope="package", autouse=True)
def _trace_networks_of_one_shape_once() -> Iterator[None]:
    """Traces networks of one shape only once, as tracing takes seconds and weights are not part of the graph.

    If the graph were wrong, the base's parity check would fail. model/onnx/test_graph.py tests that tracing
    twice gives the same graph.
    """
    traced = dict[str, bytes]()

    def trace_once(network: Network, activation: Activation) -> bytes:
        shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}
        shape = repr((network, shapes, network.classes, network.levels, network.preprocessing, activation))
        if shape not in traced:
            traced[shape] = trace_graph(network, activation)
        return traced[shape]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finish, "trace_graph", trace_once)
        yield
