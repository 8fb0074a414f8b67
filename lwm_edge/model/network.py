"""Defines the classifier as a torch network: backbone, average pooling, and a head at full capacity.

The head reads the last feature maps, globally averaged, as in Dhar et al. 2019. It can read earlier blocks as
well (`Levels`): their outputs are less tied to the classes that the backbone was trained on, which helps to
tell new classes apart (Evci et al. 2022, "Head2Toe"). Only the closed form of `learning.class_statistics`
gives these inputs weight; training affects only the part of the head that reads the last maps.
"""

from __future__ import annotations

from copy import deepcopy
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import ArchitectureError, ConfigError
from ..photos.pixels import Pixels
from ..photos.preprocessing import Preprocessing
from ..wording import counted
from .levels import Activations, grid_means
from .manifest import Levels
from .precision import autocast
from .recomputation import recomputed
from .terms import Precision

_FEW_CELLS = 16


class Network(nn.Module):
    """Classifies images, with room for more classes.

    The head's tensors have room for all classes from the start, so neither the file nor the memory grows when
    a class is added; rows from `classes` on are zero and not used.

    Args:
        backbone: Module that turns images [B, 3, H, W] float32 into feature maps [B, d, h, w] float32.
        head: Linear layer with `capacity` outputs; its inputs are the values of the levels, then d averaged
            maps.
        classes: Number of the head's rows that are in use.
        preprocessing: Preprocessing whose mean and std normalise the images.
        levels: Earlier blocks that the head reads besides the last feature maps.

    Attributes:
        frozen_blocks: Number of blocks at the start that teacher and student share; `stem` runs them.
        mapped: Tensors that are mapped from a file; nothing may write to them.
        recompute: Whether the activations of each trained block are computed again in the backward pass, to
            save memory.
        precision: Precision in which the blocks compute; everything after them is float32 in any case. See
            `precision.computing_in`.
    """

    def __init__(
        self,
        backbone: nn.Module,
        head: nn.Linear,
        classes: int,
        preprocessing: Preprocessing,
        levels: Levels | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.classes = classes
        self.preprocessing = preprocessing
        self.levels = levels
        self.frozen_blocks = 0
        self.mapped: tuple[Tensor, ...] = ()
        self.recompute = False
        self.precision: Precision = "float32"
        self._tried_blocks: dict[tuple[int, int], bool] = {}  # results of `_blocks_write_to_input`

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Classifies images.

        Args:
            images: RGB images at the model's size [B, H, W, 3] uint8.

        Returns:
            The last feature maps [B, d, h, w] float32 and the logits [B, classes] float32.
        """
        activations = self.activations(images)
        return activations.maps, self.classify(activations)

    def activations(self, images: Tensor) -> Activations:
        """Runs images [B, H, W, 3] uint8 through all blocks, up to the head."""
        return self.run_normalised(Activations(self.normalise(images)))

    @torch.no_grad()
    def run(self, images: Pixels, *, keep_maps: bool) -> tuple[NDArray[np.float32], Tensor | None]:
        """Computes the head's inputs for images [B, H, W, 3] uint8.

        Returns:
            The head's inputs [B, number of inputs] float32 and, if `keep_maps` is set, the last feature maps
            [B, d, h, w] float32 on the CPU.
        """
        activations = self.activations(torch.from_numpy(images).to(self.head.weight.device))
        values: NDArray[np.float32] = activations.pooled().cpu().numpy()
        return values, activations.maps.cpu() if keep_maps else None

    def run_normalised(self, images: Activations) -> Activations:
        """Runs images from `normalise` through all blocks, up to the head."""
        return self._run(images, 0, len(self.blocks()))

    @torch.no_grad()
    def stem(self, images: Tensor) -> Activations:
        """Runs images [B, H, W, 3] uint8 through the frozen blocks; teacher and student share the result."""
        return self._run(Activations(self.normalise(images)), 0, self.frozen_blocks)

    def after_stem(self, activations: Activations) -> tuple[Tensor, Tensor]:
        """Runs the rest of the network on `stem`'s result; returns maps and logits as `forward` does."""
        first, end = self.frozen_blocks, len(self.blocks())
        if self._blocks_write_to_input(first, end, activations.maps):
            # The other network needs these maps too.
            activations = activations._replace(maps=activations.maps.clone())
        activations = self._run(activations, first, end)
        return activations.maps, self.classify(activations)

    def _run(self, activations: Activations, first: int, end: int) -> Activations:
        maps, levels = activations
        recompute = self.recompute and torch.is_grad_enabled()
        for index, block in enumerate(self.blocks()[first:end], first):
            if recompute and any(True for _ in block.parameters()):  # not worth it without parameters
                on_a_copy = self._blocks_write_to_input(index, index + 1, maps)
                maps = recomputed(block, maps, precision=self.precision, on_a_copy=on_a_copy)
            else:
                maps = self._run_block(block, maps)
            if self.levels and index in self.levels.blocks:
                levels = (*levels, grid_means(self._in_heads_dtype(maps), self.levels.grid))
                if maps.requires_grad and self._blocks_write_to_input(index + 1, index + 2, maps):
                    maps = maps.clone()  # the gradient of the means needs these maps as they were
        return Activations(self._in_heads_dtype(maps) if end == len(self.blocks()) else maps, levels)

    def _run_block(self, block: nn.Module, maps: Tensor) -> Tensor:
        with autocast(self.precision, maps.device):
            return cast(Tensor, block(maps))

    def _in_heads_dtype(self, maps: Tensor) -> Tensor:
        """Returns maps in the head's dtype, in which everything except the blocks is computed."""
        return maps if self.precision == "float32" else maps.to(self.head.weight.dtype)

    @torch.no_grad()
    def _blocks_write_to_input(self, first: int, end: int, maps: Tensor) -> bool:
        """Tells whether some blocks write to the maps that they are given, as an in-place activation does.

        The blocks are tried once, on a copy of one image's maps: torch counts the changes to a tensor and its
        views.
        """
        if (first, end) not in self._tried_blocks:
            given = output = maps[:1].detach().clone()
            unchanged = given._version
            for block in self.blocks()[first:end]:
                output = self._run_block(block, output)
                if output.untyped_storage().data_ptr() != given.untyped_storage().data_ptr():
                    break  # later blocks get maps in other memory
            self._tried_blocks[first, end] = given._version != unchanged
        return self._tried_blocks[first, end]

    def normalise(self, images: Tensor) -> Tensor:
        """Normalises images [B, H, W, 3] uint8 to the backbone's input [B, 3, H, W]."""
        dtype = self.head.weight.dtype
        mean = torch.tensor(self.preprocessing.mean, dtype=dtype, device=images.device).view(3, 1, 1)
        std = torch.tensor(self.preprocessing.std, dtype=dtype, device=images.device).view(3, 1, 1)
        pixels = images.to(dtype).permute(0, 3, 1, 2) / 255
        return (pixels - mean) / std

    def classify(self, activations: Activations) -> Tensor:
        """Computes logits [B, classes] from the activations of all blocks."""
        pooled, values = activations.pooled(), self.level_values
        if pooled.shape[1] != self.head.in_features:
            raise ArchitectureError(
                f"the network offers {pooled.shape[1]} values, but its head reads {self.head.in_features}"
            )
        logits = F.linear(pooled[:, values:], self.attention_weight, self.head.bias[: self.classes])
        if values:
            logits = logits + F.linear(pooled[:, :values], self.head_weight[:, :values].detach())
        return logits

    def blocks(self) -> list[nn.Module]:
        """Lists the backbone's blocks, in the order in which they run.

        They are the backbone's child modules; each sequential child is replaced by its own children.
        """
        parts = self.backbone.children()
        return [b for part in parts for b in (part.children() if _is_sequential(part) else [part])]

    def freeze(self, blocks: int) -> None:
        """Excludes the first blocks from training.

        Raises:
            ConfigError: The network has fewer blocks.
        """
        if blocks > len(self.blocks()):
            raise ConfigError(f"frozen_blocks is {blocks}, but this network has {len(self.blocks())} blocks")
        self.frozen_blocks = blocks

    def student(self, *, trains: bool) -> Network:
        """Makes another network that shares all tensors except those that an increment changes.

        It has its own copies of the head's parameters and, if `trains` is set, of the parameters of all
        blocks that are not frozen.
        """
        twin = deepcopy(self, {id(tensor): tensor for tensor in self.tensors()})
        changed = [twin.head, *(twin.blocks()[self.frozen_blocks :] if trains else [])]
        for module in (module for part in changed for module in part.modules()):
            for name, parameter in list(module.named_parameters(recurse=False)):
                copied = nn.Parameter(parameter.detach().clone(), requires_grad=False)
                setattr(module, name, copied)
        return twin

    def tensors(self) -> tuple[Tensor, ...]:
        """Lists all tensors of the network, including those that are mapped from a file."""
        return (*self.parameters(), *self.buffers(), *self.mapped)

    @property
    def head_weight(self) -> Tensor:
        """Returns the rows of the head's weight that are in use [classes, the head's inputs]."""
        return self.head.weight[: self.classes]

    @property
    def attention_weight(self) -> Tensor:
        """Returns the columns of `head_weight` that read the last feature maps [classes, d]."""
        return self.head_weight[:, self.level_values :]

    @property
    def level_values(self) -> int:
        """Returns how many of the head's inputs come from the levels; they are the first ones."""
        return self.levels.values if self.levels else 0

    def head_tensors(self) -> tuple[Tensor, Tensor]:
        """Returns the head's rows in use: weight [classes, the head's inputs] and bias [classes]."""
        return self.head_weight.detach(), self.head.bias[: self.classes].detach()

    @torch.no_grad()
    def set_head(self, weight: Tensor, bias: Tensor) -> None:
        """Replaces the head, without writing to the mapped memory that holds the old one.

        Args:
            weight: Weight of the classes in use from now on [classes, the head's inputs].
            bias: Bias of these classes [classes].
        """
        for name, rows in (("weight", weight), ("bias", bias)):
            full = torch.zeros_like(getattr(self.head, name))
            full[: len(rows)] = rows.to(full)
            setattr(self.head, name, nn.Parameter(full, requires_grad=False))
        self.classes = len(weight)

    @torch.no_grad()
    def add_classes(self, count: int, generator: torch.Generator) -> None:
        """Brings `count` more rows of the head into use, with random weights, as in a new torch layer.

        Their weights for levels stay 0. The caller must have checked the capacity.
        """
        rows = slice(self.classes, self.classes + count)
        self.classes += count
        bound = self.attention_weight.shape[1] ** -0.5
        for tensor in (self.attention_weight, self.head.bias):
            drawn = torch.rand(tensor[rows].shape, generator=generator) * 2 * bound - bound
            tensor[rows] = drawn.to(tensor)

    @torch.no_grad()
    def read_levels(self, levels: Levels) -> None:
        """Lets the head read these levels too, at first with weight 0, so that the logits stay the same."""
        capacity, d = self.head.weight.shape
        weight = torch.cat([self.head.weight.new_zeros(capacity, levels.values), self.head.weight], 1)
        bias = self.head.bias
        self.head = nn.Linear(d + levels.values, capacity, device="meta").train(self.training)
        self.head.weight, self.head.bias = nn.Parameter(weight, requires_grad=False), bias
        self.levels = levels


def _is_sequential(module: nn.Module) -> bool:
    return isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward


@torch.no_grad()
def attention_cells(network: Network) -> int:
    """Counts the cells l = h * w of the network's attention maps."""
    size = network.preprocessing.image_size
    image = torch.zeros(1, size, size, 3, dtype=torch.uint8, device=network.head.weight.device)
    features, _ = network(image)
    return int(features[0, 0].numel())


def pools_early(network: Network) -> bool:
    """Tells whether a network pools before its last layers, so that its maps have one cell at any size."""
    pools = (block for block in network.blocks() if isinstance(block, nn.AdaptiveAvgPool2d))
    return any(pool.output_size in (1, (1, 1)) for pool in pools)


def few_cells_warnings(network: Network, cells: int) -> list[str]:
    """Warns if attention maps are too coarse to guide training well."""
    if cells >= _FEW_CELLS:
        return []
    if pools_early(network):
        return [
            "this network pools before its last hidden layer, so its attention maps have a single cell at "
            "any image size: devices can use recipes without an attention loss, such as auto and lda"
        ]
    size = network.preprocessing.image_size
    return [
        f"attention maps have {counted(cells, 'cell', 'cells')} at {size} px; the attention distillation "
        "loss works best with 4x4 or more: use a larger image size or a network with a smaller stride"
    ]
