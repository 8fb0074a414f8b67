"""Takes a whole classifier apart into backbone and linear head, and makes sure that nothing is left over."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from ...errors import ArchitectureError
from .registry import Architecture, blamed_on

_SURGERY_TOLERANCE = 1e-4


def take_apart(model: nn.Module, architecture: Architecture, name: str) -> tuple[nn.Sequential, nn.Linear]:
    """Splits a whole classifier into backbone and linear head.

    The modules listed in `architecture.features` keep their names in the backbone.

    Args:
        model: Classifier to split; its tensors are not copied.
        architecture: Architecture that names the parts.
        name: Key of the architecture, for errors.

    Raises:
        ArchitectureError: The parts that the architecture names are missing or of the wrong kind.
    """
    children = dict(model.named_children())
    missing = [f"it has no child module {part}" for part in architecture.features if part not in children]
    try:
        head = model.get_submodule(architecture.head)
    except AttributeError:
        missing.append(f"it has no module {architecture.head}")
        head = nn.Identity()
    if missing:
        raise ArchitectureError(f"architecture {name} cannot be taken apart", missing)
    if not isinstance(head, nn.Linear) or head.bias is None:
        raise ArchitectureError(
            f"architecture {name}: its head {architecture.head} is not a linear layer with bias"
        )
    parts = OrderedDict((part, children[part]) for part in architecture.features)
    if architecture.tail:
        with blamed_on(name, "its tail cannot be made"):
            parts["tail"] = architecture.tail(model)
        if not isinstance(parts["tail"], nn.Module):
            raise ArchitectureError(f"architecture {name}: `tail` returns no torch.nn.Module")
    return nn.Sequential(parts), head


@torch.no_grad()
def check_surgery(
    model: nn.Module, backbone: nn.Module, head: nn.Linear, name: str, image_size: int = 64
) -> None:
    """Makes sure that pooling and one linear layer are all that follows the backbone.

    Otherwise, the closed form of the attention map would be wrong, and so would adding rows to the head.
    The classifier is left in eval mode.

    Args:
        model: Whole classifier.
        backbone: Part of it that ends in feature maps.
        head: Last layer.
        name: Key of the architecture, for errors.
        image_size: Height and width of the images to compare the outputs for.

    Raises:
        ArchitectureError: Backbone, pooling and head together compute something other than the classifier, or
            the classifier computes values that are not finite.
    """
    model.eval()
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, image_size, image_size, generator=generator)
    features = backbone(images)
    if features.dim() == 4 and features.shape[1] == head.in_features:
        ours, theirs = head(features.mean((2, 3))), model(images)
        if not isinstance(theirs, Tensor):
            raise ArchitectureError(f"architecture {name}: its forward method returns no tensor of logits")
        if not theirs.isfinite().all():
            raise ArchitectureError(
                f"this {name} computes values that are not finite: some weights are huge, or some variances "
                "of BatchNorm are zero or negative; use a sound checkpoint"
            )
        if torch.allclose(ours, theirs, rtol=_SURGERY_TOLERANCE, atol=_SURGERY_TOLERANCE):
            return
    raise ArchitectureError(
        f"architecture {name} does not end in feature maps, global average pooling and one linear layer: "
        "taken apart that way, it computes something else"
    )
