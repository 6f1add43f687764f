"""Raw detector scores to one score in [0, 1]: how rare a row is among normal rows.

Each raw score becomes evidence: -log10 of the share of normal rows that score at least as high. The tail is empirical,
extended beyond the data by an exponential fitted to the largest excesses (Pickands 1975, shape 0). The weighted sum of
the evidences is calibrated the same way, and evidence e becomes the score e / (e + 3). A supervised head's log-odds are
joined likewise. So scores have the same meaning in all model versions: 0.25 is 1 in 10 normal rows, 0.4 is 1 in 100,
0.5 is 1 in 1,000, 0.57 is 1 in 10,000.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from fraud.detectors import kernels
from fraud.detectors.base import Stored
from fraud.errors import ConfigError, DataError
from fraud.metrics import measures

# Evidence of a score of 0.5: one normal row in a thousand.
HALF_SCORE_EVIDENCE = 3.0
# The head already uses the evidence of both detectors. The validation window favours these two, which were stopped and
# weighted on it, so the head gets at least this weight (docs/experiments.md).
LOWEST_HEAD_WEIGHT = 0.8
_TAIL_ROWS = 0.01
_N_KNOTS = 128

Evidence = TypeVar("Evidence", float, np.ndarray)


@dataclass(frozen=True)
class Tail(Stored):
    """A monotone map from raw score to evidence.

    knots, evidence: float64 (n_knots,) ascending; slope: evidence per unit beyond the last knot.
    """

    knots: np.ndarray
    evidence: np.ndarray
    slope: float

    def __call__(self, raw: np.ndarray) -> np.ndarray:
        """Evidence, float64 (n_rows,), of raw scores, float64 (n_rows,)."""
        out = np.empty(len(raw))
        kernels.tail_evidences(np.ascontiguousarray(raw, dtype=np.float64), self.kernel_arguments, out)
        return out

    def is_sound(self) -> bool:
        """Whether the knots ascend and the lengths agree."""
        return len(self.knots) == len(self.evidence) > 0 and bool((np.diff(self.knots) > 0).all())

    @property
    def kernel_arguments(self) -> kernels.TailArguments:
        """Arguments of kernels.tail_evidences."""
        return kernels.TailArguments(self.knots, self.evidence, self.slope)


@dataclass(frozen=True)
class Calibration:
    """Tails and weights that turn raw scores into evidence.

    detectors: tail of each detector, by name. joint: tail of the weighted sum of the detectors without labels.
    forest_weight: of the forest against the autoencoder. final: tail of the weighted sum of head and joint evidence,
    None without a head. head_weight: of the head in that sum.
    """

    detectors: Mapping[str, Tail]
    joint: Tail
    forest_weight: float
    final: Tail | None = None
    head_weight: float = 0.0

    def evidence(self, raw: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Evidence of each detector and, as "joint", of all, float64 (n_rows,).

        raw: raw scores of the detectors without labels, by name, in order.
        """
        evidence = {name: self.detectors[name](scores) for name, scores in raw.items()}
        return {**evidence, "joint": self.joint(_weighted(list(evidence.values()), self.forest_weight))}


def weights(forest_weight: float, n_detectors: int) -> np.ndarray:
    """Weight of each detector without labels, float64 (n_detectors,), sum 1.

    Every detector has one share; forest and autoencoder divide their two shares by `forest_weight`.
    """
    pair = np.array([forest_weight, 1.0 - forest_weight]) * (2 / n_detectors)
    return np.concatenate([pair, np.full(n_detectors - 2, 1 / n_detectors)])


