"""Ranking metrics: average precision, ROC-AUC, precision@k, recall at a budget, card precision.

Higher scores are more suspicious. Labels are 1 = fraud, 0 = legitimate, -1 = unknown; rows with an unknown label are
left out everywhere. Rows of equal score have no order. If the k-th row is inside a group of ties, a count "in the top
k" is its expected value: frauds before the group + (rows taken from the group) x (the group's fraud share).
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fraud.errors import ConfigError, DataError
from fraud.metrics.ranking import (
    Ranking,
    SortedRows,
    check_classes,
    check_fraud_amounts,
    check_labels,
    check_scores,
    largest_count,
    rank,
    sort_descending,
)


def average_precision(labels: ArrayLike, scores: ArrayLike) -> float:
    """Area under the precision-recall steps, sum of precision x added recall (as scikit-learn). Raises as `rank`.

    Fast, because a search calls it thousands of times: sorts only the frauds and counts legitimate rows between them.
    """
    values = check_scores(scores)
    truth = check_labels(labels, values.size)
    check_classes(truth)
    frauds = np.sort(values[truth == 1])
    cuts, first = np.unique(frauds, return_index=True)
    caught = frauds.size - first  # at the cut of each distinct score of a fraud
    between = np.bincount(np.searchsorted(cuts, values[truth == 0], side="right"), minlength=cuts.size + 1)
    false_alarms = np.cumsum(between[::-1])[::-1][1:]
    added = -np.diff(caught, append=0)
    return float(np.sum(added * caught / (caught + false_alarms)) / frauds.size)


def roc_auc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Probability that a fraud scores above a legitimate row, ties counting one half. Raises as `rank`."""
    return _roc_auc(rank(labels, scores))


def precision_at_k(labels: ArrayLike, scores: ArrayLike, k: int = 100) -> float:
    """Share of frauds among the k highest scores (or among all rows), expected over ties. Raises as `rank`."""
    return _precision_at_k(rank(labels, scores), k)


def recall_at_budget(labels: ArrayLike, scores: ArrayLike, budget: float = 0.01) -> float:
    """Share of the frauds caught by alerting on the top `budget` share of rows, expected over ties. Raises as `rank`.

    The number of alerts is the largest within the budget, at least 1.
    """
    return _recall_at_budget(rank(labels, scores), budget)


def evaluate(
    labels: ArrayLike, scores: ArrayLike, *, budget: float = 0.01, k: int = 100, amounts: ArrayLike | None = None
) -> dict[str, float]:
    """All metrics of one score on one window, as plain floats.

    Keys: `n_rows` and `n_frauds` (labelled rows), `roc_auc`, `average_precision`, `precision_at_<k>`,
    `recall_at_budget`, and with `amounts` (currency units, one a row) `amount_recall_at_budget`: the share of the
    defrauded money that the same alerts catch. With one class or no labels: only the two counts.
    Raises DataError (NaN scores, unequal lengths, an impossible amount) or ConfigError (budget, k out of range).
    """
    values = check_scores(scores)
    truth = check_labels(labels, values.size)
    n_rows, n_frauds = int((truth >= 0).sum()), int((truth == 1).sum())
    alerts = _budget_alerts(budget, max(n_rows, 1))
    _check_k(k)
    figures = {"n_rows": float(n_rows), "n_frauds": float(n_frauds)}
    if n_frauds in (0, n_rows):
        return figures
    rows = SortedRows.of(truth, values)
    ranking = rows.ranking()
    figures["roc_auc"] = _roc_auc(ranking)
    figures["average_precision"] = _average_precision(ranking)
    figures[f"precision_at_{k}"] = _precision_at_k(ranking, k)
    figures["recall_at_budget"] = _recall_at_budget(ranking, budget)
    if amounts is not None:
        money = check_fraud_amounts(amounts, truth)[truth >= 0]
        caught = np.cumsum(np.where(rows.is_fraud, money[rows.order], 0.0))[rows.ends]
        if caught[-1] > 0:
            figures["amount_recall_at_budget"] = _in_top(ranking, caught, alerts) / float(caught[-1])
    return figures


