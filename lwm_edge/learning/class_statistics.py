"""Keeps the class statistics: one mean feature per class, and one covariance that all classes share.

They stand in for the photos, which are not kept. Their shapes depend on the bundle's capacity and the
network, never on the number of classes or photos. A head can be solved from these statistics in closed form
(see `discriminant`), as streaming LDA does on a frozen backbone: Hayes and Kanan 2020, "Lifelong Machine
Learning with Deep Streaming Linear Discriminant Analysis".

The [d, d] matrices are large (with 1280 features in float64, each takes 12.5 MiB), so learning changes them
in place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..model.bundle import Bundle
from ..model.tensors import COUNTS, COVARIANCE, MEANS, PHOTOS
from .discriminant import Discriminant, Features, Head, Labels
from .feature_map import FeatureMap

_ROWS_AT_ONCE = 256
_SPREADS, _BISECTIONS = (0.01, 10_000.0), 14  # range and number of steps of the search in `find_spread`
_DRAWN_PER_CLASS, _MAX_DRAWN = 1000, 200_000  # largest numbers of simulated photos: per class, and in all


@dataclass
class ClassStatistics:
    """Holds the class means and the shared covariance of the pooled features.

    Attributes:
        means: Mean of each class [capacity, d] float64; rows beyond the last class are zero.
        covariance: Covariance within classes, which all classes share [d, d] float64.
        photos: Number of photos that the covariance was computed from, including photos of removed classes.
        counts: Number of photos of each class [capacity] float64.
        level_values: Number of features, the first ones, that come from earlier blocks.
    """

    means: Features
    covariance: Features
    photos: float
    counts: Features
    level_values: int = 0

    @classmethod
    def empty(cls, capacity: int, d: int, level_values: int = 0) -> ClassStatistics:
        """Makes statistics that hold no photos yet."""
        return cls(np.zeros((capacity, d)), np.zeros((d, d)), 0.0, np.zeros(capacity), level_values)

    @classmethod
    def from_bundle(cls, bundle: Bundle) -> ClassStatistics:
        """Reads the statistics of all classes in a bundle."""
        levels = bundle.manifest.levels
        arrays = bundle.arrays(MEANS, COVARIANCE, PHOTOS, COUNTS)
        return cls.from_arrays(arrays, levels.values if levels else 0)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], level_values: int) -> ClassStatistics:
        """Reads the statistics from a bundle's tensors."""
        means, covariance, counts = (arrays[name].astype(np.float64) for name in (MEANS, COVARIANCE, COUNTS))
        return cls(means, covariance, float(arrays[PHOTOS][0]), counts, level_values)

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Returns the statistics as a bundle's tensors, float32."""
        return {
            MEANS: self.means.astype(np.float32),
            COVARIANCE: self.covariance.astype(np.float32),
            PHOTOS: np.array([self.photos], dtype=np.float32),
            COUNTS: self.counts.astype(np.float32),
        }

    def copy(self) -> ClassStatistics:
        """Makes an independent copy."""
        copies = self.means.copy(), self.covariance.copy(), self.photos, self.counts.copy()
        return ClassStatistics(*copies, self.level_values)

    def with_photos(self, features: Features, labels: Labels) -> ClassStatistics:
        """Returns a copy that has learnt from these photos too; see `learn`."""
        statistics = self.copy()
        statistics.learn(features, labels)
        return statistics

    def learn(self, features: Features, labels: Labels) -> None:
        """Learns some classes from all of their photos: pooled features [M, d], class_index [M].

        If a class was learnt before, the mean of these photos replaces its mean, while the covariance still
        describes all photos that were ever learnt from.
        """
        centred = features.astype(np.float64)
        for label in np.unique(labels):
            of_class = labels == label
            self.means[label] = features[of_class].mean(0)
            self.counts[label] = of_class.sum()
            centred[of_class] -= self.means[label]
        self._add_to_scatter(centred, len(features))

    def _add_to_scatter(self, rows: Features, photos: int) -> None:
        """Adds the outer products of rows [R, d] to the scatter, and `photos` to the number of photos.

        The scatter is the covariance times the number of photos.
        """
        self.covariance *= self.photos
        for start in range(0, len(self.covariance), _ROWS_AT_ONCE):
            block = slice(start, start + _ROWS_AT_ONCE)
            self.covariance[block] += rows[:, block].T @ rows
        self.photos += photos
        self.covariance /= self.photos

    def learn_more(self, features: Features, labels: Labels) -> None:
        """Learns from further photos of some classes, as if they had come with the earlier ones."""
        if not len(features):
            return
        centred, between = features.astype(np.float64), []
        for label in np.unique(labels):
            of_class = labels == label
            mean, before, count = centred[of_class].mean(0), self.counts[label], of_class.sum()
            centred[of_class] -= mean
            apart = mean - self.means[label]
            between.append(np.sqrt(before * count / (before + count)) * apart)
            self.means[label] += count / (before + count) * apart
            self.counts[label] += count
        self._add_to_scatter(np.concatenate([centred, between]), len(features))

    def added(self, other: ClassStatistics) -> ClassStatistics:
        """Returns the sum of these statistics and others, as if learnt from the photos of both."""
        photos, counts = self.photos + other.photos, self.counts + other.counts
        share = np.divide(other.counts, counts, out=np.zeros_like(counts), where=counts > 0)
        apart = other.means - self.means
        covariance = (self.photos * self.covariance + other.photos * other.covariance) / max(photos, 1.0)
        means = self.means + share[:, None] * apart
        both = ClassStatistics(means, covariance, photos, counts, self.level_values)
        between = np.sqrt(self.counts * share)[:, None] * apart
        if photos:
            both._add_to_scatter(between, 0)
        return both

    def follow_drift(self, change: FeatureMap, classes: int) -> None:
        """Adapts the statistics, made from a backbone's old features, to its features after training.

        This is drift compensation as in Yu et al. 2020 ("Semantic Drift Compensation"), with a linear map.

        Args:
            change: Map from the old features to the new ones.
            classes: Number of classes whose means are adapted, counted from class_index 0.
        """
        self.means[:classes] = self.means[:classes] @ change.matrix.T + change.offset
        self.covariance = change.matrix @ self.covariance @ change.matrix.T

    def estimate_accuracy(
        self, weight: Features, bias: Features, classes: int, spread: float = 1.0, *, first: int = 0
    ) -> Features:
        """Estimates, from the statistics alone, how often a head is right on each class.

        Photos of each class are simulated: their logits are drawn from the Gaussian that follows from the
        class's mean and the shared covariance, and all rows of the head compete. No real photo is needed, so
        a device can estimate the accuracy on classes whose photos it never had.

        Args:
            weight: Weight of the head [N, d].
            bias: Bias of the head [N].
            classes: Number of classes, counted from class_index 0; those from `first` on are judged.
            spread: Factor by which the covariance is scaled; see `find_spread`.
            first: class_index of the first class that is judged.

        Returns:
            Share of simulated photos on which the head is right, for each judged class [classes - first].
        """
        centres, scatter = self._draw_logits(weight, bias, classes)
        return _share_right(centres, spread**0.5 * scatter, first)

    def _draw_logits(self, weight: Features, bias: Features, classes: int) -> tuple[Features, Features]:
        """Computes the logits of the class means [classes, N], and draws random deviations [photos, N]."""
        # Either features or logits can be drawn; drawing those with fewer dimensions takes less time.
        of_features = len(weight) > len(self.covariance)
        covariance = self.covariance if of_features else weight @ self.covariance @ weight.T
        variances, axes = np.linalg.eigh(covariance)
        photos = min(_DRAWN_PER_CLASS, max(1, _MAX_DRAWN // classes))
        drawn = np.random.default_rng(0).standard_normal((photos, len(covariance)))
        scatter = (drawn * np.sqrt(variances.clip(0))) @ axes.T
        if of_features:
            scatter = scatter @ weight.T
        return self.means[:classes] @ weight.T + bias, scatter

    def find_spread(
        self, weight: Features, bias: Features, classes: int, is_measured: NDArray[np.bool_], accuracy: float
    ) -> float:
        """Finds the factor by which to scale the covariance so that the estimate agrees with a measurement.

        The features of photos that a network learnt from lie closer together than those of photos that it
        never saw, so an estimate from their covariance is too high. With the covariance scaled by this
        factor, the mean estimate for the measured classes agrees with their mean measured accuracy.

        Args:
            weight: Weight of a head for these classes alone [classes, d].
            bias: Bias of that head [classes].
            classes: Number of classes, counted from class_index 0.
            is_measured: Whether each of these classes was measured [classes].
            accuracy: Mean accuracy over the measured classes.
        """
        centres, scatter = self._draw_logits(weight, bias, classes)
        low, high = _SPREADS
        for _ in range(_BISECTIONS):
            middle = float(np.sqrt(low * high))
            if _share_right(centres, middle**0.5 * scatter)[is_measured].mean() > accuracy:
                low = middle
            else:
                high = middle
        return float(np.sqrt(low * high))

    def solve_head(self, classes: int) -> Head:
        """Solves the head for the first `classes` classes in closed form; see `Discriminant`."""
        return self.discriminant(classes).head

    def discriminant(
        self, classes: int, features: Features | None = None, labels: Labels | None = None
    ) -> Discriminant:
        """Solves the discriminant for the first `classes` classes.

        Args:
            classes: Number of classes, counted from class_index 0.
            features: Features of the photos that `Discriminant.without` can leave out [M, d].
            labels: class_index of each of these photos [M].
        """
        means, counts = self.means[:classes], self.counts[:classes]
        statistics = means, self.covariance, self.photos, counts
        return Discriminant(*statistics, features, labels, self.level_values)


def _share_right(centres: Features, scatter: Features, first: int = 0) -> Features:
    """Computes, for each class, the share of simulated photos whose largest logit is that of the class.

    Args:
        centres: Logits of the class means [classes, N].
        scatter: Random deviations from these logits, the same for every class [photos, N].
        first: class_index of the first class to compute a share for.

    Returns:
        The shares [classes - first].
    """
    labels = range(first, len(centres))
    return np.array([((centres[label] + scatter).argmax(1) == label).mean() for label in labels])
