"""Limits of the gate's checks."""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import Field

from fraud.configuration import Number, Whole, configuration

Figure = Literal["average_precision", "roc_auc", "recall_at_budget", "amount_recall_at_budget"]
FIGURES: tuple[str, ...] = get_args(Figure)


@configuration("gate")
class GateLimits:
    """Limits of the gate's checks. The factors apply to deviations beyond chance.

    figures: metrics that must be better; the others must not be worse. Raises ConfigError for a value out of range.
    """

    margin: Number = Field(default=0.005, ge=0, lt=1, description="margin by which a figure must be better")
    figures: tuple[Figure, ...] = ("average_precision",)
    min_frauds: Whole = Field(default=50, ge=2, description="minimum of labelled frauds and of legitimate rows")
    min_labelled: Number = Field(default=0.9, ge=0, le=1, description="share of the judged rows that must be labelled")
    segment_tolerance: Number = Field(default=0.10, ge=0, lt=1, description="recall that a segment may lose")
    significance: Number = Field(
        default=0.05, ge=0, le=1, description="chance, over all segments, to call one worse that is not"
    )
    latency_budget_ms: Number = Field(default=5.0, gt=0, description="p99 of a single row")
    latency_ratio: Number = Field(default=3.0, ge=1, description="times the champion's p99")
    calibration_factor: Number = Field(
        default=3.0, ge=1, description="by which scores may be rarer or more frequent than calibrated"
    )
    alert_factor: Number = Field(
        default=3.0, ge=1, description="by which the alerts may exceed the budget and those of the champion"
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
