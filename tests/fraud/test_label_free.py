"""Artificial outliers are rows as they could be, made alike every time, and a better detector finds more of them."""

from __future__ import annotations

import numpy as np
import pytest

from fraud import forest, label_free, metrics
from fraud.errors import DataError
from fraud.forest import ForestConfig


def _rows(n: int = 4000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Six correlated inputs, the last three the indicators of one category."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(2 * n, 1))
    numbers = common + 0.3 * rng.normal(size=(2 * n, 3))
    X = np.concatenate([numbers, np.eye(3)[rng.integers(0, 3, 2 * n)]], axis=1).astype(np.float32)
    return X[:n], X[n:]


STARTS = np.array([0, 1, 2, 3, 6])


def test_real_rows_come_first_and_as_they_were() -> None:
    x_fit, x_validation = _rows()
    X, labels = label_free.synthetic_outliers(x_fit, x_validation, 3, STARTS)
    assert X.dtype == np.float32 and labels.dtype == np.int8 and len(X) == len(labels)
    assert (X[labels == 0] == x_validation).all() and (labels[: len(x_validation)] == 0).all()
    assert (labels == 1).sum() == 200
    many = np.repeat(x_validation, 3, axis=0)
    assert label_free.synthetic_outliers(x_fit, many, 3)[1].sum() == 600


def test_the_seed_decides() -> None:
    x_fit, x_validation = _rows()
    first, _ = label_free.synthetic_outliers(x_fit, x_validation, 3, STARTS)
    assert (first == label_free.synthetic_outliers(x_fit, x_validation, 3, STARTS)[0]).all()
    assert (first != label_free.synthetic_outliers(x_fit, x_validation, 4, STARTS)[0]).any()


def test_values_are_those_of_training_rows_and_a_features_inputs_stay_together() -> None:
    x_fit, x_validation = _rows()
    X, labels = label_free.synthetic_outliers(x_fit, x_validation, 0, STARTS)
    made = X[labels == 1]
    assert (made[:, 3:].sum(axis=1) == 1).all()  # still one category each
    for j in range(3):
        assert np.isin(made[:, j], np.r_[x_fit[:, j], x_validation[:, j]]).all()
        strange = ~np.isin(made[:, j], x_validation[:, j])
        assert strange.mean() > 0.2
    # Without the bounds every input goes its own way, and most such rows have no category or several.
    apart = label_free.synthetic_outliers(x_fit, x_validation, 0)[0][labels == 1]
    assert (apart[:, 3:].sum(axis=1) != 1).mean() > 0.2


def test_another_scaling_makes_the_same_outliers() -> None:
    x_fit, x_validation = _rows()
    X, _ = label_free.synthetic_outliers(x_fit, x_validation, 5, STARTS)
    scaled, _ = label_free.synthetic_outliers(2 * x_fit + 1, 2 * x_validation + 1, 5, STARTS)
    assert scaled == pytest.approx(2 * X + 1)


def test_a_better_detector_finds_more_of_them() -> None:
    x_fit, x_validation = _rows()
    X, labels = label_free.synthetic_outliers(x_fit, x_validation, 0, STARTS)
    found = [
        metrics.average_precision(labels, forest.fit(x_fit, config, 0).score(X))
        for config in (ForestConfig(n_estimators=1, max_samples=8), ForestConfig(n_estimators=100, max_samples=256))
    ]
    chance = labels.mean()
    assert chance < found[0] < found[1] - 0.1


def test_awkward_rows() -> None:
    one = np.zeros((1, 2), np.float32)
    X, labels = label_free.synthetic_outliers(one, one, 0)
    assert len(X) == 201 and labels.sum() == 200
    for fit, validation in ((one[:0], one), (one, one[:0]), (one, np.zeros((4, 3), np.float32))):
        with pytest.raises(DataError, match="artificial outliers need rows of equal width"):
            label_free.synthetic_outliers(fit, validation, 0)
