"""Keeps the frozen blocks' outputs for photos, so that these blocks run once rather than in every epoch.

This is exact only for photos that look the same in every epoch. Augmented photos do not, so the plan sets no
memory aside for them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..model.levels import Activations
from ..model.network import Network
from ..model.precision import computing_in
from ..photos.photo_set import PhotoSet
from ..records import ProgressCallback, StepReporter
from .batches import Pace, chunks


class FrozenOutputs:
    """Holds the outputs of the frozen blocks for the first photos of a set.

    Args:
        values: Tensors on the CPU: the maps [n, h, w, C], and then the values of each level
            [n, values of the level]. The sequence is empty if nothing is kept.
    """

    def __init__(self, values: Sequence[Tensor] = ()) -> None:
        self._values = values

    def __len__(self) -> int:
        """Returns the number n of photos whose outputs are kept."""
        return len(self._values[0]) if self._values else 0

    def of(self, photos: Sequence[int], device: torch.device) -> Activations:
        """Returns the outputs of `Network.stem` for these photos."""
        maps, *levels = (values[photos].to(device) for values in self._values)
        return Activations(maps.permute(0, 3, 1, 2), tuple(levels))


def frozen_bytes(network: Network) -> int:
    """Returns how many bytes the frozen blocks' outputs for one photo take; 0 if no blocks are frozen."""
    if not network.frozen_blocks:
        return 0
    size = network.preprocessing.image_size
    image = torch.zeros(1, size, size, 3, dtype=torch.uint8, device=network.head.weight.device)
    maps, levels = network.stem(image)
    return sum(values.nbytes for values in (maps, *levels))


def keep_frozen_outputs(
    network: Network, photos: PhotoSet, pace: Pace, on_progress: ProgressCallback
) -> FrozenOutputs:
    """Runs the frozen blocks on the first photos of a set, as many as fit into `pace.frozen_cache_bytes`.

    With the same pace, the batches are always the same, and so are the outputs.
    """
    if not pace.frozen_cache_bytes:
        return FrozenOutputs()
    with computing_in(pace.precision, network):
        count = min(len(photos.photos), pace.frozen_cache_bytes // frozen_bytes(network))
        kept: list[Tensor] = []
        report = StepReporter("features", count, on_progress)
        for part in chunks(count, pace.micro_batch_size):
            pixels = photos.load(range(count)[part], report=report)
            maps, levels = network.stem(torch.from_numpy(pixels).to(network.head.weight.device))
            outputs = (maps.permute(0, 2, 3, 1), *levels)
            kept = kept or [torch.empty(count, *o.shape[1:], dtype=o.dtype) for o in outputs]
            for values, output in zip(kept, outputs, strict=True):
                values[part] = output.cpu()
    return FrozenOutputs(kept)
