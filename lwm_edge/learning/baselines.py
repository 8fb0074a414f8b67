"""Provides what an owner can have for free: a frozen backbone with a head made from class statistics.

Every recipe is compared with both baselines. Each learns a class by looking at its photos' features once.
"""

from __future__ import annotations

import numpy as np

from .class_statistics import ClassStatistics
from .discriminant import Features, Labels


class NearestClassMean:
    """Predicts the class whose mean feature is nearest, all features scaled to length 1.

    It comes from Mensink et al. 2013, and is the last step of iCaRL (Rebuffi et al. 2017, algorithm 1).
    """

    def __init__(self) -> None:
        self._means: dict[int, Features] = {}

    def learn(self, features: Features, labels: Labels) -> None:
        """Learns all photos of some classes: features [M, d], labels [M]."""
        for label in np.unique(labels):
            self._means[int(label)] = _unit(_unit(features[labels == label]).mean(0))

    def rank(self, features: Features) -> Labels:
        """Ranks all classes learnt, best first: class_index [M, classes] from features [M, d]."""
        known = np.array(sorted(self._means))
        means = np.stack([self._means[label] for label in known])
        ranks: Labels = known[_best_first(_unit(features) @ means.T)]
        return ranks

    def predict(self, features: Features) -> Labels:
        """Predicts class_index [M] from features [M, d]."""
        return self.rank(features)[:, 0]


class StreamingLda:
    """Predicts by linear discriminant analysis: class means and a shared covariance, updated class by class.

    See Hayes and Kanan 2020; the default recipe keeps the same statistics, but here the backbone never moves.
    """

    def __init__(self, capacity: int, d: int) -> None:
        self._statistics = ClassStatistics.empty(capacity, d)

    def learn(self, features: Features, labels: Labels) -> None:
        """Learns all photos of some classes: features [M, d], labels [M]."""
        self._statistics.learn(features, labels)

    def rank(self, features: Features) -> Labels:
        """Ranks all classes learnt, best first: class_index [M, classes] from features [M, d]."""
        weight, bias = self._statistics.solve_head(self._statistics.means.any(1).sum())
        return _best_first(features @ weight.T + bias)

    def predict(self, features: Features) -> Labels:
        """Predicts class_index [M] from features [M, d]."""
        return self.rank(features)[:, 0]


def _best_first(scores: Features) -> Labels:
    """Returns the column of every score of a row, the highest first, equal ones from left to right."""
    columns: Labels = (-scores).argsort(1, kind="stable")
    return columns


def _unit(rows: Features) -> Features:
    length = np.linalg.norm(rows, axis=-1, keepdims=True)
    unit: Features = rows / np.maximum(length, 1e-12)
    return unit