def at_threshold(labels: ArrayLike | None, scores: ArrayLike, value: float) -> dict[str, float]:
    """Metrics of alerting on score >= value.

    Keys: `alerts` and `alert_rate` (of all rows, labelled or not); among the labelled rows, where they are defined,
    `precision` (needs an alert), `recall` and `f1` (need a fraud).

    Raises DataError (no rows, NaN scores, unequal lengths).
    """
    values = check_scores(scores)
    if not values.size:
        raise DataError("there are no scores to apply a threshold to: give a window with at least one transaction")
    alerted = values >= value
    figures = {"alerts": float(alerted.sum()), "alert_rate": float(alerted.mean())}
    if labels is None:
        return figures
    truth = check_labels(labels, values.size)
    n_frauds, n_alerts = int((truth == 1).sum()), int((alerted & (truth >= 0)).sum())
    caught = int((alerted & (truth == 1)).sum())
    if n_alerts:
        figures["precision"] = caught / n_alerts
    if n_frauds:
        figures["recall"] = caught / n_frauds
        figures["f1"] = 2 * caught / (n_frauds + n_alerts)
    return figures


def card_precision_at_k(
    labels: ArrayLike, scores: ArrayLike, cards: ArrayLike, days: ArrayLike, k: int = 100, *, known: Collection = ()
) -> float:
    """Mean over the days of (compromised cards among the k most suspicious cards of the day) / k.

    Arguments and errors as `daily_card_precision`.
    """
    return float(np.mean(list(daily_card_precision(labels, scores, cards, days, k, known=known).values())))


def daily_card_precision(
    labels: ArrayLike, scores: ArrayLike, cards: ArrayLike, days: ArrayLike, k: int = 100, *, known: Collection = ()
) -> dict[Any, float]:
    """Share of compromised cards among the k most suspicious cards of each day, {day: share}, oldest day first.

    A card's daily score is the highest of its transactions. It is compromised that day if one of them is a fraud. A
    compromised card detected on one day is left out on later days. The cards in `known` (known by the end of training
    plus label delay) are left out from the start. The divisor is k even on a day with fewer cards. Source: Fraud
    Detection Handbook (Le Borgne et al.), chapter 4, "Precision top-k metrics". Ties at rank k count their expected
    share; a card that is among the top k only in some tie orders stays on later days.

    cards: card or customer of each row; rows where it is missing are left out. days: day of each row, anything sortable
    (day numbers, datetime64[D]).
    Raises DataError (NaN scores, unequal lengths, no labelled row) or ConfigError (k).
    """
    import pandas as pd

    _check_k(k)
    values = check_scores(scores)
    truth = check_labels(labels, values.size)
    for name, column in (("cards", cards), ("days", days)):
        if np.shape(column) != values.shape:
            raise DataError(f"{name} have shape {np.shape(column)} and scores {values.shape}: give one a row")
    frame = pd.DataFrame({"day": np.asarray(days), "card": np.asarray(cards), "score": values, "fraud": truth})
    frame = frame[(frame["fraud"] >= 0) & ~frame["card"].isin(list(known))]
    daily = frame.groupby(["day", "card"], sort=True)[["score", "fraud"]].max().reset_index()
    if daily.empty:
        raise DataError("card precision needs a labelled row whose card is not known already: take a longer window")
    detected: set = set()
    precisions = {}
    for day, cards_of_day in daily.groupby("day"):
        left = cards_of_day[~cards_of_day["card"].isin(detected)]
        order, ends = sort_descending(left["score"].to_numpy())
        ranked = left.iloc[order]
        hits = np.cumsum(ranked["fraud"].to_numpy())
        precisions[day] = float(np.interp(k, np.r_[0, ends + 1], np.r_[0, hits[ends]])) / k
        certain = int((ends + 1)[ends + 1 <= k].max(initial=0))
        top = ranked.iloc[:certain]
        detected.update(top.loc[top["fraud"] == 1, "card"])
    return precisions


