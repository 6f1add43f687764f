"""Threshold policies and their settings, validated on construction."""

from __future__ import annotations

import dataclasses
import math
from typing import Annotated, Any, Literal

from pydantic import Field

from fraud.configuration import Count, Number, Share, configuration
from fraud.errors import ConfigError

Policy = Literal["f_beta", "best_f1", "alert_budget", "precision_at_least", "cost"]
_COSTS = ("cost_false_positive", "cost_false_negative", "cost_true_positive", "cost_true_negative")
SETTINGS_OF: dict[str, tuple[str, ...]] = {
    "f_beta": ("beta",),
    "best_f1": (),
    "alert_budget": ("budget", "alerts_per_day"),
    "precision_at_least": ("precision",),
    "cost": (*_COSTS, "amount_column"),
}
EVERY_POLICY = ("policy", "contamination")


_Cost = Annotated[Number, Field(ge=0)]


@configuration("threshold")
class ThresholdConfig:
    """How to choose the threshold. Raises ConfigError for a value out of range.

    policy: "f_beta" (best F-beta), "best_f1" (F-beta with beta 1), "alert_budget" (as many alerts as the analysts can
        handle; the only one that needs no labels), "precision_at_least" (most fraud caught at that precision), "cost".
    beta: weight of recall against precision; 2 counts recall four times (F-beta, van Rijsbergen 1979).
    budget: alert_budget: largest share of transactions to alert on, above 0 and at most 1.
    alerts_per_day: alert_budget: largest number of alerts a day, averaged over the window; replaces `budget`.
    precision: precision_at_least: smallest share of alerts that are frauds.
    cost_false_positive, cost_false_negative, cost_true_positive, cost_true_negative: cost: the cost matrix in currency
        units a transaction: a false alarm's review, a missed fraud, a caught fraud, a legitimate row let through. The
        wrong decision must cost more than the right one (Elkan, 2001). With amounts, a missed fraud costs its amount.
    amount_column: name of the column holding each transaction's amount; the caller passes its values to `choose`.
    contamination: largest share of transactions that may be called fraud, whatever the policy, above 0 and at most 1:
        the policy chooses among the cuts that stay within that budget. None sets no limit.
    """

    policy: Policy = "f_beta"
    beta: Annotated[Number, Field(gt=0)] = 1.0
    budget: Share = 0.01
    alerts_per_day: Count | None = None
    precision: Share = 0.5
    cost_false_positive: _Cost = 5.0
    cost_false_negative: _Cost = 100.0
    cost_true_positive: _Cost = 0.0
    cost_true_negative: _Cost = 0.0
    amount_column: Annotated[str, Field(min_length=1)] | None = None
    contamination: Share | None = None

    def __post_init__(self) -> None:
        if self.policy == "best_f1" and self.beta != 1:
            raise ConfigError(f"threshold.beta={self.beta:g} has no effect with policy 'best_f1': use policy 'f_beta'")
        for wrong, right, consequence in (
            ("cost_false_positive", "cost_true_negative", "alerting on everything would be free"),
            ("cost_false_negative", "cost_true_positive", "catching a fraud would never pay"),
        ):
            cost, least = getattr(self, wrong), getattr(self, right)
            if cost <= least:
                raise ConfigError(f"threshold.{wrong}={cost:g} must be above {right}={least:g}, or {consequence}")

    def to_dict(self) -> dict[str, Any]:
        """Every setting, for logging and YAML."""
        return dataclasses.asdict(self)


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
