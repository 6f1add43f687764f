"""Fit the forest and the supervised head in Ray tasks. The number of tasks does not change the result."""

from __future__ import annotations

import logging
import time
from typing import Any

import numpy as np
import ray

from fraud.detectors import forest, head
from fraud.detectors.forest import ForestConfig
from fraud.detectors.head import Head, HeadConfig
from fraud.errors import FraudError

logger = logging.getLogger(__name__)

# How often Ray retries a task whose worker died.
MAX_FAILURES = 3


def fit_forest(x_fit: ray.ObjectRef, config: ForestConfig, seed: int, cpus: float) -> forest.Forest:
    """Fit the forest, one task per group of trees.

    x_fit: reference to a float32 array (n_rows, n_inputs); cpus: CPUs per task. Raises DataError.
    """
    task = ray.remote(num_cpus=cpus, max_retries=MAX_FAILURES)(forest.fit_trees)
    return forest.merge(_results([task.remote(x_fit, config, seed, group) for group in range(forest.n_groups(config))]))


def fit_head(X: np.ndarray, labels: np.ndarray, config: HeadConfig, seed: int, *, cpus: float) -> Head:
    """Fit the supervised head, one task per ensemble member. X: float64 (n_rows, n_inputs). Raises DataError."""
    started = time.perf_counter()
    task = ray.remote(num_cpus=cpus, max_retries=MAX_FAILURES)(head.fit_member)
    x_ref, labels_ref = ray.put(X), ray.put(labels)
    fitted = head.merge(
        _results([task.remote(x_ref, labels_ref, config, seed, member) for member in range(config.members)])
    )
    logger.info(
        "head: %d trees of %d members on %s rows, %s frauds: %.1f s",
        len(fitted.roots), config.members, f"{len(X):,}", f"{(labels == 1).sum():,}", time.perf_counter() - started,
    )  # fmt: skip
    return fitted


def _results(tasks: list[ray.ObjectRef]) -> list[Any]:
    try:
        return ray.get(tasks)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, FraudError):
            raise error.cause from None  # Ray's own message is a page with the task's stack
        raise
