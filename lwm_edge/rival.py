"""What an owner can have for nothing: a frozen backbone with a head made of class statistics.

Every recipe is compared with these two. Both learn a class by looking once at its photos' features.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from .network import Network
from .photos import PhotoSet
from .training import run_network

Features = NDArray[np.float64]
Labels = NDArray[np.int64]

_SHRINKAGE = 1e-2  # of the shared covariance towards a multiple of the identity


@torch.no_grad()
def pooled_features(network: Network, photos: PhotoSet, batch_size: int = 64) -> Features:
    """Globally averaged feature maps of the photos [M, d]."""
    pooled = [features.mean((2, 3)).cpu().numpy() for features, _ in run_network(network, photos, batch_size)]
    return np.concatenate(pooled).astype(np.float64)


class NearestClassMean:
    """Predicts the class whose mean feature is nearest, all features scaled to length 1.

    Mensink et al. 2013; as the last step of iCaRL (Rebuffi et al. 2017, algorithm 1).
    """

    def __init__(self) -> None:
        self._means: dict[int, Features] = {}

    def learn(self, features: Features, labels: Labels) -> None:
        """Takes in all photos of some classes: features [M, d], labels [M]."""
        for label in np.unique(labels):
            self._means[int(label)] = _unit(_unit(features[labels == label]).mean(0))

    def predict(self, features: Features) -> Labels:
        """Features [M, d] to class_index [M]."""
        known = np.array(sorted(self._means))
        means = np.stack([self._means[label] for label in known])
        nearest: Labels = known[(_unit(features) @ means.T).argmax(1)]
        return nearest


class StreamingLda:
    """Linear discriminant analysis with class means and one shared covariance, updated class by class.

    Hayes and Kanan 2020, "Lifelong Machine Learning with Deep Streaming Linear Discriminant Analysis".
    """

    def __init__(self) -> None:
        self._means: dict[int, Features] = {}
        self._scatter: Features | float = 0.0
        self._photos = 0

    def learn(self, features: Features, labels: Labels) -> None:
        """Takes in all photos of some classes: features [M, d], labels [M]."""
        for label in np.unique(labels):
            of_class = features[labels == label]
            self._means[int(label)] = of_class.mean(0)
            centred = of_class - of_class.mean(0)
            self._scatter = self._scatter + centred.T @ centred
            self._photos += len(of_class)

    def predict(self, features: Features) -> Labels:
        """Features [M, d] to class_index [M]."""
        known = np.array(sorted(self._means))
        means = np.stack([self._means[label] for label in known])
        covariance = np.asarray(self._scatter) / max(1, self._photos - len(known))
        d = len(covariance)
        covariance = (1 - _SHRINKAGE) * covariance + _SHRINKAGE * np.trace(covariance) / d * np.eye(d)
        weights = np.linalg.solve(covariance, means.T)
        scores = features @ weights - 0.5 * np.einsum("cd,dc->c", means, weights)
        best: Labels = known[scores.argmax(1)]
        return best


def _unit(rows: Features) -> Features:
    length = np.linalg.norm(rows, axis=-1, keepdims=True)
    unit: Features = rows / np.maximum(length, 1e-12)
    return unit
