"""Bootstrap of many metrics and several scores on the same resamples: each score is sorted once, then reweighted.

A resample is an integer weight per row. Rows of one card are drawn together (cluster bootstrap: Cameron, Gelbach and
Miller 2008, section II), because the frauds of one stolen card are correlated and drawing single rows would give
intervals that are too narrow. Scores measured on the same resamples are paired: the interval of their difference
excludes the variation that they share.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fraud.errors import ConfigError
from fraud.metrics.ranking import Floats, Ints, SortedRows

Interval = tuple[float, float]
LEVEL = 0.95


class WeightedRanking:
    """One score's labelled rows, sorted once. `count` takes a weight per row, int64 (n_rows,), or None for ones.

    labels: (n_rows,) of 1 and 0, both present. scores: (n_rows,), higher = more suspicious. losses: (n_rows,) currency
    units, cost of missing the row, or None. Rows of equal score have no order (see `fraud.metrics.measures`).
    Raises DataError as `fraud.metrics.ranking.rank`.
    """

    def __init__(self, labels: ArrayLike, scores: ArrayLike, losses: ArrayLike | None = None) -> None:
        rows = SortedRows.of(labels, scores)
        self.size = rows.order.size
        self._order, self._scores, self._ends = rows.order, rows.scores, rows.ends
        self._frauds = np.flatnonzero(rows.is_fraud)
        self._losses = None if losses is None else np.asarray(losses, dtype=np.float64)[rows.order[self._frauds]]
        # Groups of equal scores with a fraud: position before the group, last position, and first fraud.
        groups, self._firsts = np.unique(np.searchsorted(self._ends, self._frauds), return_index=True)
        self._last = self._ends[groups]
        self._before = np.r_[-1, self._ends][groups]

    def count(self, weights: Ints | None = None) -> WeightedCounts:
        """Cumulative counts of alerts, frauds and losses from the top."""
        alerts = np.arange(1, self.size + 1) if weights is None else np.cumsum(weights[self._order])
        drawn = np.ones(self._frauds.size, np.int64) if weights is None else weights[self._order[self._frauds]]
        return WeightedCounts(self, np.r_[0, alerts], drawn)

    def alerts_at(self, value: float) -> int:
        """Number of rows with score >= value."""
        return int(np.searchsorted(-self._scores, -value, side="right"))


class WeightedCounts:
    """Metrics of one weighting. NaN if undefined (a resample without a fraud, no alert)."""

    def __init__(self, ranking: WeightedRanking, alerts: Ints, drawn: Ints) -> None:
        self._ranking, self._alerts = ranking, alerts  # alerts[i]: weight of the first i rows
        self._drawn = drawn
        self._caught = np.r_[0, np.cumsum(drawn)]
        self.rows, self.frauds = int(alerts[-1]), int(self._caught[-1])
        self._loss = None if ranking._losses is None else np.r_[0.0, np.cumsum(drawn * ranking._losses)]

    @property
    def has_both(self) -> bool:
        """Whether both frauds and legitimate rows were drawn."""
        return 0 < self.frauds < self.rows

    def average_precision(self) -> float:
        """As `fraud.metrics.measures.average_precision`."""
        if not self.has_both:
            return float("nan")
        in_group = np.add.reduceat(self._drawn, self._ranking._firsts)
        precision = np.cumsum(in_group) / np.maximum(self._alerts[self._ranking._last + 1], 1)
        return float(np.sum(in_group * precision) / self.frauds)

    def roc_auc(self) -> float:
        """As `fraud.metrics.measures.roc_auc`."""
        if not self.has_both:
            return float("nan")
        in_group = np.add.reduceat(self._drawn, self._ranking._firsts)
        before = self._alerts[self._ranking._before + 1] - (np.cumsum(in_group) - in_group)
        through = self._alerts[self._ranking._last + 1] - np.cumsum(in_group)
        legitimate = self.rows - self.frauds
        return float(np.sum(in_group * (legitimate - (before + through) / 2)) / (self.frauds * legitimate))

    def above(self, value: float) -> dict[str, float]:
        """Metrics of alerting on score >= value: alerts, alert_rate, precision, recall, false_positive_rate, ..."""
        n_rows = self._ranking.alerts_at(value)
        frauds = int(np.searchsorted(self._ranking._frauds, n_rows))
        loss = None if self._loss is None else float(self._loss[frauds])
        return self._figures(float(self._alerts[n_rows]), float(self._caught[frauds]), loss)

    def top(self, n_alerts: float) -> dict[str, float]:
        """Metrics of alerting on the `n_alerts` highest scores, expected over ties; as `above`."""
        n_alerts = min(n_alerts, float(self.rows))
        ends = self._ranking._ends
        at = min(int(np.searchsorted(self._alerts[ends + 1], n_alerts)), ends.size - 1)
        edges = [0 if at == 0 else int(ends[at - 1]) + 1, int(ends[at]) + 1]
        alerts = self._alerts[edges]
        part = (n_alerts - alerts[0]) / (alerts[1] - alerts[0]) if alerts[1] > alerts[0] else 1.0
        fraud_counts = np.searchsorted(self._ranking._frauds, edges)

        def within(caught: np.ndarray) -> float:
            low, high = caught[fraud_counts]
            return float(low + part * (high - low))

        return self._figures(n_alerts, within(self._caught), None if self._loss is None else within(self._loss))

    def _figures(self, alerts: float, caught: float, loss: float | None) -> dict[str, float]:
        legitimate, total = self.rows - self.frauds, 0.0 if self._loss is None else float(self._loss[-1])
        figures = {
            "alerts": alerts,
            "alert_rate": _share(alerts, self.rows),
            "precision": _share(caught, alerts),
            "recall": _share(caught, self.frauds),
            "false_positive_rate": _share(alerts - caught, legitimate),
        }
        if loss is not None:
            figures["amount_recall"] = _share(loss, total)
            figures["amount_missed"] = total - loss
        return figures


def resample_weights(n_rows: int, n: int, seed: int, clusters: ArrayLike | None = None) -> Iterable[Ints]:
    """Yield `n` resamples as weights, int64 (n_rows,).

    clusters: (n_rows,) codes from 0; rows of a cluster are drawn together.
    The same arguments give the same resamples, so metrics are paired. Raises ConfigError for n below 1.
    """
    if n < 1:
        raise ConfigError(f"{n} resamples: ask for at least 1")
    rng = np.random.default_rng(seed)
    codes = None if clusters is None else np.asarray(clusters, dtype=np.int64)
    n_units = n_rows if codes is None else int(codes.max()) + 1
    for _ in range(n):
        drawn = np.bincount(rng.integers(0, n_units, n_units), minlength=n_units)
        yield drawn if codes is None else drawn[codes]


def measure_resamples(
    measure: Callable[[Ints | None], Mapping[str, float]], weights: Iterable[Ints]
) -> tuple[dict[str, float], dict[str, Floats]]:
    """Measure the original rows and every resample: ({name: value}, {name: float64 (n,)}), NaN if undefined.

    measure: takes weights (None: the original rows) and returns metrics by name.
    """
    point = dict(measure(None))
    drawn_figures = [measure(drawn) for drawn in weights]
    return point, {name: np.array([figures.get(name, np.nan) for figures in drawn_figures]) for name in point}


def interval(values: ArrayLike, level: float = LEVEL) -> Interval | None:
    """Percentile interval (Efron, 1979) of the finite values; None if fewer than half of the values are finite."""
    array: NDArray[np.float64] = np.asarray(values, dtype=np.float64)
    finite = array[np.isfinite(array)]
    if finite.size < max(2, array.size / 2):
        return None
    low, high = np.quantile(finite, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def wilson(hits: float, trials: float, z: float = 1.96) -> Interval | None:
    """Interval of a share (Wilson, 1927); valid for few trials and shares near 0 and 1. None without trials."""
    if trials <= 0:
        return None
    share, spread = hits / trials, z * z / trials
    middle = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * float(np.sqrt(share * (1 - share) / trials + spread / (4 * trials)))
    return max(0.0, middle - half), min(1.0, middle + half)


def _share(part: float, total: float) -> float:
    return part / total if total > 0 else float("nan")
