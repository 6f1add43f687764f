"""How a threshold is to be chosen: the policies, and the settings of each, checked when they are made."""

from __future__ import annotations

import dataclasses
import difflib
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from fraud.errors import ConfigError

logger = logging.getLogger(__name__)

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


@dataclass(frozen=True, kw_only=True)
class ThresholdConfig:
    """How to choose the threshold. Raises ConfigError for a value out of range.

    policy: "f_beta" (best F-beta), "best_f1" (F-beta with beta 1), "alert_budget" (as many alerts as the analysts can
        work; the only one that needs no labels), "precision_at_least" (most fraud found at that precision), "cost".
    beta: weight of recall against precision; 2 counts recall four times (F-beta, van Rijsbergen 1979).
    budget: alert_budget: largest share of transactions to alert on, above 0 and at most 1.
    alerts_per_day: alert_budget: largest number of alerts a day, averaged over the window; replaces `budget`.
    precision: precision_at_least: smallest share of alerts that are frauds.
    cost_false_positive, cost_false_negative, cost_true_positive, cost_true_negative: cost: the cost matrix in currency
        units a transaction: a false alarm's review, a missed fraud, a caught fraud, a legitimate row let through. The
        wrong decision must cost more than the right one (Elkan, 2001). With amounts, a missed fraud costs its amount.
    amount_column: name of the column holding each transaction's amount; the caller passes its values to `choose`.
    contamination: largest share of transactions that may be called fraud, whatever the policy, above 0 and at most 1:
        the cut is the policy's best of those no lower than alert_budget would place it. None sets no limit.
    """

    policy: Policy = "f_beta"
    beta: float = 1.0
    budget: float = 0.01
    alerts_per_day: int | None = None
    precision: float = 0.5
    cost_false_positive: float = 5.0
    cost_false_negative: float = 100.0
    cost_true_positive: float = 0.0
    cost_true_negative: float = 0.0
    amount_column: str | None = None
    contamination: float | None = None

    def __post_init__(self) -> None:
        if self.policy not in get_args(Policy):
            raise ConfigError(f"policy={self.policy!r} is unknown: use one of {', '.join(get_args(Policy))}")
        for name in ("beta", "budget", "precision", *_COSTS):
            number = getattr(self, name)
            _check(is_number(number), f"{name}={number!r}", "must be a finite number (YAML reads 1e-2 as text: 0.01)")
        _check(self.beta > 0, f"beta={self.beta}", "must be above 0; 1 weighs precision and recall alike")
        if self.policy == "best_f1":
            _check(self.beta == 1, f"beta={self.beta}", "has no place in policy 'best_f1': use policy 'f_beta'")
        _check(0 < self.budget <= 1, f"budget={self.budget}", "must be a share above 0 and at most 1 (0.01 = 1 %)")
        _check(0 < self.precision <= 1, f"precision={self.precision}", "must be a share above 0 and at most 1")
        if self.alerts_per_day is not None:
            whole = isinstance(self.alerts_per_day, int) and not isinstance(self.alerts_per_day, bool)
            _check(
                whole and self.alerts_per_day >= 1,
                f"alerts_per_day={self.alerts_per_day!r}",
                "must be a whole number of at least 1, or null to use `budget`",
            )
        for name in _COSTS:
            _check(getattr(self, name) >= 0, f"{name}={getattr(self, name)}", "must be 0 or more currency units")
        _check(
            self.cost_false_positive > self.cost_true_negative,
            f"cost_false_positive={self.cost_false_positive}",
            f"must be above cost_true_negative={self.cost_true_negative}, or alerting on everything would be free",
        )
        _check(
            self.cost_false_negative > self.cost_true_positive,
            f"cost_false_negative={self.cost_false_negative}",
            f"must be above cost_true_positive={self.cost_true_positive}, or catching a fraud would never pay",
        )
        _check(
            self.amount_column is None or (isinstance(self.amount_column, str) and self.amount_column != ""),
            f"amount_column={self.amount_column!r}",
            "must be a column's name, or null",
        )
        _check(
            self.contamination is None or (is_number(self.contamination) and 0 < self.contamination <= 1),
            f"contamination={self.contamination!r}",
            "must be a share above 0 and at most 1 (0.01 = 1 %), or null for no limit",
        )

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> ThresholdConfig:
        """Build from a YAML mapping. Raises ConfigError for an unknown key (suggests the nearest) or a bad value."""
        if not isinstance(raw, Mapping):
            raise ConfigError(f"threshold={raw!r} must be a mapping of settings, such as {{policy: alert_budget}}")
        known = [field.name for field in dataclasses.fields(cls)]
        for key in raw:
            if key not in known:
                near = difflib.get_close_matches(str(key), known, n=1)
                remedy = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
                raise ConfigError(f"threshold setting {key!r} is unknown: {remedy}")
        config = cls(**raw)
        idle = [key for key in raw if key not in {*EVERY_POLICY, *SETTINGS_OF[config.policy]}]
        if idle:
            logger.warning("threshold settings %s have no effect with policy %r", ", ".join(idle), config.policy)
        return config

    def to_dict(self) -> dict[str, Any]:
        """Every setting, for logging and YAML; `from_dict` takes it back."""
        return dataclasses.asdict(self)


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _check(holds: bool, setting: str, remedy: str) -> None:
    if not holds:
        raise ConfigError(f"{setting} {remedy}")
