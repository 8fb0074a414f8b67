"""Accuracy is a mean over classes, and a few photos do not make one model better than another."""

from __future__ import annotations

import numpy as np

from lwm_edge.model.evaluation import is_clearly_better


def test_a_few_lucky_photos_do_not_decide() -> None:
    labels = np.array([0, 0, 0, 1, 1, 1])
    assert not is_clearly_better(labels, np.array([0, 0, 1, 1, 1, 0]), labels)  # two more right answers
    assert not is_clearly_better(labels, np.array([0, 1, 1, 1, 1, 0]), labels)  # three more may be chance
    many = np.repeat([0, 1], 20)
    assert is_clearly_better(many, np.where(np.arange(40) % 4 == 0, 1 - many, many), many)
    # Many photos of one class do not outvote the others.
    labels = np.concatenate([np.zeros(100, np.int64), [1, 2, 3, 4]])
    for_large, for_small = np.zeros(104, np.int64), np.where(np.arange(104) < 40, 1, labels)
    assert not is_clearly_better(for_large, for_small, labels)
