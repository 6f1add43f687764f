"""The flat forest is scikit-learn's IsolationForest, however its trees were grown and split up."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.ensemble import IsolationForest

from fraud.detectors import forest
from fraud.detectors.forest import ForestConfig
from fraud.errors import ConfigError, DataError


def extremes(rng: np.random.Generator, fitted: IsolationForest, n: int, width: int) -> np.ndarray:
    """Random rows, rows that sit exactly on split thresholds (both roundings), repeated rows, zeros and huge values."""
    X = rng.normal(size=(n, width)).astype(np.float32)
    for estimator, columns in zip(fitted.estimators_[:20], fitted.estimators_features_[:20], strict=True):
        tree = estimator.tree_
        inner = np.flatnonzero(tree.children_left >= 0)[:20]
        for node in inner:
            column = columns[tree.feature[node]]
            for value in (
                np.float32(tree.threshold[node]),
                np.nextafter(np.float32(tree.threshold[node]), np.float32(np.inf)),
            ):
                X[rng.integers(n), column] = value
    X[0], X[1], X[2], X[3] = 0, 1e30, -1e30, X[4]
    X[5] = np.finfo(np.float32).tiny
    return X


@pytest.mark.parametrize(
    "settings",
    [{}, {"max_samples": 1.0}, {"max_features": 0.5}, {"bootstrap": True}, {"max_samples": 2}],
    ids=["defaults", "all rows", "half the features", "bootstrap", "two rows a tree"],
)
def test_flat_trees_score_as_scikit_learn_does(rng: np.random.Generator, settings: dict[str, object]) -> None:
    train = rng.normal(size=(1000, 5)).astype(np.float32)
    train[:100] = train[0]  # repeated rows end in leaves of several
    fitted = IsolationForest(n_estimators=30, random_state=0, **settings).fit(train)
    X = extremes(rng, fitted, 20_000, 5)
    np.testing.assert_allclose(forest.flatten(fitted).score(X), -fitted.score_samples(X), rtol=0, atol=1e-12)


def test_any_number_of_rows_scores_alike(rng: np.random.Generator) -> None:
    grown = forest.fit(rng.normal(size=(500, 3)).astype(np.float32), ForestConfig(n_estimators=10), seed=0)
    X = rng.normal(size=(300, 3)).astype(np.float32)
    scores = grown.score(X)
    for n in (0, 1, 7, 8, 9, 255, 256, 257):
        np.testing.assert_array_equal(grown.score(X[:n]), scores[:n])


def test_groups_grown_apart_merge_into_the_same_forest(rng: np.random.Generator) -> None:
    X = rng.normal(size=(800, 4)).astype(np.float32)
    config = ForestConfig(n_estimators=60)
    assert forest.n_groups(config) == 3
    parts = [forest.fit_trees(X, config, seed=3, group=group) for group in (2, 0, 1)]
    merged = forest.merge([parts[1], parts[2], parts[0]])
    assert len(merged.roots) == 60
    np.testing.assert_array_equal(merged.score(X), forest.fit(X, config, seed=3).score(X))


def test_seed_decides_the_forest(rng: np.random.Generator) -> None:
    X = rng.normal(size=(400, 4)).astype(np.float32)
    config = ForestConfig(n_estimators=20)
    np.testing.assert_array_equal(forest.fit(X, config, 1).score(X), forest.fit(X, config, 1).score(X))
    assert not np.array_equal(forest.fit(X, config, 1).score(X), forest.fit(X, config, 2).score(X))


def test_outliers_score_higher_than_the_crowd(rng: np.random.Generator) -> None:
    X = rng.normal(size=(2000, 4)).astype(np.float32)
    grown = forest.fit(X, ForestConfig(), 0)
    assert grown.score(np.full((1, 4), 6, dtype=np.float32))[0] > np.quantile(grown.score(X), 0.99)


def test_constant_data_scores_everything_alike() -> None:
    X = np.ones((100, 3), dtype=np.float32)
    scores = forest.fit(X, ForestConfig(n_estimators=5), 0).score(X)
    assert np.isfinite(scores).all()
    assert np.ptp(scores) == 0


def test_minus_zero_and_zero_go_the_same_way() -> None:
    X = np.repeat(np.array([[-1.0], [0.0], [1.0]], dtype=np.float32), 50, axis=0)
    fitted = IsolationForest(n_estimators=20, random_state=0).fit(X)
    zeros = np.array([[0.0], [-0.0], [1e-45], [-1e-45]], dtype=np.float32)
    np.testing.assert_allclose(forest.flatten(fitted).score(zeros), -fitted.score_samples(zeros), atol=1e-12)


def test_a_table_too_wide_for_a_node_is_refused_with_the_remedy(rng: np.random.Generator) -> None:
    X = np.zeros((50, 5000), dtype=np.float32)
    X[:, 4999] = rng.normal(size=50)
    with pytest.raises(ConfigError, match=r"5,000 inputs is too large.*max_categories"):
        forest.fit(X, ForestConfig(n_estimators=1), 0)


def test_one_row_is_refused() -> None:
    with pytest.raises(DataError, match="at least 2 rows"):
        forest.fit(np.zeros((1, 3), dtype=np.float32), ForestConfig(), 0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n_estimators", 0),
        ("contamination", 0.0),
        ("contamination", 0.7),
        ("max_features", 1.5),
        ("max_samples", "all"),
        ("max_samples", 0),
        ("max_samples", 1.5),
    ],
)
def test_settings_out_of_range_are_named(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"forest.{name}={value!r}"):
        ForestConfig(**{name: value})
