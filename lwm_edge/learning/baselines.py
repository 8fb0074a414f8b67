"""Provides two baselines, which need no training.

Each puts a head made from class statistics on a frozen backbone, and learns a class by seeing the features of
its photos once. Every recipe is compared with both.
"""

from __future__ import annotations

import numpy as np

from .class_statistics import ClassStatistics
from .discriminant import Features, Labels


class NearestClassMean:
    """Predicts the class whose mean feature is nearest, with all features scaled to length 1.

    The method is that of Mensink et al. 2013. iCaRL uses it too (Rebuffi et al. 2017, algorithm 1).
    """

    def __init__(self) -> None:
        self._means: dict[int, Features] = {}

    def learn(self, features: Features, labels: Labels) -> None:
        """Learns some classes from all of their photos: features [M, d], labels [M]."""
        for label in np.unique(labels):
            self._means[int(label)] = _unit(_unit(features[labels == label]).mean(0))

    def rank(self, features: Features) -> Labels:
        """Ranks all learnt classes, best first, for features [M, d]; returns class_index [M, classes]."""
        known = np.array(sorted(self._means))
        means = np.stack([self._means[label] for label in known])
        ranks: Labels = known[_best_first(_unit(features) @ means.T)]
        return ranks

    def predict(self, features: Features) -> Labels:
        """Predicts class_index [M] from features [M, d]."""
        return self.rank(features)[:, 0]


class StreamingLda:
    """Predicts by linear discriminant analysis: class means and a shared covariance, updated class by class.

    The method is that of Hayes and Kanan 2020. The two recipes with a solved head solve it from the same
    kind of statistics; one of them, `lwm-lda`, also trains the backbone.
    """

    def __init__(self, capacity: int, d: int) -> None:
        self._statistics = ClassStatistics.empty(capacity, d)

    def learn(self, features: Features, labels: Labels) -> None:
        """Learns some classes from all of their photos: features [M, d], labels [M]."""
        self._statistics.learn(features, labels)

    def rank(self, features: Features) -> Labels:
        """Ranks all learnt classes, best first, for features [M, d]; returns class_index [M, classes]."""
        weight, bias = self._statistics.solve_head(self._statistics.means.any(1).sum())
        return _best_first(features @ weight.T + bias)

    def predict(self, features: Features) -> Labels:
        """Predicts class_index [M] from features [M, d]."""
        return self.rank(features)[:, 0]


def _best_first(scores: Features) -> Labels:
    """Sorts the columns of each row by their scores, highest first; equal scores keep their order."""
    columns: Labels = (-scores).argsort(1, kind="stable")
    return columns


def _unit(rows: Features) -> Features:
    length = np.linalg.norm(rows, axis=-1, keepdims=True)
    unit: Features = rows / np.maximum(length, 1e-12)
    return unit
