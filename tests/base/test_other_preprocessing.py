"""A classifier that was trained with another preprocessing is refused, and the right one is named."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from lwm_edge.base.other_preprocessing import check_preprocessing
from lwm_edge.errors import ConfigError
from lwm_edge.learning.discriminant import Labels
from lwm_edge.model.network import Network
from lwm_edge.photos.photo_set import Photo, PhotoSet, PixelCache
from lwm_edge.photos.preprocessing import Preprocessing
from lwm_edge.records import Progress

GIVEN = Preprocessing(image_size=16, resize_size=16, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
COLOURS = tuple((red, 80, 70) for red in (60, 90, 120, 150, 180))


class _Nearest(nn.Module):
    """Computes how near a picture's mean colour is to that of each class, in a network's own units."""

    def __init__(self, centres: Tensor) -> None:
        super().__init__()
        self.centres = nn.Parameter(centres)

    def forward(self, images: Tensor) -> Tensor:
        means = images.mean((2, 3))
        distances = ((means[:, None] - self.centres) ** 2).sum(2)
        return -distances[:, :, None, None].expand(-1, -1, 1, 1)


class _Large(nn.Module):
    """Makes values so large that they overflow if the images are much larger than usual."""

    def forward(self, maps: Tensor) -> Tensor:
        return maps * 1e36


def network_for(mean: tuple[float, ...], std: tuple[float, ...], is_bgr: bool, rows: list[int]) -> Network:
    """Makes a network that expects its inputs to be prepared in a certain way."""
    colours = torch.tensor(COLOURS) / 255
    centres = (colours - torch.tensor(mean)) / torch.tensor(std)
    centres = centres.flip(1) if is_bgr else centres
    head = nn.Linear(len(COLOURS), len(COLOURS))
    network = Network(nn.Sequential(_Nearest(centres)), head, len(COLOURS), GIVEN).eval()
    network.set_head(torch.eye(len(COLOURS))[rows], torch.zeros(len(COLOURS)))
    return network


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> PhotoSet:
    folder, generator = tmp_path_factory.mktemp("colours"), np.random.default_rng(0)
    found = []
    for label, colour in enumerate(COLOURS):
        for number in range(12):
            pixels = np.clip(generator.normal(colour, 8, (16, 16, 3)), 0, 255).astype(np.uint8)
            path: Path = folder / f"{label}-{number}.png"
            Image.fromarray(pixels).save(path)
            found.append(Photo(path, label, "0" * 64))
    return PhotoSet(found, GIVEN, PixelCache(1 << 20))


def check(network: Network, photos: PhotoSet) -> None:
    values = network.run(photos.load(range(len(photos.photos))), keep_maps=False)[0]
    weight, bias = (tensor.detach().numpy() for tensor in network.head_tensors())
    predictions: Labels = (values @ weight.T + bias).argmax(1)
    steps = list[Progress]()
    try:
        check_preprocessing(network, photos, predictions, np.array(photos.labels), steps.append)
    finally:
        assert not steps or (len(steps), steps[-1].done + 1) == (steps[-1].total, steps[-1].total)
    assert network.preprocessing == GIVEN


@pytest.mark.parametrize("rows", [[0, 1, 2, 3, 4], [1, 0, 4, 2, 3]])
@pytest.mark.parametrize(
    ("mean", "std", "is_bgr", "said"),
    [
        ((0.0,) * 3, (1.0,) * 3, False, "--mean 0 0 0 --std 1 1 1"),
        ((0.0,) * 3, (1 / 255,) * 3, False, "--mean 0 0 0 --std 0.00392157 0.00392157 0.00392157"),
        (GIVEN.mean, GIVEN.std, True, "if their colours are in the order blue, green, red"),
    ],
)
def test_another_preprocessing_that_fits_is_named_whatever_the_order_of_the_classes(
    mean: tuple[float, ...],
    std: tuple[float, ...],
    is_bgr: bool,
    said: str,
    rows: list[int],
    photos: PhotoSet,
) -> None:
    with pytest.raises(ConfigError) as refused:
        check(network_for(mean, std, is_bgr, rows), photos)
    assert said in refused.value.message and "100% if" in refused.value.message


@pytest.mark.parametrize("rows", [[0, 1, 2, 3, 4], [1, 0, 4, 2, 3], [0, 0, 0, 0, 0]])
def test_the_right_preprocessing_is_accepted_whatever_the_order_and_accuracy(
    rows: list[int], photos: PhotoSet
) -> None:
    check(network_for(GIVEN.mean, GIVEN.std, False, rows), photos)


def test_an_order_that_fits_few_classes_by_chance_is_no_sign_of_another_preprocessing(
    photos: PhotoSet,
) -> None:
    few = replace(photos, photos=[photo for photo in photos.photos if photo.label < 3] * 3)
    network = network_for((0.0,) * 3, (1.0,) * 3, False, [1, 2, 0])  # right in the order 1, 2, 0
    network = Network(network.backbone, nn.Linear(len(COLOURS), 3), 3, GIVEN).eval()
    network.set_head(torch.eye(len(COLOURS))[[1, 2, 0]], torch.zeros(3))
    check(network, few)


def test_a_network_that_pixels_up_to_255_overflow_is_accepted(photos: PhotoSet) -> None:
    network = network_for(GIVEN.mean, GIVEN.std, False, [0, 0, 0, 0, 0])
    network.backbone = nn.Sequential(network.backbone, _Large())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check(network, photos)