def bootstrap(
    metric: str | Callable[[np.ndarray, np.ndarray], float],
    labels: ArrayLike,
    scores: ArrayLike,
    *,
    n: int = 200,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float]:
    """Percentile interval (low, high) of a metric over `n` resamples of the labelled rows (Efron, 1979).

    metric: "average_precision", "roc_auc", "recall_at_budget" (1 % of rows), "precision_at_<k>", or any
    function(labels, scores). The named ones reweight one sorted array instead of sorting every resample.
    Resamples that lack a class are left out. Same seed, same interval.
    Raises ConfigError (unknown metric, n, level) or DataError (as `rank`).
    """
    if n < 1 or not 0 < level < 1:
        raise ConfigError(f"bootstrap n={n}, level={level}: n must be at least 1 and level between 0 and 1")
    by_rank = _named_metric(metric) if isinstance(metric, str) else None
    rows = SortedRows.of(labels, scores)
    size = rows.order.size
    rng = np.random.default_rng(seed)
    draws = []
    for _ in range(n):
        drawn = rng.integers(0, size, size)
        if by_rank is not None:
            sample = rows.ranking(np.bincount(drawn, minlength=size))
            if 0 < sample.frauds[-1] < sample.alerts[-1]:
                draws.append(by_rank(sample))
        elif 0 < rows.is_fraud[drawn].sum() < size:
            draws.append(float(metric(rows.is_fraud[drawn].astype(np.int8), rows.scores[drawn])))  # type: ignore[operator]
    if not draws:
        raise DataError(f"none of {n} resamples holds both classes: take a longer window or more resamples")
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _average_precision(ranking: Ranking) -> float:
    return float(np.sum(np.diff(ranking.recall, prepend=0.0) * ranking.precision))


def _roc_auc(ranking: Ranking) -> float:
    return float(np.trapezoid(np.r_[0.0, ranking.recall], np.r_[0.0, ranking.false_positive_rate]))


def _precision_at_k(ranking: Ranking, k: int) -> float:
    _check_k(k)
    k = min(k, int(ranking.alerts[-1]))
    return _in_top(ranking, ranking.frauds, k) / k


def _recall_at_budget(ranking: Ranking, budget: float) -> float:
    alerts = _budget_alerts(budget, int(ranking.alerts[-1]))
    return _in_top(ranking, ranking.frauds, alerts) / float(ranking.frauds[-1])


def _in_top(ranking: Ranking, caught: np.ndarray, k: int) -> float:
    # Within a group of ties the expected number of frauds grows linearly, so linear interpolation gives it.
    return float(np.interp(k, np.r_[0, ranking.alerts], np.r_[0, caught]))


def _budget_alerts(budget: float, n_rows: int) -> int:
    if not 0 < budget <= 1:
        raise ConfigError(f"budget={budget} is out of range: give the share of rows to alert on, above 0 and at most 1")
    return max(1, largest_count(budget, n_rows))


def _check_k(k: int) -> None:
    if k < 1:
        raise ConfigError(f"k={k} is out of range: precision@k needs k of at least 1")


def _named_metric(name: str) -> Callable[[Ranking], float]:
    if name == "average_precision":
        return _average_precision
    if name == "roc_auc":
        return _roc_auc
    if name == "recall_at_budget":
        return lambda ranking: _recall_at_budget(ranking, 0.01)
    digits = name.removeprefix("precision_at_")
    if digits != name and digits.isdecimal() and int(digits) > 0:
        return lambda ranking: _precision_at_k(ranking, int(digits))
    raise ConfigError(
        f"metric {name!r} is unknown: use average_precision, roc_auc, recall_at_budget, precision_at_<k> or a function"
    )
