"""Days of a time zone: the day of an instant, and the first instant of a day. All day arithmetic is here.

Instants are microseconds since 1970 in UTC. Zones are IANA names such as Europe/Berlin. The offsets come from the
machine's tables (`zoneinfo`), read once per process (0.1 s). Days of 23 and 25 hours are handled. Ten million rows take
0.1 to 0.6 s.
"""

from __future__ import annotations

import datetime as dt
import zoneinfo
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import numpy as np

from fraud.errors import ConfigError, closest

_SECOND, _DAY = 1_000_000, 86_400_000_000  # microseconds
_EPOCH = dt.date(1970, 1, 1)
# No time is accepted outside these years (fraud.schema.values); before and after them the nearest offset holds.
FIRST_YEAR, LAST_YEAR = 1900, 2199
_FIRST, _LAST = (int(dt.datetime(year, 1, 1, tzinfo=dt.UTC).timestamp()) for year in (FIRST_YEAR, LAST_YEAR + 1))
_BEGINNING = np.iinfo(np.int64).min

_Times = TypeVar("_Times", bound=np.ndarray)


@dataclass(frozen=True)
class Zone:
    """A time zone. Raises ConfigError for an unknown name and suggests the closest one."""

    name: str = "UTC"

    def __post_init__(self) -> None:
        if self.name != "UTC" and (fault := _fault_of(self.name)):
            raise ConfigError(fault)

    def local_us(self, times_us: _Times) -> _Times:
        """Local time in microseconds since 1970, in the input dtype: int64, float64 (NaN stays) or datetime64[us]."""
        if self.name == "UTC":
            return times_us
        starts, offsets = _offsets(self.name)
        kind = times_us.dtype.kind
        shift = offsets.astype("timedelta64[us]") if kind == "M" else offsets
        times = times_us.astype("datetime64[us]").view(np.int64) if kind == "M" else times_us
        if not len(times):
            return times_us
        ends = (np.fmin.reduce(times), np.fmax.reduce(times))  # these ignore NaN
        first, last = (np.searchsorted(starts, ends, side="right") - 1).tolist()
        if first == last:
            return times_us + shift[first]
        return times_us + shift[first + np.searchsorted(starts[first + 1 : last + 1], times, side="right")]

    def day_of(self, times_us: np.ndarray) -> np.ndarray:
        """The local day of each instant (int64 microseconds or datetime64) as datetime64[D]; NaT stays."""
        return self.local_us(np.asarray(times_us).astype("datetime64[us]")).astype("datetime64[D]")

    def start_of(self, day: dt.date) -> int:
        """The first instant of a day, microseconds UTC. For a day that the zone skipped: of the next day."""
        midnight = (day - _EPOCH).days * _DAY
        if self.name == "UTC":
            return midnight
        starts, offsets = _offsets(self.name)
        first = max(int(np.searchsorted(starts, midnight - 2 * _DAY, side="right")) - 1, 0)
        ends = [*starts[first + 1 :].tolist(), np.iinfo(np.int64).max]
        for start, offset, end in zip(starts[first:].tolist(), offsets[first:].tolist(), ends, strict=True):
            if (instant := max(start, midnight - offset)) < end:
                return int(instant)
        raise AssertionError("the last offset of a zone has no end")

    def moment_of(self, day: dt.date) -> dt.datetime:
        """`start_of` as a naive datetime, UTC."""
        return dt.datetime(1970, 1, 1) + dt.timedelta(microseconds=self.start_of(day))

    def end_of(self, day: dt.date) -> int:
        """The first instant after a day, microseconds UTC."""
        return self.start_of(day + dt.timedelta(days=1))

    def today(self, now: dt.datetime | None = None) -> dt.date:
        """The day of `now` (timezone-aware; default: this machine's clock)."""
        return self._aware(now).date()

    def yesterday(self, now: dt.datetime | None = None) -> dt.date:
        """The day before `today`."""
        return self.today(now) - dt.timedelta(days=1)

    def _aware(self, now: dt.datetime | None) -> dt.datetime:
        zone = dt.UTC if self.name == "UTC" else zoneinfo.ZoneInfo(self.name)
        return dt.datetime.now(zone) if now is None else now.astimezone(zone)


UTC = Zone()


@lru_cache(maxsize=64)
def _fault_of(name: object) -> str:
    """Why the name is not a time zone; empty if it is one."""
    try:
        zoneinfo.ZoneInfo(str(name))
        return ""
    except (KeyError, ValueError, OSError):  # OSError: "Europe" is a folder
        known = zoneinfo.available_timezones()
    if not known:
        return (
            f"day_zone {name!r} cannot be looked up: this machine has no time zone tables; install your system's "
            "tzdata, or `pip install tzdata`"
        )
    near = closest(str(name), known) or "; use an IANA name such as Europe/Berlin, or UTC"
    return f"day_zone {name!r} is not a time zone{near}"


@lru_cache(maxsize=64)
def _offsets(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Start of each UTC offset of a zone (the first: the smallest int64), and the offsets: int64 microseconds.

    `zoneinfo` does not expose its tables. So every day is queried, and each change is located by bisection.
    """
    zone = zoneinfo.ZoneInfo(name)

    def offset_at(second: int) -> dt.timedelta | None:
        return dt.datetime.fromtimestamp(second, zone).utcoffset()

    starts, offsets = [_BEGINNING], [offset_at(_FIRST)]
    for day in range(_FIRST, _LAST, 86_400):
        if offset_at(day + 86_400) != offsets[-1]:
            before, after = day, day + 86_400
            while after - before > 1:
                middle = (before + after) // 2
                before, after = (middle, after) if offset_at(middle) == offsets[-1] else (before, middle)
            starts.append(after * _SECOND)
            offsets.append(offset_at(after))
    microseconds = [0 if offset is None else offset // dt.timedelta(microseconds=1) for offset in offsets]
    return np.array(starts, dtype=np.int64), np.array(microseconds, dtype=np.int64)
