"""Saves a trained classifier as many training scripts do; replace this script with your own training.

    python examples/02_save_checkpoint.py MODEL.pth

The weights are those of the demo's base, trained on the six classes of lwm_edge/demo_data/train/base.
"""

from __future__ import annotations

import sys

import torch

from lwm_edge.demo import BASE_BUNDLE
from lwm_edge.model.architectures.registry import find_architecture
from lwm_edge.model.bundle import open_bundle
from lwm_edge.model.loading import load_network


def trained_classifier() -> torch.nn.Module:
    """Returns a plain torch module with a head for six classes."""
    trained = load_network(open_bundle(BASE_BUNDLE))
    model = find_architecture("small_resnet20").build()
    model.fc = torch.nn.Linear(trained.attention_weight.shape[1], trained.classes)
    weight, bias = trained.attention_weight.detach(), trained.head_tensors()[1]
    model.load_state_dict({**trained.backbone.state_dict(), "fc.weight": weight, "fc.bias": bias})
    return model.eval()


def main() -> None:
    """Saves the classifier together with other data, as training scripts often do."""
    path = sys.argv[1]
    torch.save(
        {"model": {f"module.{n}": t for n, t in trained_classifier().state_dict().items()}, "epoch": 40}, path
    )
    print(f"Saved {path}")


if __name__ == "__main__":
    main()
