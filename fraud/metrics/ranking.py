"""Sort rows by score once and count alerts and frauds at every distinct cut; validate scores and labels.

Labels are 1 = fraud, 0 = legitimate, -1 = unknown. Rows of equal score form one cut.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fraud.errors import DataError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Ranking:
    """Alerts and frauds at every distinct cut, from the strictest to "alert on everything".

    values: float64 (n_cuts,), the distinct scores, descending; a cut alerts on the rows with score >= value.
    alerts: int64 (n_cuts,), rows alerted on at each cut; the last is the number of rows.
    frauds: int64 (n_cuts,), frauds among them; the last is the number of frauds.
    """

    values: Floats
    alerts: Ints
    frauds: Ints

    @property
    def precision(self) -> Floats:
        """Share of the alerts that are frauds, at each cut, shape (n_cuts,); 0 where a resample left no alert."""
        return self.frauds / np.maximum(self.alerts, 1)

    @property
    def recall(self) -> Floats:
        """Share of the frauds that are alerted on, at each cut, shape (n_cuts,)."""
        return self.frauds / self.frauds[-1]

    @property
    def false_positive_rate(self) -> Floats:
        """Share of the legitimate rows that are alerted on, at each cut, shape (n_cuts,)."""
        legitimate = self.alerts - self.frauds
        return legitimate / legitimate[-1]


@dataclass(frozen=True)
class SortedRows:
    """The labelled rows by descending score.

    order: int64 (n,), position among the labelled rows. scores: float64 (n,). is_fraud: bool (n,).
    ends: int64 (n_cuts,), the last position of every group of equal scores.
    """

    order: Ints
    scores: Floats
    is_fraud: NDArray[np.bool_]
    ends: Ints

    @classmethod
    def of(cls, labels: ArrayLike, scores: ArrayLike) -> SortedRows:
        """Sort scores (n_rows,). Raises DataError for NaN scores, unequal lengths, or unless both classes are there."""
        values = check_scores(scores)
        truth = check_labels(labels, values.size)
        check_classes(truth)
        values, truth = values[truth >= 0], truth[truth >= 0]
        order, ends = sort_descending(values)
        return cls(order, values[order], truth[order] == 1, ends)

    def ranking(self, weights: Ints | None = None) -> Ranking:
        """Count rows and frauds at every cut, each row `weights` times (default once)."""
        if weights is None:
            return Ranking(self.scores[self.ends], self.ends + 1, np.cumsum(self.is_fraud, dtype=np.int64)[self.ends])
        frauds = np.cumsum(weights * self.is_fraud)[self.ends]
        return Ranking(self.scores[self.ends], np.cumsum(weights)[self.ends], frauds)


def rank(labels: ArrayLike, scores: ArrayLike) -> Ranking:
    """Sort the labelled rows once and count alerts and frauds at every distinct cut.

    Raises DataError for NaN scores, unequal lengths, or when no row or only one class is labelled.
    """
    return SortedRows.of(labels, scores).ranking()


def sort_descending(scores: Floats) -> tuple[Ints, Ints]:
    """Positions by descending score, and the last position of every group of equal scores within that order."""
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    return order, np.flatnonzero(np.r_[ranked[1:] != ranked[:-1], np.ones(min(ranked.size, 1), bool)])


def check_scores(scores: ArrayLike) -> Floats:
    """Return scores as float64 (n_rows,). Raises DataError for another shape, NaN or infinity (names the first row)."""
    array = np.asarray(scores, dtype=np.float64)
    if array.ndim != 1:
        raise DataError(f"scores have shape {array.shape}: give one score a row, shape (n_rows,)")
    bad = np.flatnonzero(~np.isfinite(array))
    if bad.size:
        raise DataError(
            f"score of row {bad[0]} is {array[bad[0]]} ({bad.size} of {array.size} scores are NaN or infinite): "
            "score validated rows only, and check the features of that row"
        )
    return array


def check_labels(labels: ArrayLike, n_rows: int) -> NDArray[np.int8]:
    """Return labels as int8 (n_rows,) of 1, 0, -1. Raises DataError for another length or value (names the row)."""
    array = np.asarray(labels)
    if array.shape != (n_rows,):
        raise DataError(f"labels have shape {array.shape} and scores {(n_rows,)}: give one label a score")
    bad = np.flatnonzero(~np.isin(array, (-1, 0, 1)))
    if bad.size:
        raise DataError(f"label of row {bad[0]} is {str(array[bad[0]])!r}: use 1 = fraud, 0 = legitimate, -1 = unknown")
    return array.astype(np.int8)


def check_classes(labels: NDArray[np.int8]) -> None:
    """Raise DataError unless frauds and legitimate rows are both among the labels 1, 0, -1."""
    n_frauds, n_legitimate = np.count_nonzero(labels == 1), np.count_nonzero(labels == 0)
    if not n_frauds or not n_legitimate:
        missing = "fraud" if n_legitimate else "legitimate row" if n_frauds else "labelled row"
        raise DataError(
            f"no {missing} among {n_frauds + n_legitimate} labelled rows: ranking needs both, take a longer window"
        )


def check_fraud_amounts(amounts: ArrayLike, labels: NDArray[np.int8]) -> Floats:
    """Return amounts as float64 (n_rows,). Raises DataError for another length, or a fraud's amount NaN or negative.

    Only frauds' amounts are used, so a legitimate row may have a negative (refund) or missing amount.
    """
    array = np.asarray(amounts, dtype=np.float64)
    if array.shape != labels.shape:
        raise DataError(f"amounts have shape {array.shape} and labels {labels.shape}: give one amount a row")
    bad = np.flatnonzero((labels == 1) & ~((array >= 0) & np.isfinite(array)))
    if bad.size:
        raise DataError(
            f"amount of row {bad[0]}, a fraud, is {array[bad[0]]}: a loss must be a finite number >= 0; "
            "correct the row, or leave out the amounts to weight all missed frauds equally"
        )
    return array


def largest_count(share: float, total: float) -> int:
    """Largest integer whose ratio to `total` (rows, days) is at most `share`; exact: 0.29 of 100 is 29, not 28."""
    count = int(share * total) + 1
    while count / total > share:
        count -= 1
    return count
