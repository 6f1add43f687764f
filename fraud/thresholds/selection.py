"""Choose a decision threshold by a policy on a validation window, and record its provenance.

A transaction is flagged if score >= threshold. Rows of equal score get the same decision, so a policy chooses among the
distinct scores of the window, or "no alerts at all" (just above the highest score).
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fraud.errors import BundleError, ConfigError, DataError
from fraud.metrics.measures import at_threshold
from fraud.metrics.ranking import check_labels, check_scores
from fraud.thresholds.cuts import Cuts, budget_cut, budget_limit, missed_loss
from fraud.thresholds.policies import SETTINGS_OF, Policy, ThresholdConfig, is_number

__all__ = ["Policy", "Threshold", "ThresholdConfig", "check_choice", "choose", "measure"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Threshold:
    """A decision threshold with its provenance.

    value: alert when score >= value. policy, settings: how it was chosen. window: start, end, rows, frauds of the data
    it was chosen on. achieved: metrics on that data (see `measure`). interval: (low, high), bootstrap interval.
    """

    value: float
    policy: str
    settings: dict[str, Any]
    window: dict[str, Any]
    achieved: dict[str, float]
    interval: tuple[float, float]

    def decide(self, scores: ArrayLike) -> NDArray[np.bool_]:
        """Return is_fraud, bool (n_rows,), for scores (n_rows,). Raises DataError for NaN scores."""
        return check_scores(scores) >= self.value

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict for `from_dict`."""
        return {**dataclasses.asdict(self), "interval": list(self.interval)}

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Threshold:
        """Read what `to_dict` wrote. Raises BundleError naming the field that is missing, unknown or malformed."""
        if not isinstance(raw, Mapping):
            raise BundleError(f"threshold is a {type(raw).__name__}, not a mapping: save the bundle again")
        names = [field.name for field in dataclasses.fields(cls)]
        wrong = sorted(set(names) ^ {str(key) for key in raw})
        if wrong:
            fault = "is missing" if wrong[0] in names else "is unknown"
            raise BundleError(f"threshold field {wrong[0]!r} {fault}: save the bundle again")
        if raw["policy"] not in get_args(Policy):
            raise BundleError(f"threshold policy {raw['policy']!r} is unknown: expected one of {get_args(Policy)}")
        for name in ("settings", "window", "achieved"):
            if not isinstance(raw[name], Mapping):
                raise BundleError(f"threshold {name} {raw[name]!r} is not a mapping: save the bundle again")
        interval = raw["interval"]
        if not isinstance(interval, list | tuple) or len(interval) != 2:
            raise BundleError(f"threshold interval {interval!r} is not a pair: save the bundle again")
        for name, number in [
            ("value", raw["value"]),
            *[("interval", end) for end in interval],
            *raw["achieved"].items(),
        ]:
            if not is_number(number):
                raise BundleError(f"threshold {name} {number!r} is not a finite number: save the bundle again")
        if interval[0] > interval[1]:
            raise BundleError(f"threshold interval {interval!r} runs backwards: save the bundle again")
        return cls(
            value=float(raw["value"]),
            policy=raw["policy"],
            settings=dict(raw["settings"]),
            window=dict(raw["window"]),
            achieved={str(name): float(number) for name, number in raw["achieved"].items()},
            interval=(float(interval[0]), float(interval[1])),
        )


def choose(
    scores: ArrayLike,
    labels: ArrayLike | None,
    config: ThresholdConfig,
    *,
    window: Mapping[str, Any],
    days: float | None = None,
    amounts: ArrayLike | None = None,
    seed: int = 0,
    resamples: int = 100,
    level: float = 0.95,
) -> Threshold:
    """Choose the threshold of `config.policy` on one window, with a bootstrap interval.

    scores: (n_rows,), higher = more suspicious. labels: (n_rows,) of 1, 0, -1 (unknown), or None. Unknown rows count
    towards an alert budget; the other policies ignore them. window: start and end of the data; rows and frauds are
    added. days: length of the window, required for `alerts_per_day`. amounts: (n_rows,) currency units; with them,
    policy "cost" charges a missed fraud its amount. If cuts tie, the one with fewest alerts is chosen.

    With `contamination` only cuts that alert on at most that share of all rows are considered.
    If no cut reaches `precision`, the cut of highest precision is chosen, with a warning; `achieved` shows it. If the
    budget is smaller than the group of ties at the top, there are no alerts, with a warning. The interval is the
    percentile interval over `resamples` resamples of the rows (Efron, 1979); the same seed gives the same interval.

    Raises ConfigError (a policy that needs labels or frauds and has none, alerts_per_day without days, amount_column
    without amounts) or DataError (no rows, NaN scores, unequal lengths, an impossible amount).
    """
    values = check_scores(scores)
    if not values.size:
        raise DataError("there are no scores to choose a threshold on: give a window with at least one transaction")
    truth = check_labels(labels, values.size) if labels is not None else np.full(values.size, -1, np.int8)
    check_choice(truth, config, days, amounts)
    rng = np.random.default_rng(seed)
    if config.policy == "alert_budget":
        value, draws = budget_cut(values, budget_limit(config, values.size, days), rng, resamples)
    else:
        cuts = Cuts.of(values, truth, amounts)
        value, draws = cuts.choose(config), cuts.resample(config, rng, resamples)
    achieved = measure(values, truth, value, config, days=days, amounts=amounts)
    _warn(achieved, config)
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2]) if draws.size else (value, value)
    relevant = {*SETTINGS_OF[config.policy], *SETTINGS_OF["cost"], "contamination"}  # `achieved` always includes a cost
    return Threshold(
        value=value,
        policy=config.policy,
        settings={name: setting for name, setting in config.to_dict().items() if name in relevant},
        window={
            **{name: _plain(entry) for name, entry in window.items()},
            "rows": int(values.size),
            "frauds": int((truth == 1).sum()) if (truth >= 0).any() else None,
        },
        achieved=achieved,
        interval=(float(low), float(high)),
    )


