"""An objective for data without labels: how well a detector tells real rows from artificial outliers.

The outliers are copies of validation rows in which some inputs have been replaced by extreme values of other rows
(group "uses genuine instances" of Steinbuss and Boehm, "Generating artificial outliers in the absence of genuine ones:
a survey", ACM TKDD 2021). docs/experiments.md has how far the order that it puts detectors in agrees with that of
frauds, and the constructions that did worse.
"""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fraud.errors import DataError

# What a sweep calls the average precision of a detector at finding the artificial outliers.
OBJECTIVE = "synthetic_average_precision"
# Artificial outliers a real row: few, as frauds are, but enough of them that their luck decides nothing.
_SHARE = 0.05
_FEWEST = 200
# Replacements come from the rows with an input's this many largest or smallest values.
_TAIL = 0.01


def synthetic_outliers(
    x_fit: NDArray[np.float32], x_validation: NDArray[np.float32], seed: int, starts: ArrayLike | None = None
) -> tuple[NDArray[np.float32], NDArray[np.int8]]:
    """Validation rows, and after them the artificial outliers made of them.

    x_fit: float32 (n_fit, n_inputs), the training rows whose values are taken. x_validation: float32 (n_rows,
    n_inputs). starts: int64 (n_raw + 1,) first input of each raw feature (`FeatureMap.starts`): the inputs of one
    feature, such as the indicators of a category, are replaced together, or else no such row could ever be; None: each
    input is a feature. The same seed and rows give the same outliers of the same raw values under any scaling.

    Returns X float32 (n_rows + n_outliers, n_inputs) and labels int8, 1 = artificial: a twentieth of the rows, at least
    200. Raises DataError when either has no row or they differ in width.
    """
    if not len(x_fit) or not len(x_validation) or x_fit.shape[1] != x_validation.shape[1]:
        raise DataError(
            f"artificial outliers need rows of equal width to be made of, got training {x_fit.shape} and validation "
            f"{x_validation.shape}: widen the windows of the split"
        )
    rng = np.random.default_rng(seed)
    bounds = np.arange(x_fit.shape[1] + 1) if starts is None else np.asarray(starts)
    features = [slice(first, end) for first, end in itertools.pairwise(bounds) if end > first]
    n = max(_FEWEST, round(_SHARE * len(x_validation)))
    outliers = x_validation[rng.integers(0, len(x_validation), n)].astype(np.float32)
    replaced = rng.integers(1, len(features) + 1, n)
    is_replaced = rng.random((n, len(features))).argsort(axis=1) < replaced[:, None]
    tail = max(1, round(_TAIL * len(x_fit)))
    for place, inputs in enumerate(features):
        ascending = np.argsort(x_fit[:, inputs.start], kind="stable")
        donors = np.where(
            rng.random(n) < 0.5, ascending[rng.integers(0, tail, n)], ascending[-rng.integers(1, tail + 1, n)]
        )
        rows = np.flatnonzero(is_replaced[:, place])
        outliers[rows, inputs] = x_fit[donors[rows], inputs]
    labels = np.zeros(len(x_validation) + n, dtype=np.int8)
    labels[len(x_validation) :] = 1
    return np.concatenate([x_validation.astype(np.float32), outliers]), labels
