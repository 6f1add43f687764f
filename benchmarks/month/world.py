"""Simulated transactions of many days, with a drift in the middle of the month and late labels."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

import numpy as np
import pandas as pd

from fraud.data.simulation import transactions
from fraud.schema import Schema
from fraud.schema.columns import Column

FIRST_DAY = dt.date(2024, 3, 1)  # day 1 of the month
LABEL_DAYS = 7
# Share of a day's frauds that share cards: a stolen card is used more than once.
_STOLEN = 0.67


@dataclass(frozen=True, kw_only=True)
class World:
    """Parameters of the simulation. The month starts on day 1; earlier days are 0, -1, ...

    rows: per day. days: length of the month. before: simulated days before it. drift_day: from this day legitimate
    amounts inflate, hours and devices shift (`drift`, as in fraud.data.simulation), and account takeovers from known
    devices begin (`new_frauds`, share of the rows).
    """

    rows: int = 2000
    days: int = 30
    before: int = 49
    seed: int = 1
    fraud_rate: float = 0.02
    drift_day: int = 15
    drift: float = 1.5
    new_frauds: float = 0.012

    def day(self, day: int) -> pd.DataFrame:
        """Transactions of one day with `is_fraud`, in time order."""
        index = day + self.before - 1
        has_drifted = day >= self.drift_day
        rng = np.random.default_rng([self.seed, 17, index])
        frame = transactions(
            self.rows, self.seed, self.fraud_rate, self.drift if has_drifted else 0.0, start=index * self.rows
        ).reset_index(drop=True)
        if has_drifted:
            _take_over(frame, rng, self.new_frauds)
        seconds = frame["hour"].to_numpy() * 3600 + rng.integers(0, 3600, self.rows)
        customers = rng.integers(0, 20 * self.rows, self.rows)
        stolen = (frame["is_fraud"].to_numpy() == 1) & (rng.random(self.rows) < _STOLEN)
        few = max(1, int(stolen.sum()) // 3)
        customers[stolen] = rng.choice(customers, few)[rng.integers(0, few, int(stolen.sum()))]
        frame.insert(0, "customer", customers.astype(str))
        frame.insert(0, "time", pd.Timestamp(date_of(day)) + pd.to_timedelta(seconds, unit="s"))
        frame.insert(0, "id", [f"{index:03d}-{n:05d}" for n in range(self.rows)])
        return frame.sort_values("time", kind="stable", ignore_index=True)


def _take_over(frame: pd.DataFrame, rng: np.random.Generator, share: float) -> None:
    """Turn a share of the legitimate rows into takeovers, in place."""
    picked = np.flatnonzero((frame["is_fraud"].to_numpy() == 0) & (rng.random(len(frame)) < share))
    n = len(picked)
    frame.loc[picked, "is_fraud"] = 1
    frame.loc[picked, "amount"] = np.round(np.exp(rng.normal(np.log(320), 0.35, n)), 2)
    frame.loc[picked, "distance"] = np.round(np.exp(rng.normal(np.log(150), 0.5, n)), 2)
    frame.loc[picked, "device_score"] = np.round(rng.uniform(0.005, 0.06, n), 4)
    frame.loc[picked, "country_mismatch"] = 0
    frame.loc[picked, "hour"] = rng.integers(9, 18, n)


def date_of(day: int) -> dt.date:
    return FIRST_DAY + dt.timedelta(days=day - 1)


def schema() -> Schema:
    """The shipped five columns plus id, time and customer. The label delay is a flag of the join."""
    five = Schema.load("transactions")
    who = (
        Column(name="id", kind="id"),
        Column(name="time", kind="timestamp"),
        Column(name="customer", kind="entity"),
    )
    return Schema(name="month", columns=(*who, *five.columns))
