"""Frauds that were not flagged: estimated from rows that were drawn at random and looked at, flagged or not.

Labels that come by themselves, of alerts and of chargebacks, say nothing of a fraud that nobody noticed; rows drawn at
random do (python -m ray_jobs.labels draw).
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
    """On the days with such rows, together. unflagged: rows that were not flagged; looked_at: of those, drawn and
    labelled; frauds: of these. missed: frauds among the unflagged, with its 95 % interval; caught: frauds among the
    alerts of these days; recall: caught by both, with the interval that follows from that of the missed.
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
    """None where nothing drawn has a label on a day whose precision is known.

    drawn: as fraud.labels.store.LabelStore.drawn gives it. labels: bool by id, of the ids that were looked at because
    they were drawn (a chargeback of a drawn row would count a fraud where nobody counts the others). days: as by_day
    gives them. Each day is a stratum: its share of frauds counts for its own unflagged rows. The interval is Wilson's
    for the share of all of them together, as if each day had been looked at alike.
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