def fit(raw: Mapping[str, np.ndarray], labels: np.ndarray | None, forest_weight: float | None = None) -> Calibration:
    """Calibrate on rows that no detector was fitted on.

    raw: raw scores by detector, float64 (n_rows,), forest and autoencoder first. labels: int8 (n_rows,) 1 fraud, 0
    legitimate, -1 unknown, or None. forest_weight: in [0, 1]; default the best of 21 by average precision, or 0.5
    without frauds. Tails are fitted on the rows not known as fraud. Raises DataError on an empty window, ConfigError
    for a weight out of range.
    """
    if forest_weight is not None and not 0 <= forest_weight <= 1:
        raise ConfigError(
            f"forest_weight={forest_weight!r} must be a number in [0, 1], or None for the best on these rows"
        )
    n_rows = len(next(iter(raw.values())))
    normal = np.ones(n_rows, dtype=bool) if labels is None else labels != 1
    if not normal.any():
        raise DataError("no normal row to calibrate scores on: the validation window is empty or all fraud; enlarge it")
    tails = {name: fit_tail(scores[normal]) for name, scores in raw.items()}
    evidence = [tails[name](scores) for name, scores in raw.items()]
    if forest_weight is None:
        forest_weight = 0.5 if labels is None else best_weight(evidence[0], evidence[1], labels)
    joint = fit_tail(_weighted(evidence, forest_weight)[normal])
    return Calibration(tails, joint, float(forest_weight))


def fit_head(fitted: Calibration, joint: np.ndarray, log_odds: np.ndarray, labels: np.ndarray) -> Calibration:
    """Add the calibration of a supervised head, on the rows of `fit`, which the head must not have seen.

    joint: joint evidence, log_odds: of the head, float64 (n_rows,); labels as in `fit`.
    """
    normal = labels != 1
    tail = fit_tail(log_odds[normal])
    head = tail(log_odds)
    weight = best_weight(head, joint, labels, lowest=LOWEST_HEAD_WEIGHT)
    final = fit_tail(join(head, joint, weight)[normal])
    return replace(fitted, detectors={**fitted.detectors, "head": tail}, final=final, head_weight=weight)


def _weighted(evidence: list[np.ndarray], forest_weight: float) -> np.ndarray:
    """Sum in the order of kernels.score_rows, for the same rounding."""
    total = np.zeros(len(evidence[0]))
    for weight, values in zip(weights(forest_weight, len(evidence)), evidence, strict=True):
        total += weight * values
    return total


def join(first: np.ndarray, second: np.ndarray, weight: float) -> np.ndarray:
    """Weighted sum of two evidences. weight: of the first."""
    return weight * first + (1.0 - weight) * second


def to_score(evidence: Evidence) -> Evidence:
    """Score in [0, 1) of evidence >= 0, a number or an array."""
    return evidence / (evidence + HALF_SCORE_EVIDENCE)


def fit_tail(raw: np.ndarray) -> Tail:
    """Fit the tail of raw scores of normal rows, float64 (n_rows,)."""
    ordered = np.sort(np.asarray(raw, dtype=np.float64))
    n = len(ordered)
    # Survival of the i-th smallest of n, of n + 1: never 0, so that evidence is finite.
    deepest = np.log10(n + 1.0)
    targets = np.linspace(0.0, deepest, _N_KNOTS)
    rank = np.clip(np.round(n - 10.0 ** (deepest - targets) + 1).astype(np.int64), 0, n - 1)
    knots = np.unique(ordered[rank])
    # Ties have the evidence of the first of them: the share that scores at least as high.
    at_least = n - np.searchsorted(ordered, knots, side="left")
    evidence = -np.log10((at_least + 1.0) / (n + 1.0))
    top = ordered[-max(2, int(n * _TAIL_ROWS)) :]
    excess = float(np.mean(top - top[0]))
    scale = max(excess, 1e-3 * float(ordered[-1] - ordered[0]), 1e-9)
    return Tail(knots, np.maximum(evidence, 0.0), 1.0 / (scale * np.log(10.0)))


def best_weight(first: np.ndarray, second: np.ndarray, labels: np.ndarray, lowest: float = 0.0) -> float:
    """Weight of the first with the best average precision, in steps of 0.05 from `lowest` to 1.

    Among ties the nearest to the middle of the range; the middle if the labels lack one class.
    """
    known = labels >= 0
    weights = np.linspace(lowest, 1.0, round((1.0 - lowest) / 0.05) + 1)
    middle = 0.5 * (lowest + 1.0)
    if not (labels[known] == 1).any() or not (labels[known] == 0).any():
        return middle
    scores = [measures.average_precision(labels[known], join(first[known], second[known], w)) for w in weights]
    ties = weights[np.isclose(scores, max(scores), atol=1e-6)]
    return float(ties[np.abs(ties - middle).argmin()])
