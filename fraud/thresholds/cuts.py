"""Candidate cuts for a threshold, and the cut that each policy chooses.

Only a cut at the score of a fraud, or no alerts at all, can be optimal: lowering a cut past legitimate rows only adds
false alarms and catches nothing. So a million rows with ten thousand frauds have at most ten thousand cuts, and a
bootstrap resample is one multinomial draw over them instead of a new sort of a million rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fraud.metrics.ranking import Floats, Ints, check_fraud_amounts, largest_count
from fraud.thresholds.policies import ThresholdConfig


@dataclass(frozen=True)
class Cuts:
    """The rows of a window, counted between the distinct scores of its frauds.

    values: float64 (n_cuts,), descending: just above every score ("no alerts"), then the frauds' distinct scores.
    legitimate: int64 (n_cuts,), legitimate rows that each cut adds to the alerts; 0 for the first.
    unalerted: number of legitimate rows below every fraud.
    unlabelled: int64 (n_cuts + 1,), rows of unknown label that each cut adds; the last: below every fraud.
    first_fraud: int64 (n_cuts - 1,), position in `amounts` of each fraud score's first fraud.
    amounts: float64 (n_frauds,), the frauds' amounts by descending score; None: all frauds weigh the same.
    n_frauds: frauds in the window, at least 1.
    """

    values: Floats
    legitimate: Ints
    unalerted: int
    unlabelled: Ints
    first_fraud: Ints
    amounts: Floats | None
    n_frauds: int

    @classmethod
    def of(cls, scores: Floats, labels: NDArray[np.int8], amounts: ArrayLike | None = None) -> Cuts:
        """Count scores (n_rows,) with labels (n_rows,) of 1, 0, -1, at least one 1. Raises DataError (amounts)."""
        is_fraud = labels == 1
        order = np.argsort(-scores[is_fraud], kind="stable")
        ascending, counts = np.unique(scores[is_fraud], return_counts=True)
        counts_between = _count_between(ascending, scores[labels == 0])
        return cls(
            values=np.r_[just_above(scores), ascending[::-1]],
            legitimate=np.r_[0, counts_between[:0:-1]],
            unalerted=int(counts_between[0]),
            unlabelled=np.r_[0, _count_between(ascending, scores[labels == -1])[::-1]],
            first_fraud=np.r_[0, np.cumsum(counts[::-1])[:-1]],
            amounts=None if amounts is None else check_fraud_amounts(amounts, labels)[is_fraud][order],
            n_frauds=order.size,
        )

    def choose(self, config: ThresholdConfig) -> float:
        """The threshold that `config.policy` chooses on these rows."""
        ones = np.ones(self.n_frauds, np.int64)
        return float(self.values[self._best(config, self.legitimate, self.unalerted, ones, self.unlabelled)])

    def resample(self, config: ThresholdConfig, rng: np.random.Generator, resamples: int) -> Floats:
        """The thresholds chosen on `resamples` resamples of the rows; resamples without a fraud are left out."""
        n_cuts = self.values.size
        frauds = slice(n_cuts + 1, n_cuts + 1 + self.n_frauds)
        cells = np.r_[self.legitimate, self.unalerted, np.ones(self.n_frauds, np.int64)]
        if config.contamination is not None:  # a share of all rows, so unlabelled rows are drawn as well
            cells = np.r_[cells, self.unlabelled]
        n_rows = int(cells.sum())
        # Measured: a multinomial draw costs about 100 ns per cell, drawing single rows about 15 ns per row.
        cell_of_row = np.repeat(np.arange(cells.size), cells) if cells.size * 8 > n_rows else None
        chosen = []
        for _ in range(resamples):
            if cell_of_row is None:
                drawn = rng.multinomial(n_rows, cells / n_rows)
            else:
                drawn = np.bincount(cell_of_row[rng.integers(0, n_rows, n_rows)], minlength=cells.size)
            if drawn[frauds].any():
                unlabelled = drawn[frauds.stop :]
                chosen.append(self._best(config, drawn[:n_cuts], int(drawn[n_cuts]), drawn[frauds], unlabelled))
        return self.values[np.array(chosen, dtype=np.int64)]

    def _best(self, config: ThresholdConfig, legitimate: Ints, unalerted: int, weights: Ints, unlabelled: Ints) -> int:
        """Position in `values` of the best cut, the strictest if several tie; each fraud counts `weights` times."""
        false_alarms = np.cumsum(legitimate)
        caught = self._caught(weights)
        allowed = self.values.size
        if config.contamination is not None:
            called = false_alarms + caught + np.cumsum(unlabelled[:-1])
            n_rows = int(called[-1]) + unalerted + int(unlabelled[-1])
            limit = largest_count(config.contamination, n_rows)
            allowed = int(np.searchsorted(called, limit, side="right"))  # "no alerts" at least
        if config.policy == "cost":
            loss = self._caught(weights * (config.cost_false_negative if self.amounts is None else self.amounts))
            cost = (
                config.cost_false_positive * false_alarms
                + config.cost_true_negative * (false_alarms[-1] + unalerted - false_alarms)
                + config.cost_true_positive * caught
                + (loss[-1] - loss)
            )
            return int(np.argmin(cost[:allowed]))
        alerts = false_alarms + caught
        if config.policy == "precision_at_least":
            precision = (caught / np.maximum(alerts, 1))[:allowed]
            enough = precision >= min(config.precision, precision.max())
            return int(np.argmax(np.where(enough, caught[:allowed], -1)))
        beta = config.beta**2
        return int(np.argmax(((1 + beta) * caught / (beta * caught[-1] + alerts))[:allowed]))

    def _caught(self, quantity: np.ndarray) -> np.ndarray:
        return np.r_[0, np.cumsum(np.add.reduceat(quantity, self.first_fraud))]


def budget_cut(scores: Floats, limit: int, rng: np.random.Generator, resamples: int) -> tuple[float, Floats]:
    """The lowest threshold with at most `limit` alerts among scores (n_rows,), and the threshold of each resample.

    The threshold lies just above the (limit + 1)-th highest score. Its rank in a resample follows n_rows x
    Beta(limit + 1, n_rows - limit), an order statistic of uniform draws, so no rows need to be drawn or sorted.
    """
    ascending = np.sort(scores)
    n = ascending.size
    drawn = np.empty(0)
    if limit < n:
        drawn = np.clip(np.ceil(n * rng.beta(limit + 1, n - limit, resamples)), 1, n) - 1
    chosen = cuts_within(ascending, np.r_[limit, drawn].astype(np.int64))
    return float(chosen[0]), chosen[1:]


def cuts_within(ascending: Floats, limits: Ints) -> Floats:
    """The lowest threshold with at most limits[i] alerts, float64 (n_limits,), among scores sorted upwards."""
    n = ascending.size
    first_over = ascending[n - 1 - np.minimum(limits, n - 1)]
    candidates = np.r_[ascending, just_above(ascending)]
    return np.where(limits >= n, ascending[0], candidates[np.searchsorted(ascending, first_over, side="right")])


def budget_limit(config: ThresholdConfig, n_rows: int, days: float | None) -> int:
    """Maximum number of alerts of policy "alert_budget" on n_rows rows; with alerts_per_day, in `days` days."""
    share, total = (config.budget, n_rows) if config.alerts_per_day is None else (config.alerts_per_day, days)
    limit = largest_count(share, total)  # type: ignore[arg-type]
    return limit if config.contamination is None else min(limit, largest_count(config.contamination, n_rows))


def _count_between(ascending: Floats, scores: Floats) -> Ints:
    """Number of scores below every fraud, and from each distinct fraud score up to the next."""
    return np.bincount(np.searchsorted(ascending, scores, side="right"), minlength=ascending.size + 1)


def missed_loss(labels: NDArray[np.int8], config: ThresholdConfig, amounts: ArrayLike | None) -> Floats:
    """Cost of missing each row, float64 (n_rows,); 0 unless it is a fraud. Raises DataError (amounts)."""
    if amounts is None:
        return np.where(labels == 1, float(config.cost_false_negative), 0.0)
    return np.where(labels == 1, check_fraud_amounts(amounts, labels), 0.0)


def just_above(scores: Floats) -> float:
    """The smallest number above every score: the threshold without alerts."""
    return float(np.nextafter(scores.max(), np.inf))
