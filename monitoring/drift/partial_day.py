"""Whether a file holds only a part of a day, seen from the hours in which the reference's rows come."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from fraud.days import Zone

# A part of a day: at least a tenth of the usual rows come at other hours, and a whole day of as many rows would stay
# within these hours by chance with less than this probability.
_SHARE, _CHANCE = 0.9, 1e-6


@dataclass(frozen=True)
class PartialDay:
    """first, last: local time of day. share: of a usual day's rows that come between them.

    rows: bool (n_reference_rows,), which of the reference's rows come between them.
    """

    first: str
    last: str
    share: float
    rows: np.ndarray

    @property
    def text(self) -> str:
        """In words."""
        share = f"{self.share:.0%}" if self.share >= 0.01 else "less than 1%"
        hours = f"{self.first} to {self.last}"
        return f"the current file is a part of a day, {hours}, when usually {share} of the rows come"

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        return {"first": self.first, "last": self.last, "share": round(self.share, 6)}


def partial_day(
    reference: np.ndarray, window: tuple[pd.Timestamp, pd.Timestamp], rows: int, zone: Zone
) -> PartialDay | None:
    """The part of a day that `window` covers; None if the day is whole, or the window spans several days.

    reference: times of the reference's rows, datetime64 UTC. window: first and last time of the current file; rows:
    its rows.
    """
    ends = zone.local_us(np.array(window, dtype="datetime64[us]"))
    times = zone.local_us(reference.astype("datetime64[us]"))
    first, last = ends - ends.astype("datetime64[D]")
    if len(times) == 0 or ends[0].astype("datetime64[D]") != ends[1].astype("datetime64[D]"):
        return None
    clock = times - times.astype("datetime64[D]")  # NaT compares as False
    inside = (clock >= first) & (clock <= last)
    known = int((~np.isnat(times)).sum())
    share = inside.sum() / max(known, 1)
    if not known or share > _SHARE or rows * math.log(max(share, 1e-12)) > math.log(_CHANCE):
        return None
    shown = [str((np.datetime64(0, "D") + end).astype("datetime64[m]"))[-5:] for end in (first, last)]
    return PartialDay(shown[0], shown[1], float(share), inside)
