"""Solves a head in closed form: linear discriminant analysis with one shrunk covariance for all classes."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..records import report_nothing

Features = NDArray[np.float64]
Labels = NDArray[np.int64]

FOLDS = 5
_PROBES = 32  # directions in which a trace is estimated, to about one percent
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


class Discriminant:
    """Solves the linear discriminant of each class against the mean of all.

    Its logit is the log-likelihood ratio of two Gaussians of the shared covariance: around the class's mean,
    and around the mean of all classes' means. The latter is the same for every class, so it changes no
    ranking and no softmax; it puts logit 0, a sigmoid's one half, between class and rest.

    Photos that the backbone learnt from lie closer together than others, so the ratio is overconfident. All
    logits are scaled alike (a temperature; no ranking changes) such that a class's own mean has the logit
    `_LOGIT_AT_CLASS_MEAN` on average.

    A mean of n photos differs from the true one, which takes tr(C^-1 S) / 2n from the log-likelihood that a
    class gives its further photos: classes of few photos would lose against those of many. The bias makes up
    for it (Moran and Murphy 1979, "A Closer Look at Two Alternative Methods of Statistical Discrimination");
    where all classes have the same number of photos, that changes nothing.

    Args:
        means: Mean of each class [classes, d].
        covariance: Covariance S within classes [d, d].
        photos: Number of photos that S was computed from.
        counts: Number of photos of each class [classes].
        features: Some of these photos [M, d], which `logits_without` can leave out.
        labels: class_index of each of them [M].

    Attributes:
        head: Head that the solution amounts to.
        trace: Trace of C^-1 S.
        scale: Factor of all logits.
    """

    def __init__(
        self,
        means: Features,
        covariance: Features,
        photos: float,
        counts: Features,
        features: Features | None = None,
        labels: Labels | None = None,
    ) -> None:
        classes, d = means.shape
        self._means, self._counts, self._weighed = means, counts, photos + d
        self._features = np.empty((0, d)) if features is None else features
        self._labels = np.empty(0, np.int64) if labels is None else labels
        # Many photos are left out of the matrix itself; where they are few, updating its solution is faster.
        updates = len(self._features) <= d
        probes = np.random.default_rng(0).choice([-1.0, 1.0], (_PROBES, d))
        wanted = [means, probes @ covariance, *([self._features] if updates else [])]
        shrunk = shrink(covariance, photos)
        solved = np.linalg.solve(shrunk, np.concatenate(wanted).T).T
        self._solved_means, probed, self._solved = np.split(solved, [classes, classes + _PROBES])
        self._shrunk = None if updates else shrunk
        # tr(C^-1 S), as Hutchinson (1989) estimates a trace
        self.trace = float(np.einsum("pd,pd->", probes, probed)) / _PROBES
        weight = self._solved_means - self._solved_means.mean(0)
        bias = self._bias(weight, means, counts)
        own = float((np.einsum("cd,cd->c", weight, means) + bias).mean())
        self.scale = _LOGIT_AT_CLASS_MEAN / own if own > 0 else 1.0
        self.head = Head(self.scale * weight, self.scale * bias)

    def _bias(self, weight: Features, means: Features, counts: Features) -> Features:
        lost = self.trace / (2 * counts.clip(1))
        bias: Features = lost - lost.mean() - np.einsum("cd,cd->c", weight, (means + means.mean(0)) / 2)
        return bias

    def unseen_logits(self, report: Callable[[], None] = report_nothing) -> Features:
        """Computes the logits of each photo by a head that is solved without it: five folds in each class.

        Args:
            report: Function that is called before each of up to `FOLDS` heads.

        Returns:
            Logits of the photos [M, classes].
        """
        fold = np.zeros(len(self._labels), dtype=int)
        for label in np.unique(self._labels):
            of_class = np.flatnonzero(self._labels == label)
            fold[of_class] = np.arange(len(of_class)) % FOLDS
        logits = np.zeros((len(fold), len(self._means)))
        for number in np.unique(fold):
            report()
            logits[fold == number] = self.logits_without(fold == number)
        return logits

    def logits_without(self, left_out: NDArray[np.bool_]) -> Features:
        """Computes the logits of photos by the head that is solved without them.

        It has the shrinkage and the temperature of the head with all photos.

        A class that loses m of its n photos x with the mean x' loses sum (x - mean)(x - mean)' and
        m^2 / (n - m) (x' - mean)(x' - mean)' from its scatter. So the matrix loses Z' R Z, where the rows of
        Z are x - mean, and its inverse follows (Sherman, Morrison and Woodbury 1950).

        Args:
            left_out: Whether each of the M photos is left out [M].

        Returns:
            Logits of those photos [m, classes].
        """
        photos, labels = self._features[left_out], self._labels[left_out]
        is_of = labels[None] == np.arange(len(self._means))[:, None]  # [classes, m]
        counts = self._counts - is_of.sum(1)
        shares = counts.clip(1)[:, None]  # a class without any photo left cannot be recognised, see below
        means = (self._counts[:, None] * self._means - is_of @ photos) / shares
        Z = photos - self._means[labels]
        shared = is_of / np.sqrt(shares)
        R = (np.eye(len(Z)) + shared.T @ shared) / self._weighed
        if self._shrunk is not None:
            weight = np.linalg.solve(self._shrunk - Z.T @ R @ Z, (means - means.mean(0)).T).T
        else:
            solved = self._solved[left_out]
            solved_means = self._counts[:, None] * self._solved_means - is_of @ solved
            solved_means /= shares
            solved_Z = solved - self._solved_means[labels]
            weight = solved_means - solved_means.mean(0)
            weight += np.linalg.solve(np.linalg.inv(R) - Z @ solved_Z.T, Z @ weight.T).T @ solved_Z
        weight *= 1 - len(Z) / self._weighed
        logits: Features = self.scale * (photos @ weight.T + self._bias(weight, means, counts))
        logits[:, (self._counts > 0) & (counts <= 0)] = -np.inf
        return logits


def shrink(covariance: Features, photos: float) -> Features:
    """Moves a covariance of few photos towards a multiple of the identity.

    It is as if d further photos (as many as there are features) had been seen, spread alike in every
    direction: the mean of the posterior under an inverse Wishart prior of that strength.

    Args:
        covariance: Covariance S [d, d].
        photos: Number n of photos that S was computed from.
    """
    d = len(covariance)
    spread = max(np.trace(covariance) / d, 1e-12)
    shrunk: Features = photos * covariance
    shrunk[np.diag_indices(d)] += d * spread
    shrunk /= photos + d
    return shrunk
