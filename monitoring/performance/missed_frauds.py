"""Estimate the frauds that were not flagged from rows drawn at random and reviewed.

Labels of alerts and chargebacks do not cover frauds that nobody noticed. Rows drawn at random do (`python -m
ray_jobs.labels draw`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from fraud.metrics.resampling import wilson
from monitoring.performance.live_precision import DayPrecision


@dataclass(frozen=True)
class MissedFrauds:
    """Totals over the days with reviewed rows.

    unflagged: rows without a flag; looked_at: unflagged rows that were drawn and labelled; frauds: frauds among those.
    missed: estimated frauds among the unflagged rows, with a 95 % interval. caught: estimated frauds among the alerts
    of these days. recall: caught / (caught + missed), with the interval that follows from the one of missed.
    """

    days: int
    unflagged: int
    looked_at: int
    frauds: int
    missed: float
    missed_low: float
    missed_high: float
    caught: float
    recall: float | None
    recall_low: float | None
    recall_high: float | None


def estimate_missed(drawn: pd.DataFrame, labels: pd.Series, days: Sequence[DayPrecision]) -> MissedFrauds | None:
    """Estimate missed frauds and recall. None if no drawn row has a label on a day with a known precision.

    drawn: see fraud.labels.store.LabelStore.drawn. labels: bool by id, only of rows reviewed because they were drawn
    (chargebacks of drawn rows would bias the share upwards). days: from by_day. Each day is a stratum: its share of
    frauds applies to its own unflagged rows. The interval is Wilson's for the pooled share, as if every day had been
    sampled equally.
    """
    caught = {day.day: day.alerts * day.precision for day in days if day.precision is not None}
    if not len(drawn):
        return None
    reviewed = drawn[~drawn["is_flagged"].astype(bool) & drawn["id"].isin(labels.index)]
    reviewed = reviewed.assign(
        is_fraud=reviewed["id"].map(labels).astype(bool), day=pd.to_datetime(reviewed["day"]).dt.date
    )
    reviewed = reviewed[reviewed["day"].isin(list(caught))]
    if not len(reviewed):
        return None
    by_day = reviewed.groupby("day").agg(
        n=("id", "size"), frauds=("is_fraud", "sum"), unflagged=("n_unflagged", "first")
    )
    unflagged, looked_at = int(by_day["unflagged"].sum()), int(by_day["n"].sum())
    estimate = float((by_day["unflagged"] * by_day["frauds"] / by_day["n"]).sum())
    low, high = wilson(estimate / unflagged * looked_at, looked_at) or (np.nan, np.nan)
    total_caught = sum(caught[day] for day in by_day.index)
    others = (estimate, high * unflagged, low * unflagged)
    recalls = [total_caught / (total_caught + each) if total_caught + each > 0 else None for each in others]
    return MissedFrauds(
        days=len(by_day), unflagged=unflagged, looked_at=looked_at, frauds=int(by_day["frauds"].sum()), missed=estimate,
        missed_low=low * unflagged, missed_high=high * unflagged, caught=total_caught,
        recall=recalls[0], recall_low=recalls[1], recall_high=recalls[2],
    )  # fmt: skip
