"""Where each check of the gate draws its line."""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import Field

from fraud.configuration import Number, Whole, configuration

Figure = Literal["average_precision", "roc_auc", "recall_at_budget", "amount_recall_at_budget"]
FIGURES: tuple[str, ...] = get_args(Figure)


@configuration("gate")
class GateLimits:
    """Where each check draws its line. The factors apply to what chance does not explain.

    figures: those that must be better; the others must not be worse. Raises ConfigError for a value out of range.
    """

    margin: Number = Field(default=0.005, ge=0, lt=1, description="a figure must be better by this")
    figures: tuple[Figure, ...] = ("average_precision",)
    min_frauds: Whole = Field(default=50, ge=2, description="labelled frauds that it takes to judge")
    min_labelled: Number = Field(default=0.9, ge=0, le=1, description="share of the judged rows that must be labelled")
    segment_tolerance: Number = Field(default=0.10, ge=0, lt=1, description="recall that a segment may lose")
    significance: Number = Field(
        default=0.05, ge=0, le=1, description="chance, over all segments, to call one worse that is not"
    )
    latency_budget_ms: Number = Field(default=5.0, gt=0, description="p99 of a single row")
    latency_ratio: Number = Field(default=3.0, ge=1, description="times the champion's p99")
    calibration_factor: Number = Field(
        default=3.0, ge=1, description="by which scores may be rarer or more frequent than they say"
    )
    alert_factor: Number = Field(
        default=3.0, ge=1, description="by which it may alert on more rows than the budget and the champion"
    )
    label_factor: Number = Field(
        default=4.0, ge=1, description="by which the share of frauds may differ from the champion's"
    )
    max_conflicts: Number = Field(
        default=0.05, ge=0, le=1, description="share of labels that another source may contradict"
    )
    max_source_shift: Number = Field(
        default=0.3, ge=0, le=1, description="share of frauds' labels that may come from other sources than before"
    )
    golden_tolerance: Number = Field(
        default=0.02, ge=0, lt=1, description="average precision that the golden rows may lose"
    )
