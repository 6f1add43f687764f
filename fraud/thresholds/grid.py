"""Compare threshold policies, settings and limits on the scores of one window, by cross-validation.

A cut evaluated on the rows it was chosen on is overfitted. So every combination chooses its cut on one half of the
window and is evaluated on the other, and vice versa (two-fold cross-validation; the halves are consecutive in time).
Each half is sorted once and cuts are found by counting (`fraud.thresholds.cuts`), so a combination costs microseconds
regardless of the number of rows.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fraud.errors import ConfigError, DataError
from fraud.metrics.ranking import Floats, Ints, check_fraud_amounts, check_labels, check_scores
from fraud.thresholds.cuts import Cuts, budget_limit, cuts_within
from fraud.thresholds.policies import SETTINGS_OF, ThresholdConfig
from fraud.thresholds.selection import check_choice

# With fewer frauds per half the cut is mostly noise.
FRAUDS_A_HALF = 10


@dataclass(frozen=True)
class Point:
    """One combination and its result.

    judged: the judge's objective, mean of both halves, higher is better; None without labels. alert_rate (of all rows),
    precision (None without an alert), recall: over both halves, each with the cut chosen on the other half.
    value: the cut chosen on all rows of the window, as by `thresholds.choose`.
    """

    config: ThresholdConfig
    judged: float | None
    alert_rate: float
    precision: float | None
    recall: float | None
    value: float

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict: policy, its own settings, contamination and the figures."""
        figures = {"judged": self.judged, "alert_rate": self.alert_rate, "precision": self.precision}
        return {
            "policy": self.config.policy, "setting": setting_of(self.config),
            "contamination": self.config.contamination, **figures, "recall": self.recall, "value": self.value,
        }  # fmt: skip


@dataclass(frozen=True)
class Grid:
    """Results of all combinations.

    points: one per combination, in order. judge: name of the objective `judged`. note: empty, or a limitation of the
    figures. best: position of the best point, at ties the one with fewest alerts; None without labels. seconds:
    duration.
    """

    points: tuple[Point, ...]
    judge: str
    note: str
    best: int | None
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict."""
        points = [point.to_dict() for point in self.points]
        return {"points": points, "judge": self.judge, "note": self.note, "best": self.best, "seconds": self.seconds}


def evaluate(
    scores: ArrayLike,
    labels: ArrayLike | None,
    configs: Sequence[ThresholdConfig],
    judge: ThresholdConfig,
    *,
    days: float | None = None,
    amounts: ArrayLike | None = None,
) -> Grid:
    """Evaluate every combination of policy, settings and contamination on one window.

    scores: (n_rows,) in time order, higher = more suspicious. labels: (n_rows,) of 1, 0, -1 (unknown), or None. judge:
    its policy is the objective: "f_beta" or "best_f1" (F-beta), "cost" (minus the cost of 1,000 labelled transactions);
    its contamination is ignored. days: length of the window; a half gets its share by rows.
    amounts: (n_rows,) currency units, used by configurations with an amount_column.

    Both halves have the same number of frauds. With fewer than 2 x FRAUDS_A_HALF frauds, or legitimate rows in one half
    only, everything is evaluated in sample, and `note` says so. Without frauds or legitimate rows only alert budgets
    are applied, and nothing is judged.

    Raises ConfigError (no combination, a judge without an optimum, or as `thresholds.choose`) or DataError (no rows,
    NaN scores, unequal lengths, an impossible amount).
    """
    started = time.perf_counter()
    values = check_scores(scores)
    if not values.size:
        raise DataError("there are no scores to choose thresholds on: give a window with at least one transaction")
    truth = check_labels(labels, values.size) if labels is not None else np.full(values.size, -1, np.int8)
    losses = None if amounts is None else check_fraud_amounts(amounts, truth)
    if not configs:
        raise ConfigError("there is no threshold combination to compare: give at least one policy")
    if judge.policy not in ("f_beta", "best_f1", "cost"):
        raise ConfigError(f"judge policy={judge.policy!r} has no optimum to compare by: use f_beta, best_f1 or cost")
    judges = bool((truth == 1).any() and (truth == 0).any())
    feasible = [config for config in configs if judges or config.policy == "alert_budget"]
    kinds = np.unique(truth)
    for config in (*feasible, judge) if judges else feasible:
        check_choice(kinds, config, days, amounts)
    middle, note = _middle(truth, judges, len(configs) - len(feasible))
    everything = _Window(values, truth, losses, days)
    halves = [
        _Window(values[part], truth[part], losses if losses is None else losses[part], _share(days, part, values.size))
        for part in ((slice(0, middle), slice(middle, None)) if middle else ())
    ]
    pairs = [(halves[0], halves[1]), (halves[1], halves[0])] if halves else [(everything, everything)]
    outcomes = [judged_on.decide(chosen_on.choose(feasible)) for chosen_on, judged_on in pairs]
    judged = np.mean([outcome.judge(judge) for outcome in outcomes], axis=0) if judges else None
    points = tuple(_points(feasible, judged, outcomes, everything.choose(feasible)))
    best = None
    if judges:
        best = max(range(len(points)), key=lambda i: (points[i].judged, -points[i].alert_rate, -i))
    return Grid(points, _objective_name(judge), note, best, time.perf_counter() - started)


def setting_of(config: ThresholdConfig) -> dict[str, Any]:
    """The settings that the configuration's policy uses, without those that have no effect."""
    settings = {name: getattr(config, name) for name in SETTINGS_OF[config.policy]}
    if config.policy == "alert_budget":
        del settings["budget" if config.alerts_per_day is not None else "alerts_per_day"]
    if config.policy == "cost":
        named = config.amount_column is not None
        idle = {"cost_true_positive": 0, "cost_true_negative": 0, "amount_column": None}
        settings = {name: value for name, value in settings.items() if name not in idle or value != idle[name]}
        if named:
            del settings["cost_false_negative"]
    return settings


