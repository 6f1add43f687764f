"""Fits in Ray tasks give what the same fits give in one process, and their mistakes come back in one line."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import ray

from cluster import tasks
from fraud.detectors import forest, head
from fraud.detectors.forest import ForestConfig
from fraud.detectors.head import HeadConfig
from fraud.errors import DataError

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(600, 4)).astype(np.float32)


def equal(one: object, other: object) -> bool:
    pairs = zip(vars(one).values(), vars(other).values(), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


def test_a_forest_of_tasks_is_the_forest(ray_session: None, x: np.ndarray):
    config = ForestConfig(n_estimators=60, max_samples=64)
    assert equal(tasks.fit_forest(ray.put(x), config, 7, 0.5), forest.fit(x, config, 7))


def test_a_head_of_tasks_is_the_head(ray_session: None, x: np.ndarray):
    labels = (x[:, 0] > 1.2).astype(np.int8)
    config = HeadConfig(members=2)
    fitted = tasks.fit_head(x.astype(np.float64), labels, config, 7, cpus=0.5)
    X = x.astype(np.float64)
    expected = head.merge([head.fit_member(X, labels, config, 7, member) for member in range(2)])
    assert all(np.array_equal(getattr(fitted, f.name), getattr(expected, f.name)) for f in dataclasses.fields(expected))


def test_a_mistake_in_a_task_is_the_users_error_without_rays_stack(ray_session: None, x: np.ndarray):
    with pytest.raises(DataError) as raised:
        tasks.fit_forest(ray.put(x[:1]), ForestConfig(), 7, 0.5)
    assert type(raised.value) is DataError and raised.value.__cause__ is None
    assert str(raised.value) == "IsolationForest needs at least 2 rows to fit, got 1: give more data"