def measure(
    scores: ArrayLike,
    labels: ArrayLike | None,
    value: float,
    config: ThresholdConfig,
    *,
    days: float | None = None,
    amounts: ArrayLike | None = None,
) -> dict[str, float]:
    """Metrics of alerting on score >= value on a window.

    Keys: those of `fraud.metrics.measures.at_threshold`; `alerts_per_day` (if days > 0); and, for the labelled rows,
    `cost` and `cost_without_alerts` (currency units, config's cost matrix), `f_beta` (if beta is not 1), and with
    amounts `amount_recall` (share of the defrauded money caught).
    Raises DataError (no rows, NaN scores, unequal lengths, an impossible amount).
    """
    figures = at_threshold(labels, scores, value)
    if days is not None and days > 0:
        figures["alerts_per_day"] = figures["alerts"] / days
    truth = check_labels(labels, np.size(scores)) if labels is not None else np.empty(0, np.int8)
    if not (truth >= 0).any():
        return figures
    alerted = np.asarray(scores, dtype=np.float64) >= value
    n_legitimate, false_alarms = int((truth == 0).sum()), int((alerted & (truth == 0)).sum())
    loss = missed_loss(truth, config, amounts)
    figures["cost"] = (
        config.cost_false_positive * false_alarms
        + config.cost_true_negative * (n_legitimate - false_alarms)
        + config.cost_true_positive * int((alerted & (truth == 1)).sum())
        + float(loss[~alerted].sum())
    )
    figures["cost_without_alerts"] = config.cost_true_negative * n_legitimate + float(loss.sum())
    if "recall" in figures:
        precision, recall, weight = figures.get("precision", 0.0), figures["recall"], config.beta**2
        if config.beta != 1:
            below = weight * precision + recall
            figures["f_beta"] = (1 + weight) * precision * recall / below if below else 0.0
        if amounts is not None and loss.sum() > 0:
            figures["amount_recall"] = float(loss[alerted].sum() / loss.sum())
    return figures


def check_choice(
    truth: NDArray[np.int8], config: ThresholdConfig, days: float | None, amounts: ArrayLike | None
) -> None:
    """Raise ConfigError, with the remedy, if the policy's input is missing: labels, frauds, days or amounts."""
    if config.policy != "alert_budget":
        remedy = "use policy 'alert_budget', which needs no labels, or a window with labelled frauds"
        if not (truth >= 0).any():
            raise ConfigError(f"policy={config.policy!r} needs labels and none of {truth.size} rows has one: {remedy}")
        if not (truth == 1).any():
            raise ConfigError(
                f"policy={config.policy!r} needs frauds and none of {(truth >= 0).sum()} labelled rows is one: {remedy}"
            )
    elif config.alerts_per_day is not None and (days is None or not days > 0 or math.isinf(days)):
        raise ConfigError(
            f"alerts_per_day={config.alerts_per_day} needs the window's length in days, got days={days}: "
            "use data with a timestamp, or set `budget` (a share of the rows) instead"
        )
    if config.policy == "cost" and config.amount_column is not None and amounts is None:
        raise ConfigError(
            f"amount_column={config.amount_column!r} is set but there are no amounts: "
            "pass that column's values, or set amount_column to null to charge cost_false_negative"
        )


def _warn(achieved: Mapping[str, float], config: ThresholdConfig) -> None:
    if config.policy == "precision_at_least" and achieved.get("precision", 1.0) < config.precision:
        logger.warning(
            "no threshold reaches precision %g on this window: took the highest, %.3g (recall %.3g)",
            config.precision,
            achieved["precision"],
            achieved["recall"],
        )
    if not achieved["alerts"]:
        logger.warning(
            "policy %r chose a threshold above every score: no alerts. "
            "Too many rows share the top score for the budget or contamination, or no alert is worth its cost",
            config.policy,
        )


def _plain(value: Any) -> Any:
    value = value.item() if isinstance(value, np.generic) else value
    return value if value is None or isinstance(value, str | int | float) else str(value)
