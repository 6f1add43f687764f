"""Evaluate a model on a scored window: ranking, alerts and money, cards per day, cost. JSON-ready dicts.

Every section is a dict. If the data do not allow a section, it is `{"missing": reason and remedy}`, so every window
gives a report. Unlabelled rows only count in the row counts. The sections on time, segments and score levels are in
`fraud.judging.slices`, the comparison of two models in `fraud.judging.paired`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from fraud.errors import ConfigError
from fraud.metrics.measures import daily_card_precision
from fraud.metrics.ranking import Floats, check_labels, check_scores, largest_count
from fraud.metrics.resampling import WeightedRanking, interval, measure_resamples, resample_weights
from fraud.schema import Schema
from fraud.schema.zone import zone_of
from fraud.thresholds.cuts import Cuts, missed_loss
from fraud.thresholds.policies import ThresholdConfig

_MOST_CURVE_POINTS = 200
_FEWEST_DAYS = 5


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Parameters of an evaluation. Raises ConfigError naming the flag for a value out of range.

    budget: share of rows to alert on. alerts_per_day: alerts that analysts can handle per day. k: cards (or rows)
    checked per day. alert_cost: currency units per alert, right or wrong. fraud_cost: cost of a missed fraud without an
    amount. segments: columns to slice by; (): suitable columns. resamples: of the bootstrap. seed: of the bootstrap.
    """

    budget: float = 0.01
    alerts_per_day: int = 100
    k: int = 100
    alert_cost: float = 5.0
    fraud_cost: float = 100.0
    segments: tuple[str, ...] = ()
    resamples: int = 200
    seed: int = 7

    def __post_init__(self) -> None:
        for holds, text in (
            (0 < self.budget <= 1, f"--budget {self.budget:g}: give a share of the rows above 0 and at most 1"),
            (self.alerts_per_day >= 1, f"--alerts-per-day {self.alerts_per_day}: give 1 or more"),
            (self.k >= 1, f"--k {self.k}: give 1 or more"),
            (0 < self.alert_cost < np.inf, f"--alert-cost {self.alert_cost:g}: give currency units above 0"),
            (0 < self.fraud_cost < np.inf, f"--fraud-cost {self.fraud_cost:g}: give currency units above 0"),
            (self.resamples >= 10, f"--resamples {self.resamples}: give 10 or more, 200 for a report"),
            (self.seed >= 0, f"--seed {self.seed}: give 0 or more"),
        ):
            if not holds:
                raise ConfigError(text)


@dataclass(frozen=True, eq=False)
class Scored:
    """The rows of a window with one model's scores.

    rows: canonical frame. scores: float64 (n_rows,) by name; the first one decides. labels: int8 (n_rows,) of 1, 0, -1.
    threshold: alert when the first score is at least this. amount: numeric column with the money at stake, or None.
    card: entity column by which rows are resampled together, or None. known: bool (n_rows,), rows of cards already
    known as compromised on their day.
    """

    schema: Schema
    rows: pd.DataFrame
    scores: Mapping[str, Floats]
    labels: np.ndarray
    threshold: float
    amount: str | None = None
    card: str | None = None
    known: np.ndarray | None = None

    @property
    def main(self) -> Floats:
        """The score that decides."""
        return next(iter(self.scores.values()))

    @cached_property
    def labelled(self) -> Scored:
        """The rows with a known label."""
        return self.at(self.labels >= 0)

    def at(self, mask: np.ndarray) -> Scored:
        """The rows of `mask`, bool (n_rows,)."""
        return Scored(
            self.schema,
            self.rows.loc[mask],
            {name: values[mask] for name, values in self.scores.items()},
            self.labels[mask],
            self.threshold,
            self.amount,
            self.card,
            None if self.known is None else self.known[mask],
        )

    @cached_property
    def days(self) -> np.ndarray | None:
        """Day of each row, datetime64[D] (n_rows,), in the schema's day_zone; None without a timestamp."""
        if self.schema.timestamp is None:
            return None
        return zone_of(self.schema).day_of(self.rows[self.schema.timestamp.name].to_numpy())

    @property
    def n_days(self) -> int | None:
        """Number of calendar days from the first row to the last, inclusive; None without a timestamp or rows."""
        if self.days is None or not len(self.days):
            return None
        return int((self.days.max() - self.days.min()).astype(int)) + 1

    @cached_property
    def amounts(self) -> Floats | None:
        """Money at stake, float64 (n_rows,), 0 if missing or negative; None without an amount column."""
        if self.amount is None:
            return None
        values = self.rows[self.amount].to_numpy(dtype=np.float64)
        return np.where(np.isfinite(values) & (values > 0), values, 0.0)

    @cached_property
    def clusters(self) -> np.ndarray | None:
        """Card codes, int64 (n_rows,); a row without a card gets its own code. None without a card column."""
        if self.card is None:
            return None
        codes, known = pd.factorize(self.rows[self.card].to_numpy(dtype=object), use_na_sentinel=True)
        missing = codes < 0
        codes = codes.astype(np.int64)
        codes[missing] = len(known) + np.arange(int(missing.sum()))
        return codes

    @property
    def unrankable(self) -> str | None:
        """Why the ranking cannot be evaluated, with the remedy; None if it can."""
        known = self.labels[self.labels >= 0]
        if not known.size:
            return (
                "no row of this window has a label: wait until labels arrive, or take an older window (--start, --end)"
            )
        if not (known == 1).any():
            return f"none of the {known.size:,} labelled rows is a fraud: take a longer window (--start, --end)"
        if not (known == 0).any():
            return f"all {known.size:,} labelled rows are frauds: a ranking needs legitimate rows too; check the labels"
        return None


