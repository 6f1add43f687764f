"""An objective for data without labels: how well a detector separates real rows from artificial outliers.

Outliers are copies of validation rows with at least half of the inputs moved away from their medians, by little enough
to be hard to detect (see Steinbuss and Boehm, "Generating artificial outliers in the absence of genuine ones: a
survey", ACM TKDD 2021). docs/experiments.md compares its ranking of detectors with that by frauds, and with other
constructions.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fraud.errors import DataError

# Name of the objective in a sweep: average precision on the artificial outliers.
OBJECTIVE = "synthetic_average_precision"
# Artificial outliers per real row: few, like frauds, but enough for a stable estimate.
_SHARE = 0.05
_FEWEST = 200
# Factors by which the distance from the median grows.
_STRETCH = (1.2, 2.0)


def synthetic_outliers(
    x_fit: NDArray[np.float32], x_validation: NDArray[np.float32], seed: int
) -> tuple[NDArray[np.float32], NDArray[np.int8]]:
    """Validation rows, followed by artificial outliers made from them.

    x_fit: float32 (n_fit, n_inputs), training rows, for medians and ranges. Outliers stay within each input's range in
    both sets, so category indicators stay 0 or 1. x_validation: float32 (n_rows,
    n_inputs). The same seed and rows give the same outliers, under any linear scaling of the inputs.

    Returns X float32 (n_rows + n_outliers, n_inputs) and labels int8, 1 = artificial: 5 % of the rows, at least 200.
    Raises DataError if a set is empty or the widths differ.
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
