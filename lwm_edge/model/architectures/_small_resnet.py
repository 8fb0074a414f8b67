"""Defines the residual network of He et al. 2016, section 4.2, for small images (ResNet-20, -32, ...).

Unlike the original, it has 1x1 convolutions as shortcuts between stages. Its total stride is 4, so feature
maps have 7x7 cells at 28 px and 8x8 at 32 px. At these sizes, torchvision's ResNets end in a single cell, so
their attention maps say nothing.
"""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from ._torchvision import models

_STAGE_CHANNELS = (16, 32, 64)


class SmallResNet(nn.Module):
    """Stacks a stem, three stages of residual blocks, global average pooling and one linear layer.

    Args:
        blocks_per_stage: Number of blocks per stage; 3 makes ResNet-20, 5 makes ResNet-32.
        classes: Number of outputs of the linear layer.
    """

    def __init__(self, blocks_per_stage: int, classes: int = 10) -> None:
        super().__init__()
        first, second, third = _STAGE_CHANNELS
        self.stem = nn.Sequential(
            nn.Conv2d(3, first, 3, padding=1, bias=False), nn.BatchNorm2d(first), nn.ReLU(inplace=True)
        )
        self.stage1 = _stage(first, first, blocks_per_stage)
        self.stage2 = _stage(first, second, blocks_per_stage)
        self.stage3 = _stage(second, third, blocks_per_stage)
        self.fc = nn.Linear(third, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Computes logits [B, classes] float32 from images [B, 3, H, W] float32."""
        features = self.stage3(self.stage2(self.stage1(self.stem(images))))
        return cast(Tensor, self.fc(features.mean((2, 3))))


def _stage(inputs: int, outputs: int, blocks: int) -> nn.Sequential:
    block = models.resnet.BasicBlock
    stride = outputs // inputs
    shortcut = None
    if stride > 1:
        shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
    first = block(inputs, outputs, stride, shortcut)
    return nn.Sequential(first, *(block(outputs, outputs) for _ in range(blocks - 1)))
