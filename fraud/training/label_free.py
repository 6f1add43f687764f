"""An objective for data without labels: how well a detector tells real rows from artificial outliers.

The outliers are copies of validation rows with at least half of the inputs moved away from their medians, near enough
to be hard to find (of the constructions that alter genuine rows: Steinbuss and Boehm, "Generating artificial outliers
in the absence of genuine ones: a survey", ACM TKDD 2021). docs/experiments.md has how far the order that it puts
detectors in agrees with that of the frauds, where it misleads, and the constructions that did worse.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fraud.errors import DataError

# What a sweep calls the average precision of a detector at finding the artificial outliers.
OBJECTIVE = "synthetic_average_precision"
# Artificial outliers a real row: few, as frauds are, but enough of them that their luck decides nothing.
_SHARE = 0.05
_FEWEST = 200
# How many times as far from the median an input is moved.
_STRETCH = (1.2, 2.0)


def synthetic_outliers(
    x_fit: NDArray[np.float32], x_validation: NDArray[np.float32], seed: int
) -> tuple[NDArray[np.float32], NDArray[np.int8]]:
    """Validation rows, and after them the artificial outliers made of them.

    x_fit: float32 (n_fit, n_inputs), the training rows, whose medians and ranges are used: an outlier stays within the
    values that each input has in either set, so indicators of categories stay 0 or 1. x_validation: float32 (n_rows,
    n_inputs). The same seed and rows give the same outliers, under any linear scaling of the inputs.

    Returns X float32 (n_rows + n_outliers, n_inputs) and labels int8, 1 = artificial: a twentieth of the rows, at least
    200. Raises DataError when either has no row or they differ in width.
    """
    if not len(x_fit) or not len(x_validation) or x_fit.shape[1] != x_validation.shape[1]:
        raise DataError(
            f"artificial outliers need rows of equal width to be made of, got training {x_fit.shape} and validation "
            f"{x_validation.shape}: widen the windows of the split"
        )
    rng = np.random.default_rng(seed)
    n, n_inputs = max(_FEWEST, round(_SHARE * len(x_validation))), x_fit.shape[1]
    rows = x_validation[rng.integers(0, len(x_validation), n)]
    moved = rng.integers(-(-n_inputs // 2), n_inputs + 1, n)
    is_moved = rng.random((n, n_inputs)).argsort(axis=1).argsort(axis=1) < moved[:, None]
    center = np.median(x_fit, axis=0)
    far = center + rng.uniform(*_STRETCH, (n, 1)) * (rows - center)
    low, high = (np.minimum(x_fit.min(0), x_validation.min(0)), np.maximum(x_fit.max(0), x_validation.max(0)))
    outliers = np.where(is_moved, np.clip(far, low, high), rows)
    labels = np.zeros(len(x_validation) + n, dtype=np.int8)
    labels[len(x_validation) :] = 1
    return np.concatenate([x_validation, outliers]).astype(np.float32), labels
