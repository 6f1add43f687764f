"""Where each check of the gate draws its line."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fraud.errors import ConfigError

FIGURES = ("average_precision", "roc_auc", "recall_at_budget", "amount_recall_at_budget")


@dataclass(frozen=True, kw_only=True)
class GateLimits:
    """Where each check draws its line. Raises ConfigError naming the flag for a value out of range.

    margin: of a figure that the challenger must be better by. figures: those that must be better, of `FIGURES`; the
    others must not be worse. min_frauds: in the judged rows. min_labelled: share of the judged rows. significance:
    chance, over all segments together, that one is called worse that is not. segment_tolerance: recall that a segment
    may lose. latency_budget_ms: p99 of a single row; latency_ratio: to the champion's. calibration_factor,
    alert_factor, label_factor: by which shares may be off, beyond chance. max_conflicts: share of transactions whose
    label another source contradicts. max_source_shift: share of the frauds' labels that come from other sources than
    before. golden_tolerance: average precision that the frozen rows may lose.
    """

    margin: float = 0.005
    figures: tuple[str, ...] = ("average_precision",)
    min_frauds: int = 50
    min_labelled: float = 0.9
    significance: float = 0.05
    segment_tolerance: float = 0.10
    latency_budget_ms: float = 5.0
    latency_ratio: float = 3.0
    calibration_factor: float = 3.0
    alert_factor: float = 3.0
    label_factor: float = 4.0
    max_conflicts: float = 0.05
    max_source_shift: float = 0.3
    golden_tolerance: float = 0.02

    def __post_init__(self) -> None:
        for name in self.figures:
            if name not in FIGURES:
                raise ConfigError(f"--better {name!r} is unknown: use one of {', '.join(FIGURES)}")
        shares = ("min_labelled", "significance", "max_conflicts", "max_source_shift")
        ratios = ("latency_ratio", "calibration_factor", "alert_factor", "label_factor")
        for names, low, high, told in (
            (("margin", "segment_tolerance", "golden_tolerance"), 0.0, 1.0, "from 0 to below 1"),
            (shares, 0.0, 1.0 + 1e-12, "from 0 to 1"),
            (ratios, 1.0, math.inf, "of 1 or more"),
            (("latency_budget_ms",), 1e-6, math.inf, "above 0"),
            (("min_frauds",), 2, math.inf, "of 2 or more"),
        ):
            for name in names:
                if not low <= getattr(self, name) < high:
                    raise ConfigError(f"--{name.replace('_', '-')} {getattr(self, name):g}: give a number {told}")
