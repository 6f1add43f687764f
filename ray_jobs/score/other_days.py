"""Rows of other days in a file that is scored for one day: counted by day, and never skipped silently.

--date may select one day of a long file. But if a day's own file has rows of an adjacent day, it was cut at another
midnight than the schema's, or has late rows: skipped, they would never be scored.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections import Counter
from collections.abc import Iterator
from typing import Any, Literal

from fraud.counts import counted
from fraud.data.partitions import UNKNOWN
from fraud.days import UTC, Zone
from fraud.errors import DataError

logger = logging.getLogger(__name__)

Policy = Literal["stop", "skip"]
# A file with rows of this many other days is a long file, unless they are few; or with one less, if those are full.
_LONG_DAYS = 3
_HOUR, _DAY = 3_600_000_000, 86_400_000_000  # microseconds
_OFFSET_STEPS = (_HOUR, _HOUR // 2, _HOUR // 4)  # of UTC offsets, most common first
_SURE = 4 * _HOUR  # longest gap at night that still determines where the day begins
_MOST_NAMED = 5
_EXAMPLES = (
    "UTC", "Europe/Berlin", "Europe/London", "Europe/Athens", "America/New_York", "America/Chicago", "America/Denver",
    "America/Los_Angeles", "America/Sao_Paulo", "Asia/Dubai", "Asia/Kolkata", "Asia/Singapore", "Asia/Tokyo",
    "Australia/Sydney", "Pacific/Auckland",
)  # fmt: skip


class OtherDays:
    """Counts rows of other days from a stream's notes (`ray_jobs.streaming.checked_blocks.outside`)."""

    def __init__(self) -> None:
        self.by_day: Counter[str] = Counter()
        self._first: int | None = None
        self._last: int | None = None

    @property
    def rows(self) -> int:
        """Rows of other days, or without a day."""
        return self.by_day.total()

    @property
    def days(self) -> list[str]:
        """The other days with rows, in order."""
        return sorted(day for day in self.by_day if day != UNKNOWN)

    def take(self, note: dict[str, Any]) -> None:
        """Count a note: {"outside": {day: rows}, "span": [first, last]}, microseconds UTC of the good rows."""
        self.by_day.update(note["outside"])
        if note["span"]:
            first, last = note["span"]
            self._first = first if self._first is None else min(first, self._first)
            self._last = last if self._last is None else max(last, self._last)

    def check(self, path: str, date: dt.date, zone: str, own_rows: int, policy: Policy) -> Iterator[str]:
        """Yield warnings: rows without a time, and skipped rows of other days in a day's own file.

        zone: of `date`. own_rows: rows of the day, with refused ones. Raises DataError for a day's own file if the
        policy is to stop.
        """
        if timeless := self.by_day[UNKNOWN]:
            yield f"{counted(timeless, 'row has', 'rows have')} no time and so no day: scored without --date only"
        if not self.days:
            return
        counts = [f"{day}: {self.by_day[day]:,}" for day in self.days]
        named = ", ".join(counts[:_MOST_NAMED]) + (
            f" and {len(counts) - _MOST_NAMED} more" if len(counts) > _MOST_NAMED else ""
        )
        rows = sum(self.by_day[day] for day in self.days)
        if self._is_long(own_rows):
            logger.info("%s rows of %s other days are skipped: %s was requested", f"{rows:,}", len(counts), date)
            return
        if policy == "skip":
            yield (
                f"{counted(rows, 'row')} of other days ({named}) {'is' if rows == 1 else 'are'} skipped (--other-days "
                "skip): they are scored when their own day is scored with this file too"
            )
            return
        remedy = "A file that was cut at another midnight needs `day_zone` in the schema."
        if (offset := self._fitting_offset(date)) is not None:
            remedy = (
                f"The rows fit a day at {_named(offset)}: set `day_zone` of the schema to the zone of the data"
                f"{_example(date, offset)}, and train with it."
            )
        raise DataError(
            f"{path}: {counted(rows, 'row is', 'rows are')} not of {date} ({zone}), {own_rows:,} are; {named}. "
            f"Nothing was written. {remedy} Late rows belong to their own day: skip them here by `--other-days skip`, "
            "and score that day again with both files (--data takes a pattern), the same flag and --force"
        )

    def _is_long(self, own_rows: int) -> bool:
        """Whether the file has full days beside the requested one, which a wrong cut at midnight cannot explain."""
        if len(self.days) >= _LONG_DAYS and sum(self.by_day[day] for day in self.days) >= own_rows:
            return True
        return own_rows > 0 and sum(self.by_day[day] >= own_rows / 2 for day in self.days) >= _LONG_DAYS - 1

    def _fitting_offset(self, date: dt.date) -> int | None:
        """The UTC offset, in microseconds, of a zone in which all rows are of `date`; None if unclear."""
        if self._first is None or self._last is None:
            return None
        # In a zone ahead of UTC by `offset`, the day begins at midnight UTC minus the offset.
        midnight = UTC.start_of(date)
        lowest, highest = midnight - self._first, midnight + _DAY - self._last - 1
        if not lowest <= highest <= lowest + _SURE:
            return None
        middle = (lowest + highest) / 2
        for step in _OFFSET_STEPS:
            offset = round(middle / step) * step
            if lowest <= offset <= highest and -12 * _HOUR <= offset <= 14 * _HOUR:
                return offset
        return None


def _named(offset: int) -> str:
    """Format an offset as UTC+02:00."""
    hours, minutes = divmod(abs(offset) // 60_000_000, 60)
    return f"UTC{'-' if offset < 0 else '+'}{hours:02d}:{minutes:02d}"


def _example(date: dt.date, offset: int) -> str:
    """ ", such as ZONE" for a large zone with this offset on `date`; else empty."""
    begins = UTC.start_of(date) - offset
    fitting = [name for name in _EXAMPLES if Zone(name).start_of(date) == begins]
    return f", such as {fitting[0]}" if fitting else ""
