"""Solves a head in closed form: linear discriminant analysis with one shrunk covariance for all classes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Features = NDArray[np.float64]
Labels = NDArray[np.int64]

FOLDS = 5
_PROBES = 32  # random vectors; this many estimate a trace to within about one percent
_LOGIT_AT_CLASS_MEAN = 5.0  # its sigmoid is 0.993


class Head(NamedTuple):
    """Holds the rows of a linear head that are in use.

    Attributes:
        weight: Weight [classes, d] float64.
        bias: Bias [classes] float64.
    """

    weight: Features
    bias: Features

    def logits(self, features: Features) -> Features:
        """Computes the logits of features [M, d] for each class [M, classes]."""
        logits: Features = features @ self.weight.T + self.bias
        return logits


class ReducedDiscriminant(NamedTuple):
    """Holds a discriminant that was solved without some photos.

    Attributes:
        means: Mean of each class [classes, d]; zeros for a class with no photo left.
        rows: Rows C^-1 (mean of the class - mean of all class means) [classes, d]; see `Discriminant`.
        head: Head, with a bias of minus infinity for a class with no photo left.
    """

    means: Features
    rows: Features
    head: Head


class Discriminant:
    """Solves the linear discriminant of each class against the mean of all classes.

    A class's logit is the log-likelihood ratio of two Gaussians that share the covariance C: one around the
    mean of the class, and one around the mean of all class means. The second one is the same for every class,
    so it changes neither rankings nor a softmax. It puts logit 0, where a sigmoid is one half, between the
    class and the others. C is the covariance S of the photos, shrunk by `shrink`.

    The features of photos that the backbone learnt from lie closer together than those of other photos, so
    the ratio is overconfident. A temperature makes up for that: all logits are scaled by one factor, which
    changes no ranking, so that the mean of a class has the logit `_LOGIT_AT_CLASS_MEAN` on average.

    The mean of n photos differs from the true mean. This lowers the log-likelihood of further photos of the
    class by tr(C^-1 S) / 2n, so classes with few photos would lose to classes with many. A term of the bias
    makes up for that (Moran and Murphy 1979, "A Closer Look at Two Alternative Methods of Statistical
    Discrimination"). If all classes have the same number of photos, this term is zero.

    Args:
        means: Mean of each class [classes, d].
        covariance: Covariance S within classes [d, d].
        photos: Number of photos that S was computed from.
        counts: Number of photos of each class [classes].
        features: Features of those photos that `without` can leave out [M, d].
        labels: class_index of each of those photos [M].
        level_values: Number of features, the first ones, that come from earlier blocks.

    Attributes:
        features: Features of the photos that `without` can leave out [M, d].
        labels: class_index of each of these photos [M].
        head: Solved head.
        rows: Rows C^-1 (mean of the class - mean of all class means) [classes, d].
        trace: Estimate of the trace of C^-1 S.
        scale: Factor by which all logits are scaled.
    """

    def __init__(
        self,
        means: Features,
        covariance: Features,
        photos: float,
        counts: Features,
        features: Features | None = None,
        labels: Labels | None = None,
        level_values: int = 0,
    ) -> None:
        classes, d = means.shape
        self._means, self._counts, self._photos_and_prior = means, counts, photos + d
        self.features = np.empty((0, d)) if features is None else features
        self.labels = np.empty(0, np.int64) if labels is None else labels
        # If at most d photos can be left out, `without` updates the solution computed here; otherwise, it
        # solves the changed system from scratch.
        updates = len(self.features) <= d
        probes = np.random.default_rng(0).choice([-1.0, 1.0], (_PROBES, d))
        wanted = [means, probes @ covariance, *([self.features] if updates else [])]
        solved = solve_shrunk(covariance, photos, np.concatenate(wanted), level_values)
        self._solved_means, probed, self._solved = np.split(solved, [classes, classes + _PROBES])
        self._shrunk = None if updates else shrink(covariance, photos, level_values)
        # This estimates tr(C^-1 S) by the method of Hutchinson (1989).
        self.trace = float(np.einsum("pd,pd->", probes, probed)) / _PROBES
        self.rows = self._solved_means - self._solved_means.mean(0)
        bias = self._bias(self.rows, means, counts)
        own = float((np.einsum("cd,cd->c", self.rows, means) + bias).mean())
        self.scale = _LOGIT_AT_CLASS_MEAN / own if own > 0 else 1.0
        self.head = Head(self.scale * self.rows, self.scale * bias)

    def _bias(self, weight: Features, means: Features, counts: Features) -> Features:
        lost = self.trace / (2 * counts.clip(1))
        bias: Features = lost - lost.mean() - np.einsum("cd,cd->c", weight, (means + means.mean(0)) / 2)
        return bias

    def folds(self) -> Iterator[NDArray[np.bool_]]:
        """Yields up to `FOLDS` masks of photos to leave out [M]; each photo is in exactly one of them."""
        fold = np.zeros(len(self.labels), dtype=int)
        for label in np.unique(self.labels):
            of_class = np.flatnonzero(self.labels == label)
            fold[of_class] = np.arange(len(of_class)) % FOLDS
        return (fold == number for number in np.unique(fold))

    def without(self, left_out: NDArray[np.bool_]) -> ReducedDiscriminant:
        """Solves the discriminant without some photos, but with the shrinkage and temperature of all photos.

        Take a class of n photos whose mean is c, and leave out m photos x whose mean is y. The scatter of the
        class is then smaller by the sum of (x - c)(x - c)' plus m^2 / (n - m) (y - c)(y - c)', where ' means
        the transpose. So C, before its divisor changes, is smaller by Z' R Z, where the rows of Z are x - c
        and R is computed below. The inverse of this smaller C follows from the formula of Sherman, Morrison
        and Woodbury (1950).

        Args:
            left_out: Mask of the photos to leave out [M].
        """
        photos, labels = self.features[left_out], self.labels[left_out]
        is_of = labels[None] == np.arange(len(self._means))[:, None]  # [classes, m]
        counts = self._counts - is_of.sum(1)
        shares = counts.clip(1)[:, None]  # a class with no photo left gets a bias of -inf below
        means = (self._counts[:, None] * self._means - is_of @ photos) / shares
        Z = photos - self._means[labels]
        shared = is_of / np.sqrt(shares)
        R = (np.eye(len(Z)) + shared.T @ shared) / self._photos_and_prior
        if self._shrunk is not None:
            weight = np.linalg.solve(self._shrunk - Z.T @ R @ Z, (means - means.mean(0)).T).T
        else:
            solved = self._solved[left_out]
            solved_means = self._counts[:, None] * self._solved_means - is_of @ solved
            solved_means /= shares
            solved_Z = solved - self._solved_means[labels]
            weight = solved_means - solved_means.mean(0)
            weight += np.linalg.solve(np.linalg.inv(R) - Z @ solved_Z.T, Z @ weight.T).T @ solved_Z
        weight *= 1 - len(Z) / self._photos_and_prior
        bias = self.scale * self._bias(weight, means, counts)
        bias[(self._counts > 0) & (counts <= 0)] = -np.inf
        return ReducedDiscriminant(means, weight, Head(self.scale * weight, bias))


def shrink(covariance: Features, photos: float, level_values: int = 0) -> Features:
    """Moves a covariance towards a diagonal one; the fewer photos it comes from, the further.

    The result is as if d more photos (as many as there are features) had been seen, whose features do not
    depend on each other. It is the mean of the posterior under an inverse Wishart prior of that strength,
    whose scale is estimated from the same photos.

    If n is d or more, these imagined photos have the same variance in every direction, as is usual. The fewer
    there are, the more the features of earlier blocks and those of the last maps have variances of their own:
    the mean variance of each group. Otherwise the former, which vary more widely, would drown out the latter:
    with few photos, a head that reads earlier blocks would be worse than one that does not
    (benchmarks/README.md, "What the head reads").

    Args:
        covariance: Covariance S [d, d].
        photos: Number n of photos that S was computed from.
        level_values: Number of features, the first ones, that come from earlier blocks.
    """
    share, added = _shrinkage(covariance, photos, level_values)
    shrunk: Features = share * covariance
    shrunk[np.diag_indices(len(shrunk))] += added
    return shrunk


def times_shrunk(rows: Features, covariance: Features, photos: float, level_values: int = 0) -> Features:
    """Multiplies rows [R, d] by what `shrink` returns, without making that matrix."""
    share, added = _shrinkage(covariance, photos, level_values)
    product: Features = share * (rows @ covariance) + added * rows
    return product


def solve_shrunk(covariance: Features, photos: float, rows: Features, level_values: int = 0) -> Features:
    """Multiplies rows [R, d] by the inverse of what `shrink` returns.

    That matrix would take as much memory as the covariance, so it is not made. Instead, the diagonal of the
    covariance itself is changed during the calculation, and then restored exactly.
    """
    share, added = _shrinkage(covariance, photos, level_values)
    if not share:
        return rows / added
    at, diagonal = np.diag_indices(len(covariance)), covariance.diagonal().copy()
    try:
        covariance[at] += added / share
        return np.asarray(np.linalg.solve(covariance, rows.T / share).T, np.float64)
    finally:
        covariance[at] = diagonal


def _shrinkage(covariance: Features, photos: float, level_values: int) -> tuple[float, Features]:
    """Returns the share of a covariance that is kept, and what is added to its diagonal [d]."""
    d, variances = len(covariance), covariance.diagonal()
    own = np.empty(d)
    for group in (slice(0, level_values), slice(level_values, d)):
        own[group] = variances[group].mean() if len(variances[group]) else 0.0
    equal = min(photos / d, 1.0)
    prior = equal * variances.mean() + (1 - equal) * own
    share = photos / (photos + d)
    return share, (1 - share) * prior.clip(1e-12)