def ranking(scored: Scored, plan: Plan) -> dict[str, Any]:
    """Average precision and ROC-AUC of every score, and metrics at the threshold and within each budget.

    Keys: `scores` {name: {figure: {value, interval}}} and `points`, a list of {name, text, threshold, figures}.
    """
    if scored.unrankable:
        return {"missing": scored.unrankable}
    rows = scored.labelled
    loss = missed_loss(rows.labels, cost_matrix(scored, plan), rows.amounts)
    ranked = {name: WeightedRanking(rows.labels, values, loss) for name, values in rows.scores.items()}
    first = next(iter(ranked))
    days = rows.n_days

    def measure(weights: np.ndarray | None) -> dict[str, float]:
        figures: dict[str, float] = {}
        for name, score in ranked.items():
            counted = score.count(weights)
            figures[f"score/{name}/average_precision"] = counted.average_precision()
            figures[f"score/{name}/roc_auc"] = counted.roc_auc()
            top = counted.top(budget_alerts(plan.budget, counted.rows))
            figures[f"score/{name}/recall_at_budget"] = top["recall"]
            if name == first:
                figures |= {f"budget/{key}": value for key, value in _money(top, scored, plan).items()}
                figures |= {
                    f"threshold/{key}": v for key, v in _money(counted.above(scored.threshold), scored, plan).items()
                }
                if days is not None:
                    top = _money(counted.top(plan.alerts_per_day * days), scored, plan)
                    figures |= {f"daily/{key}": value for key, value in top.items()}
        return figures

    point, drawn = measure_resamples(
        measure, resample_weights(len(rows.labels), plan.resamples, plan.seed, rows.clusters)
    )

    def figures(prefix: str) -> dict[str, Any]:
        return {
            key.removeprefix(prefix): {"value": value, "interval": interval(drawn[key])}
            for key, value in point.items()
            if key.startswith(prefix)
        }

    points = [("threshold", "at the model's threshold"), ("budget", f"the top {plan.budget:.2%} of the rows")]
    points += [("daily", f"the top {plan.alerts_per_day:,} a day")] if days is not None else []
    return {
        "scores": {name: figures(f"score/{name}/") for name in ranked},
        "points": [{"name": name, "text": text, "figures": figures(f"{name}/")} for name, text in points],
        "threshold": scored.threshold,
        "base_rate": float((rows.labels == 1).mean()),
        "days": days,
        "resampled_by": scored.card,
        "resamples": plan.resamples,
    }


def daily_precision(scored: Scored, plan: Plan) -> dict[str, Any]:
    """Card precision@k per day (of rows if there is no card column; one "day" if there is no timestamp).

    Keys: k, unit (the card column or None), days [{day, precision}], mean {value, interval over days}, attainable
    (value of a perfect score), rows_left_out (of cards known as compromised, or without a card).
    """
    if scored.unrankable:
        return {"missing": scored.unrankable}
    rows = scored.labelled
    is_counted = np.ones(len(rows.labels), bool) if rows.known is None else ~rows.known
    if scored.card is not None:
        is_counted &= rows.rows[scored.card].notna().to_numpy()
    counted_rows = rows.at(is_counted)
    if not len(counted_rows.labels):
        return {"missing": "every card of this window was known as compromised before: take a longer window"}
    cards = np.arange(len(counted_rows.labels)) if counted_rows.clusters is None else counted_rows.clusters
    days = np.zeros(len(counted_rows.labels), np.int64) if counted_rows.days is None else counted_rows.days
    precisions = daily_card_precision(counted_rows.labels, counted_rows.main, cards, days, plan.k)
    perfect = daily_card_precision(counted_rows.labels, (counted_rows.labels == 1).astype(float), cards, days, plan.k)
    values = np.array(list(precisions.values()))
    picks = np.random.default_rng(plan.seed).integers(0, values.size, (plan.resamples, values.size))
    return {
        "k": plan.k,
        "unit": scored.card,
        "by_day": scored.days is not None,
        "day_zone": scored.schema.day_zone,
        "days": [
            {"day": str(pd.Timestamp(day).date()) if scored.days is not None else None, "precision": value}
            for day, value in precisions.items()
        ],
        "mean": {
            "value": float(values.mean()),
            "interval": interval(values[picks].mean(axis=1)) if values.size >= _FEWEST_DAYS else None,
        },
        "attainable": float(np.mean(list(perfect.values()))),
        "rows_left_out": int((~is_counted).sum()),
    }


