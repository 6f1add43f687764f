"""Artificial outliers are rows as they could be, made alike every time, and a better detector finds more of them."""

from __future__ import annotations

import numpy as np
import pytest

from fraud.errors import DataError
from fraud.metrics import measures
from fraud.training import label_free


def _rows(n: int = 4000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Six correlated inputs, the last three the indicators of one category."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(2 * n, 1))
    numbers = common + 0.3 * rng.normal(size=(2 * n, 3))
    X = np.concatenate([numbers, np.eye(3)[rng.integers(0, 3, 2 * n)]], axis=1).astype(np.float32)
    return X[:n], X[n:]


def test_real_rows_come_first_and_as_they_were() -> None:
    x_fit, x_validation = _rows()
    X, labels = label_free.synthetic_outliers(x_fit, x_validation, 3)
    assert X.dtype == np.float32 and labels.dtype == np.int8 and len(X) == len(labels)
    assert (X[labels == 0] == x_validation).all() and (labels[: len(x_validation)] == 0).all()
    assert (labels == 1).sum() == 200
    many = np.repeat(x_validation, 3, axis=0)
    assert label_free.synthetic_outliers(x_fit, many, 3)[1].sum() == 600


def test_the_seed_decides() -> None:
    x_fit, x_validation = _rows()
    first, _ = label_free.synthetic_outliers(x_fit, x_validation, 3)
    assert (first == label_free.synthetic_outliers(x_fit, x_validation, 3)[0]).all()
    assert (first != label_free.synthetic_outliers(x_fit, x_validation, 4)[0]).any()


def test_outliers_are_real_rows_moved_away_from_the_middle_within_what_was_seen() -> None:
    x_fit, x_validation = _rows()
    X, labels = label_free.synthetic_outliers(x_fit, x_validation, 0)
    made, seen = X[labels == 1], np.concatenate([x_fit, x_validation])
    assert (made >= seen.min(axis=0)).all() and (made <= seen.max(axis=0)).all()
    assert np.isin(made[:, 3:], (0, 1)).all() and (made[:, 3:].sum(axis=1) == 1).all()  # still one category each
    is_unmoved = np.isin(made[:, :3], x_validation[:, :3])
    assert 0.1 < is_unmoved.mean() < 0.5 and is_unmoved.all(axis=1).mean() < 0.05
    assert 1.2 < made[:, :3].std() / x_validation[:, :3].std() < 2.0
    # An input that never varied stays as it is.
    constant = np.zeros((500, 1), np.float32)
    X, labels = label_free.synthetic_outliers(np.c_[x_fit[:500], constant], np.c_[x_validation[:500], constant], 0)
    assert (X[:, -1] == 0).all()


def test_another_scaling_makes_the_same_outliers() -> None:
    x_fit, x_validation = _rows()
    X, _ = label_free.synthetic_outliers(x_fit, x_validation, 5)
    scaled, _ = label_free.synthetic_outliers(2 * x_fit + 1, 2 * x_validation + 1, 5)
    assert scaled == pytest.approx(2 * X + 1, abs=1e-5)


def test_a_better_detector_finds_more_of_them() -> None:
    x_fit, x_validation = _rows()
    X, labels = label_free.synthetic_outliers(x_fit, x_validation, 0)
    numbers = X[:, :3]
    precision = np.linalg.inv(np.cov(x_fit[:, :3], rowvar=False))
    scores = {
        "noise": np.random.default_rng(0).random(len(X)),
        "one input": np.abs(numbers[:, 0]),
        "all inputs": (numbers**2).sum(axis=1),
        "all inputs and how they hang together": np.einsum("ij,jk,ik->i", numbers, precision, numbers),
    }
    measured = [measures.average_precision(labels, score) for score in scores.values()]
    assert measured[0] < 0.06 < 0.1 < min(measured[1:3]) and measured[3] > max(measured[1:3])


def test_awkward_rows() -> None:
    one = np.zeros((1, 2), np.float32)
    X, labels = label_free.synthetic_outliers(one, one, 0)
    assert len(X) == 201 and labels.sum() == 200
    for fit, validation in ((one[:0], one), (one, one[:0]), (one, np.zeros((4, 3), np.float32))):
        with pytest.raises(DataError, match="artificial outliers need rows of equal width"):
            label_free.synthetic_outliers(fit, validation, 0)