@dataclass(frozen=True)
class _Outcome:
    """Outcome of n cuts on one window: counts int64 (n,), and missed fraud amounts, float64 (n,)."""

    n_rows: int
    n_legitimate: int
    n_frauds: int
    alerts: Ints
    false_alarms: Ints
    caught: Ints
    missed_amount: Floats | None

    def judge(self, judge: ThresholdConfig) -> Floats:
        """The judge's objective at each cut, float64 (n,), higher is better."""
        if judge.policy == "cost":
            missed: Floats = judge.cost_false_negative * (self.n_frauds - self.caught).astype(np.float64)
            if judge.amount_column is not None:
                assert self.missed_amount is not None  # checked by check_choice
                missed = self.missed_amount
            cost = (
                judge.cost_false_positive * self.false_alarms
                + judge.cost_true_negative * (self.n_legitimate - self.false_alarms)
                + judge.cost_true_positive * self.caught
                + missed
            )
            return -1000.0 * cost / (self.n_legitimate + self.n_frauds)
        weight = judge.beta**2
        return (1 + weight) * self.caught / (weight * self.n_frauds + self.caught + self.false_alarms)


class _Window:
    """Rows of a window, sorted once, on which cuts are chosen and evaluated."""

    def __init__(self, scores: Floats, labels: NDArray[np.int8], amounts: Floats | None, days: float | None) -> None:
        self._days = days
        self._scores = np.sort(scores)
        self._legitimate = np.sort(scores[labels == 0])
        of_frauds = scores[labels == 1]
        order = np.argsort(of_frauds)
        self._frauds = of_frauds[order]
        self._amounts_below = None if amounts is None else np.r_[0.0, np.cumsum(amounts[labels == 1][order])]
        self._cuts = Cuts.of(scores, labels) if of_frauds.size else None
        self._cuts_by_amount = Cuts.of(scores, labels, amounts) if of_frauds.size and amounts is not None else None

    def choose(self, configs: Sequence[ThresholdConfig]) -> Floats:
        """The cut of each configuration, float64 (n_configs,)."""
        chosen = np.empty(len(configs))
        budgets = [index for index, config in enumerate(configs) if config.policy == "alert_budget"]
        limits = [budget_limit(configs[index], self._scores.size, self._days) for index in budgets]
        chosen[budgets] = cuts_within(self._scores, np.array(limits, dtype=np.int64))
        for index, config in enumerate(configs):
            if config.policy == "alert_budget":
                continue
            cuts = self._cuts if config.amount_column is None or config.policy != "cost" else self._cuts_by_amount
            assert cuts is not None  # without frauds such policies are left out; check_choice requires amounts
            chosen[index] = cuts.choose(config)
        return chosen

    def decide(self, values: Floats) -> _Outcome:
        """Outcome of alerting on score >= values[i]."""
        missed = np.searchsorted(self._frauds, values)
        return _Outcome(
            self._scores.size, self._legitimate.size, self._frauds.size,
            alerts=self._scores.size - np.searchsorted(self._scores, values),
            false_alarms=self._legitimate.size - np.searchsorted(self._legitimate, values),
            caught=self._frauds.size - missed,
            missed_amount=None if self._amounts_below is None else self._amounts_below[missed],
        )  # fmt: skip


def _middle(truth: NDArray[np.int8], judges: bool, left_out: int) -> tuple[int, str]:
    """First row of the second half, or 0 to evaluate in sample; and the note."""
    if not judges:
        note = "the window's labels lack frauds or legitimate rows: alert budgets only, none judged"
        return truth.size // 2, note + (
            f" ({left_out:,} combinations need labels and were left out)" if left_out else ""
        )
    frauds = np.flatnonzero(truth == 1)
    if frauds.size < 2 * FRAUDS_A_HALF:
        cause = f"only {frauds.size} frauds, fewer than {2 * FRAUDS_A_HALF}"
    else:
        middle = int(frauds[frauds.size // 2 - 1] + frauds[frauds.size // 2] + 1) // 2
        if (truth[:middle] == 0).any() and (truth[middle:] == 0).any():
            return middle, ""
        cause = "legitimate rows in one half of the window only"
    return 0, f"{cause}: every combination was judged on the rows it was chosen on, which is too optimistic"


def _share(days: float | None, part: slice, n_rows: int) -> float | None:
    return None if days is None else days * len(range(n_rows)[part]) / n_rows


def _points(
    configs: Sequence[ThresholdConfig], judged: Floats | None, outcomes: Sequence[_Outcome], values: Floats
) -> list[Point]:
    rows, frauds = sum(o.n_rows for o in outcomes), sum(o.n_frauds for o in outcomes)
    alerts = np.sum([o.alerts for o in outcomes], axis=0)
    caught = np.sum([o.caught for o in outcomes], axis=0)
    called = caught + np.sum([o.false_alarms for o in outcomes], axis=0)
    return [
        Point(
            config=config,
            judged=None if judged is None else float(judged[i]),
            alert_rate=float(alerts[i] / rows),
            precision=float(caught[i] / called[i]) if judged is not None and called[i] else None,
            recall=float(caught[i] / frauds) if judged is not None else None,
            value=float(values[i]),
        )
        for i, config in enumerate(configs)
    ]


def _objective_name(judge: ThresholdConfig) -> str:
    if judge.policy == "cost":
        return "minus the cost of 1,000 transactions"
    return "F1" if judge.beta == 1 else f"F-beta (beta {judge.beta:g})"
