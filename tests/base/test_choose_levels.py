from __future__ import annotations

import pytest

from lwm_edge.base.choose_levels import (
    MAX_INPUTS,
    choose_levels,
    find_levels,
    possible_levels,
)
from lwm_edge.demo import BASE_BUNDLE
from lwm_edge.errors import ConfigError
from lwm_edge.model.bundle import open_bundle
from lwm_edge.model.loading import load_network
from lwm_edge.model.network import Network
from tests.support.networks import fresh_network
from tests.support.samples import photo_set


def _without_levels() -> Network:
    network = load_network(open_bundle(BASE_BUNDLE))
    values = network.level_values
    network.head.weight, network.levels = type(network.head.weight)(network.head.weight[:, values:]), None
    network.head.in_features -= values
    return network


def test_the_grid_that_tells_the_classes_apart_best_is_chosen() -> None:
    network = _without_levels()
    report = choose_levels(network, photo_set("base", count=40), possible_levels(network, None))
    assert set(report.accuracy) == {1, 2, 3} and all(0.5 < a <= 1 for a in report.accuracy.values())
    assert report.accuracy[report.grid] == max(report.accuracy.values())
    assert network.levels is not None and network.levels.grid == report.grid
    assert report.inputs == network.head.in_features == 64 + network.levels.values


def test_a_grid_that_was_chosen_is_not_questioned() -> None:
    network = _without_levels()
    report = choose_levels(network, photo_set("base"), possible_levels(network, 2))
    assert (report.grid, report.accuracy) == (2, {})
    assert network.levels == find_levels(_without_levels(), 2)
    network = _without_levels()
    report = choose_levels(network, photo_set("base"), possible_levels(network, 0))
    assert (report.grid, report.inputs, network.levels) == (0, 64, None)


def test_a_grid_that_is_too_fine_is_refused() -> None:
    with pytest.raises(ConfigError, match="grid 8 does not fit this network"):
        possible_levels(fresh_network("resnet18"), 8)
    with pytest.raises(ConfigError, match="more than 8192 values"):
        possible_levels(fresh_network("resnet50"), 8)


def test_levels_with_too_many_values_are_not_tried() -> None:
    assert [levels.grid for levels in possible_levels(fresh_network("resnet18"), None)] == [1]
    assert possible_levels(fresh_network("resnet50"), None) == []
    [levels] = possible_levels(fresh_network("resnet18"), 2)
    assert levels.values + 512 > MAX_INPUTS
