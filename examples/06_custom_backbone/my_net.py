"""Defines a custom backbone, for `build-base --arch my_net`.

The classifier has to end in feature maps, global average pooling and one linear layer. `build-base` finds it
through the entry point in pyproject.toml beside this file:

    pip install ./examples/06_custom_backbone
    lwm-edge build-base PHOTOS --arch my_net -o my_base.lwm
"""

from __future__ import annotations

import torch
from torch import nn

import lwm_edge


class MyNet(nn.Module):
    """Stacks three strided convolutions, which give maps of 4x4 cells at 32 px."""

    def __init__(self) -> None:
        super().__init__()
        self.first = self._block(3, 24)
        self.second = self._block(24, 48)
        self.third = self._block(48, 96)
        self.classify = nn.Linear(96, 10)  # its size does not matter: each base gets a layer for its classes

    @staticmethod
    def _block(inputs: int, outputs: int) -> nn.Sequential:
        convolution = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False)
        return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Computes logits [B, 10] from images [B, 3, H, W]."""
        maps = self.third(self.second(self.first(images)))
        logits: torch.Tensor = self.classify(maps.mean((2, 3)))
        return logits


ARCHITECTURE = lwm_edge.Architecture(
    build=MyNet,
    features=("first", "second", "third"),
    head="classify",
    preprocessing=lwm_edge.Preprocessing(image_size=32, resize_size=32, mean=(0.5,) * 3, std=(0.25,) * 3),
)
