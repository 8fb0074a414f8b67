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


def test_the_levels_that_tell_the_classes_apart_best_are_chosen() -> None:
    network = _without_levels()
    report = choose_levels(network, photo_set("base", count=40), possible_levels(network, None))
    ends, more = (5, 8), (3, 5, 7, 8, 10)  # of three residual blocks of each map size, after a stem of three
    assert [(trial.levels.blocks, trial.levels.grid) for trial in report.tried] == [
        *((ends, 1), (more, 1), (ends, 2), (ends, 3), (more, 2), (more, 3))
    ]
    assert all(0.5 < trial.accuracy <= 1 for trial in report.tried)
    best = max(report.tried, key=lambda trial: trial.accuracy)
    assert network.levels == report.levels == best.levels
    assert report.inputs == network.head.in_features == 64 + network.levels.values


def test_levels_that_were_chosen_are_not_questioned() -> None:
    network = _without_levels()
    report = choose_levels(network, photo_set("base"), possible_levels(network, 2))
    assert report.tried == () and report.levels == network.levels == find_levels(_without_levels(), 2)
    network = _without_levels()
    report = choose_levels(network, photo_set("base"), possible_levels(network, 0))
    assert (report.levels, report.inputs, network.levels) == (None, 64, None)


def test_a_grid_that_is_too_fine_is_refused() -> None:
    with pytest.raises(ConfigError, match="grid 8 does not fit this network"):
        possible_levels(fresh_network("resnet18"), 8)
    with pytest.raises(ConfigError, match="more than 8192 values"):
        possible_levels(fresh_network("resnet50"), 8)


def test_levels_with_too_many_values_are_not_tried() -> None:
    found = [(len(levels.blocks), levels.grid) for levels in possible_levels(fresh_network("resnet18"), None)]
    assert found == [(4, 1), (9, 1)]
    assert possible_levels(fresh_network("resnet50"), None) == []
    [levels] = possible_levels(fresh_network("resnet18"), 2)
    assert levels.values + 512 > MAX_INPUTS