def cost(scored: Scored, plan: Plan) -> dict[str, Any]:
    """Total cost by threshold: every alert costs `alert_cost`, every missed fraud its amount or `fraud_cost`.

    Keys: alert_cost, missed_fraud, without_alerts, at_threshold {threshold, cost}, cheapest {threshold, cost, interval
    of the threshold}, curve [{threshold, alerts, cost}]. The cheapest threshold is chosen in hindsight.
    """
    if scored.unrankable:
        return {"missing": scored.unrankable}
    rows, config = scored.labelled, cost_matrix(scored, plan)
    cuts = Cuts.of(check_scores(rows.main), check_labels(rows.labels, rows.main.size), rows.amounts)
    counted = WeightedRanking(rows.labels, rows.main, missed_loss(rows.labels, config, rows.amounts)).count()

    def total(value: float) -> tuple[float, float]:
        figures = counted.above(value)
        return figures["alerts"], plan.alert_cost * figures["alerts"] + figures["amount_missed"]

    cheapest = cuts.choose(config)
    chosen = cuts.resample(config, np.random.default_rng(plan.seed), plan.resamples)
    shown = np.unique(np.linspace(0, cuts.values.size - 1, _MOST_CURVE_POINTS).astype(int))
    curve = [(float(value), *total(float(value))) for value in cuts.values[shown]]
    return {
        "alert_cost": plan.alert_cost,
        "missed_fraud": scored.amount if scored.amount is not None else plan.fraud_cost,
        "without_alerts": total(float(cuts.values[0]))[1],
        "at_threshold": {"threshold": scored.threshold, "cost": total(scored.threshold)[1]},
        "cheapest": {"threshold": cheapest, "cost": total(cheapest)[1], "interval": interval(chosen)},
        "curve": [dict(zip(("threshold", "alerts", "cost"), values, strict=True)) for values in curve],
    }


def known_compromised(
    days: np.ndarray, cards: np.ndarray, labels: np.ndarray, delay_days: float, since: np.datetime64 | None = None
) -> np.ndarray:
    """Rows of cards with an earlier fraud that was known on the row's day: bool (n_rows,).

    A fraud is known on days after its own day plus the label delay, as in the Fraud Detection Handbook (chapter 5,
    get_train_test_set), which counts from the start of the training window (`since`).
    days: datetime64[D] (n_rows,), any order; cards: (n_rows,), missing ones are never known; labels: 1, 0, -1.
    """
    frame = pd.DataFrame({"day": days.astype("datetime64[D]").astype(np.int64), "card": cards})
    counts = labels == 1
    if since is not None:
        counts = counts & (days >= since)
    first = frame[counts].groupby("card")["day"].min()
    seen = frame["card"].map(first).to_numpy(dtype=np.float64)
    return np.nan_to_num(seen + delay_days, nan=np.inf) < frame["day"].to_numpy()


def amount_column(schema: Schema) -> str | None:
    """The amount column: the first numeric one with "amount", "amt", "price" or "value" in its name, or None."""
    for word in ("amount", "amt", "price", "value"):
        for column in schema.columns:
            if column.kind == "numeric" and word in column.name.lower():
                return column.name
    return None


def budget_alerts(budget: float, n_rows: int) -> int:
    """Number of alerts within a budget, at least 1; 0 without rows."""
    return max(1, largest_count(budget, n_rows)) if n_rows else 0


def cost_matrix(scored: Scored, plan: Plan) -> ThresholdConfig:
    """The plan's costs as a cost policy: an alert costs the same, right or wrong. Raises ConfigError."""
    if scored.amount is None and plan.fraud_cost <= plan.alert_cost:
        raise ConfigError(
            f"--fraud-cost {plan.fraud_cost:g} is not above --alert-cost {plan.alert_cost:g}: no alert would ever pay"
        )
    return ThresholdConfig(
        policy="cost",
        cost_false_positive=plan.alert_cost,
        cost_true_positive=plan.alert_cost,
        cost_false_negative=max(plan.fraud_cost, np.nextafter(plan.alert_cost, np.inf)),
    )


def plain(value: Any) -> Any:
    """Convert to strict JSON types: NaN and infinity become None, NumPy values Python values, keys text."""
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    return value if value is None or isinstance(value, str | int | bool) else str(value)


def _money(figures: Mapping[str, float], scored: Scored, plan: Plan) -> dict[str, float]:
    """Metrics of one operating point with its cost; `amount_recall` only with amounts."""
    shown = {key: value for key, value in figures.items() if key != "amount_missed"}
    shown["cost"] = plan.alert_cost * figures["alerts"] + figures["amount_missed"]
    if scored.amount is None:
        shown.pop("amount_recall")
    return shown
