"""Which times a transaction may have: none before its column's `oldest`, none further ahead of the clock than allowed.

Entity history is trimmed by the newest time it has seen, and a split by time begins at the oldest. So one row of 2099
would empty everybody's history, and numbers in a wrong unit, which land in January 1970, would fill the training. Such
rows are refused where they come in, in files and in requests, by the same limits and in the same words.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from fraud.schema.columns import Column
from fraud.schema.values import EPOCH


@dataclass(frozen=True)
class Refusal:
    """Why a time is refused, said of the value, and what to do."""

    problem: str
    remedy: str

    @property
    def reason(self) -> str:
        """Both, as quarantine says it."""
        return f"{self.problem}; {self.remedy}"


class TimeLimits:
    """The limits of a timestamp column. now: the clock, seconds since 1970; it is read at each check, to the second."""

    def __init__(self, column: Column, now: Callable[[], float] = time.time) -> None:
        self._column, self._now = column, now
        self._newest_at = -1, EPOCH
        self._oldest = None if column.first_day is None else dt.datetime.combine(column.first_day, dt.time())

    def refusal(self, moment: dt.datetime) -> Refusal | None:
        """Why one time, UTC without a zone, is refused; None for one that is accepted."""
        if self._oldest is not None and moment < self._oldest:
            return self._too_early()
        if moment > (newest := self._newest()):
            return self._too_late(newest)
        return None

    def refusals(self, times: np.ndarray) -> Iterator[tuple[np.ndarray, Refusal]]:
        """The rows that are refused, bool (n_rows,), with why. times: datetime64[us] (n_rows,), NaT is accepted."""
        newest = self._newest()
        too_late = times > np.datetime64(newest, "us")
        if too_late.any():
            yield too_late, self._too_late(newest)
        if self._oldest is not None and (too_early := times < np.datetime64(self._oldest, "us")).any():
            yield too_early, self._too_early()

    def _newest(self) -> dt.datetime:
        second = int(self._now())
        if second != self._newest_at[0]:  # a batch asks thousands of times a second, and making a date takes 1 us
            self._newest_at = second, EPOCH + dt.timedelta(seconds=second, days=self._column.horizon_days)
        return self._newest_at[1]

    def _too_early(self) -> Refusal:
        return Refusal(
            f"is before {self._column.first_day}",
            f"correct the time or its unit, or set an earlier `oldest` for column {self._column.name!r} in the schema",
        )

    def _too_late(self, newest: dt.datetime) -> Refusal:
        days = self._column.horizon_days
        return Refusal(
            f"is later than {newest:%Y-%m-%dT%H:%M}Z, {days:g} day{'s' * (days != 1)} ahead of this machine's clock",
            "correct the time, its unit or the clock, or set a larger `horizon_days` for column "
            f"{self._column.name!r} in the schema",
        )
