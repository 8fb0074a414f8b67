from __future__ import annotations

import numpy as np
import pytest
from torch import nn

from lwm_edge.base.choose_levels import (
    GRIDS,
    MAX_INPUTS,
    choose_levels,
    coarsest_good,
    find_levels,
    map_shapes,
    possible_levels,
)
from lwm_edge.demo import BASE_BUNDLE
from lwm_edge.errors import ConfigError
from lwm_edge.model.bundle import open_bundle
from lwm_edge.model.loading import load_network
from lwm_edge.model.network import Network
from tests.support.networks import PREPROCESSING, fresh_network
from tests.support.samples import photo_set


def _without_levels() -> Network:
    network = load_network(open_bundle(BASE_BUNDLE))
    values = network.level_values
    network.head.weight, network.levels = type(network.head.weight)(network.head.weight[:, values:]), None
    network.head.in_features -= values
    return network


def test_a_finer_grid_must_be_clearly_better() -> None:
    coarse, fine = np.arange(100) >= 10, np.arange(100) >= 9  # one photo more
    assert coarsest_good([coarse, fine]) == 0
    assert coarsest_good([coarse, np.arange(100) >= 5]) == 1  # five more, and no photo less
    traded = (np.arange(100) >= 5) & (np.arange(100) < 98)  # five more, two less
    assert coarsest_good([coarse, traded]) == 1
    assert coarsest_good([coarse, traded & (np.arange(100) < 97)]) == 0  # five more, three less
    assert coarsest_good([coarse, fine, fine]) == 0 and coarsest_good([fine, coarse]) == 0


def test_the_coarsest_grid_that_is_not_clearly_worse_is_chosen() -> None:
    network = _without_levels()
    report = choose_levels(network, photo_set("base", count=40), possible_levels(network, None))
    blocks = (
        3,
        5,
        7,
        8,
        10,
    )  # middle and last of three residual blocks of each map size, after a stem of three
    assert [(trial.levels.blocks, trial.levels.grid) for trial in report.tried] == [
        (blocks, g) for g in GRIDS
    ]
    assert all(0.5 < trial.accuracy <= 1 for trial in report.tried)
    best = max(report.tried, key=lambda trial: trial.accuracy)
    assert network.levels == report.levels and report.levels in [trial.levels for trial in report.tried]
    (chosen,) = [trial for trial in report.tried if trial.levels == report.levels]
    assert best.accuracy - chosen.accuracy < 0.05  # what is worse than the best is not clearly worse
    assert report.levels and report.inputs == network.head.in_features == 64 + report.levels.values


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
    found = [(levels.blocks, levels.grid) for levels in possible_levels(fresh_network("resnet18"), None)]
    assert found == [((2, 5, 7, 9), 1)]  # the middle blocks too are read only in networks with few channels
    assert possible_levels(fresh_network("resnet50"), None) == []
    [levels] = possible_levels(fresh_network("resnet18"), 2)
    assert levels.values + 512 > MAX_INPUTS


def _network(*blocks: nn.Module, channels: int) -> Network:
    return Network(nn.Sequential(*blocks), nn.Linear(channels, 5), 0, PREPROCESSING).eval()


def _down() -> nn.Module:
    return nn.Conv2d(3, 3, 2, 2)


def test_values_of_the_final_map_size_come_last_even_if_maps_had_it_before() -> None:
    small = (_down(), _down(), nn.ReLU(), nn.ReLU(), nn.ReLU())
    network = _network(*small, nn.Upsample(scale_factor=2), _down(), channels=3)
    assert [shape[1] for shape in map_shapes(network)] == [32, 16, 16, 16, 16, 32, 16]
    more = find_levels(network, 1, more_blocks=True)
    assert more is not None and more.blocks == (0, 5)
    network = _network(*small, nn.Upsample(scale_factor=2), _down(), nn.ReLU(), channels=3)
    more = find_levels(network, 1, more_blocks=True)
    assert more is not None and more.blocks == (0, 5, 6)


def test_more_blocks_than_a_manifest_can_name_are_not_tried() -> None:
    pairs = [(nn.Conv2d(3, 3, 2), nn.ReLU()) for _ in range(40)]
    network = _network(*[block for pair in pairs for block in pair], channels=3)
    assert {len(levels.blocks) for levels in possible_levels(network, None)} == {39}
