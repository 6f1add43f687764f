"""The parts of a schema: Column and History, frozen dataclasses that validate themselves."""

from __future__ import annotations

import datetime as dt
import math
import re
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

from fraud.days import FIRST_YEAR, LAST_YEAR
from fraud.errors import SchemaError, closest

Kind = Literal["numeric", "categorical", "boolean", "timestamp", "entity", "id", "label"]
Transform = Literal["none", "log", "signed_log"]
Unit = Literal["s", "ms", "us", "ns"]
Calendar = Literal["hour", "weekday", "weekend", "night"]
Statistic = Literal[
    "count", "sum", "mean", "std", "max", "ratio", "zscore", "distinct", "first_seen", "risk", "frauds",
    "time_since_last", "distance_from_last", "speed_from_last",
]  # fmt: skip

# Default limit of a numeric column: the square of a larger scaled value overflows float32.
LARGEST_NUMBER = 1e15
# Delimiters other than commas, with their names.
OTHER_DELIMITERS = {";": "semicolons", "\t": "tabs", "|": "bars"}
# Options for one kind only, each with its default.
_OPTION_KIND: dict[str, tuple[Kind, object]] = {
    "minimum": ("numeric", None),
    "maximum": ("numeric", None),
    "integer": ("numeric", False),
    "transform": ("numeric", "none"),
    "categories": ("categorical", ()),
    "unit": ("timestamp", None),
    "calendar": ("timestamp", ()),
    "oldest": ("timestamp", None),
    "horizon_days": ("timestamp", 1.0),
}
# Default lower limit of dates. Numeric times have none, since they may count from any origin.
OLDEST_DATE = dt.date(1990, 1, 1)
_LONGEST_HORIZON_DAYS = 36_500


def require(holds: bool, where: str, message: str) -> None:
    """Raise SchemaError("schema WHERE: MESSAGE") if `holds` is false."""
    if not holds:
        raise SchemaError(f"schema {where}: {message}")


def _one_of(value: object, allowed: tuple[str, ...], where: str, key: str) -> None:
    near = closest(str(value), allowed)
    require(value in allowed, where, f"{key} {value!r} is unknown{near or ';'} use one of {', '.join(allowed)}")


def is_number(value: object) -> bool:
    """Whether `value` is a finite int or float, but not a bool."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_flag(value: object, where: str, key: str) -> None:
    require(isinstance(value, bool), where, f"{key} is {value!r}; write true or false without quotes")


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of the data and its allowed values.

    name: the column's name in the files and in requests.
    kind: numeric, categorical and boolean are features; timestamp orders the rows and may give calendar features;
        entity is the owner of a history (a card, a terminal); id identifies a row; label is the target (1 = fraud).
    minimum, maximum: inclusive limits, numeric only; default plus and minus `LARGEST_NUMBER`.
    integer: only whole numbers, numeric only.
    nullable: missing values are allowed (missing labels always are: they mean "not known yet").
    categories: closed list of values, categorical only; if empty, any text is accepted and training learns the list.
    transform: applied before scaling, numeric only; "log" is log1p and needs minimum >= 0.
    unit: times are numbers of this unit since an origin (1970 assumed), not dates; timestamp only.
    calendar: which calendar features to derive, timestamp only.
    oldest: first allowed day (UTC), ISO text, timestamp only; default `OLDEST_DATE`, or none with a unit.
    horizon_days: how far a time may be ahead of this machine's clock, timestamp only.
    example: a plausible value for the documentation of the HTTP API.

    Raises SchemaError naming the column, the key and the remedy.
    """

    name: str
    kind: Kind
    description: str = ""
    minimum: float | None = None
    maximum: float | None = None
    integer: bool = False
    nullable: bool = False
    categories: tuple[str, ...] = ()
    transform: Transform = "none"
    unit: Unit | None = None
    calendar: tuple[Calendar, ...] = ()
    oldest: str | None = None
    horizon_days: float = 1.0
    example: float | int | str | bool | None = None

    def __post_init__(self) -> None:
        require(isinstance(self.name, str) and bool(self.name.strip()), "column", "name is empty; give it a text")
        where = f"column {self.name!r}"
        _one_of(self.kind, get_args(Kind), where, "kind")
        require(isinstance(self.description, str), where, "description must be a text; put it in quotes")
        _is_flag(self.nullable, where, "nullable")
        for key, (kind, absent) in _OPTION_KIND.items():
            is_set = getattr(self, key) != absent
            require(not is_set or self.kind == kind, where, f"{key} is for {kind} columns, not {self.kind}; remove it")
        _is_flag(self.integer, where, "integer")
        _one_of(self.transform, get_args(Transform), where, "transform")
        if self.unit is not None:
            _one_of(self.unit, get_args(Unit), where, "unit")
        for feature in self.calendar:
            _one_of(feature, get_args(Calendar), where, "calendar")
        for part in self.categories:
            require(
                isinstance(part, str) and part == part.strip() != "",
                where,
                f"category {part!r} must be a text; quote it",
            )
        require(len(set(self.categories)) == len(self.categories), where, "categories repeat a value; list each once")
        self._check_limits(where)
        self._check_times(where)
        self._check_example(where)

    def _check_limits(self, where: str) -> None:
        for key in ("minimum", "maximum"):
            limit = getattr(self, key)
            require(
                limit is None or is_number(limit),
                where,
                f"{key} {limit!r} is not a finite number; write one or leave it out",
            )
        low, high = self.bounds
        require(low <= high, where, f"minimum {low:g} is above maximum {high:g}; swap or widen them")
        if self.transform == "log":
            require(
                self.minimum is not None and self.minimum >= 0,
                where,
                "transform 'log' needs minimum >= 0; set `minimum: 0`, or use signed_log where values may be negative",
            )

    def _check_times(self, where: str) -> None:
        message = f"oldest {self.oldest!r} is no day of {FIRST_YEAR} to {LAST_YEAR}; write it as 1990-01-01"
        try:
            day = dt.date.fromisoformat(self.oldest) if isinstance(self.oldest, str) else None
        except ValueError:
            raise SchemaError(f"schema {where}: {message}") from None
        in_years = day is not None and FIRST_YEAR <= day.year <= LAST_YEAR
        require(self.oldest is None or in_years, where, message)
        days = self.horizon_days
        require(
            is_number(days) and 0 <= days <= _LONGEST_HORIZON_DAYS,
            where,
            f"horizon_days {days!r} must be a number of days, 0 to {_LONGEST_HORIZON_DAYS}",
        )

    def _check_example(self, where: str) -> None:
        value = self.example
        if value is None:
            return
        if self.kind == "numeric" or (self.kind == "timestamp" and self.unit):
            require(is_number(value), where, f"example {value!r} is not a number")
        if self.kind == "numeric":
            low, high = self.bounds
            require(low <= float(value) <= high, where, f"example {value!r} is outside {low:g} to {high:g}")
            require(not self.integer or float(value).is_integer(), where, f"example {value!r} is not a whole number")
        elif self.kind == "categorical" and self.categories:
            require(value in self.categories, where, f"example {value!r} is not one of its categories")

    @property
    def first_day(self) -> dt.date | None:
        """The first allowed day (UTC); None without a limit."""
        if self.oldest is not None:
            return dt.date.fromisoformat(self.oldest)
        return OLDEST_DATE if self.unit is None else None

    @cached_property
    def bounds(self) -> tuple[float, float]:
        """The inclusive range of a numeric value; default plus and minus `LARGEST_NUMBER`."""
        low = (
            min(-LARGEST_NUMBER, math.inf if self.maximum is None else self.maximum)
            if self.minimum is None
            else self.minimum
        )
        high = (
            max(LARGEST_NUMBER, -math.inf if self.minimum is None else self.minimum)
            if self.maximum is None
            else self.maximum
        )
        return float(low), float(high)


# Statistics over a window. The others use only the entity's newest transaction.
WINDOWED: tuple[str, ...] = (
    "count", "sum", "mean", "std", "max", "ratio", "zscore", "distinct", "first_seen", "risk", "frauds",
)  # fmt: skip
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(s|min|h|d)")
_MICROSECONDS = {"s": 1e6, "min": 60e6, "h": 3600e6, "d": 86_400e6}
# History keys that statistics need beside the entity, with the kind of value.
_NEEDS = {
    "value": (("sum", "mean", "std", "max", "ratio", "zscore"), "a numeric column"),
    "of": (("distinct", "first_seen"), "a categorical or entity column"),
    "location": (("distance_from_last", "speed_from_last"), "two numeric columns, latitude and longitude in degrees"),
}


def microseconds(window: str) -> int:
    """Length of a window like "30min", "1h", "7d" in microseconds. Raises SchemaError."""
    match = _DURATION.fullmatch(str(window))
    require(
        match is not None and float(match[1]) > 0,
        "history",
        f"window {window!r} is not a duration; write a number and s, min, h or d, e.g. 1h or 7d",
    )
    assert match is not None
    return round(float(match[1]) * _MICROSECONDS[match[2]])


@dataclass(frozen=True, kw_only=True)
class History:
    """Features from an entity's own past (computed in `fraud.history`).

    They use only what was known before a row: the entity's earlier transactions, and frauds whose label delay is over.

    entity: name of an entity column. windows: lengths of time before the row, e.g. [1h, 7d].
    value: numeric column. of: categorical or entity column. location: numeric columns (latitude, longitude), degrees.
    statistics, over each window: count of transactions; sum, mean, std, max of `value`; ratio and zscore of this row's
        `value` to the window's; distinct values of `of`; first_seen, 1 where this row's `of` is not in the window;
        frauds known in the window, shifted by `Schema.label_delay_days`; risk, their share of the transactions there.
        From the newest transaction only: time_since_last (seconds), distance_from_last (km), speed_from_last (km/h).
    """

    entity: str
    windows: tuple[str, ...] = ()
    value: str | None = None
    of: str | None = None
    location: tuple[str, ...] = ()
    statistics: tuple[Statistic, ...] = ()

    def __post_init__(self) -> None:
        where = f"history of {self.entity!r}"
        require(bool(self.statistics), where, f"statistics is empty; list some of {', '.join(get_args(Statistic))}")
        for statistic in self.statistics:
            _one_of(statistic, get_args(Statistic), where, "statistic")
        require(len(set(self.statistics)) == len(self.statistics), where, "statistics repeat one; list each once")
        lengths = [microseconds(window) for window in self.windows]
        require(lengths == sorted(set(lengths)), where, "windows must be listed from the shortest, each once")
        windowed = [statistic for statistic in self.statistics if statistic in WINDOWED]
        require(not windowed or bool(lengths), where, f"{', '.join(windowed)} needs `windows`, e.g. [1d, 7d, 30d]")
        require(bool(windowed) or not lengths, where, "no statistic here uses `windows`; remove them")
        for key, (statistics, what) in _NEEDS.items():
            needing = [statistic for statistic in self.statistics if statistic in statistics]
            is_set = bool(getattr(self, key))
            require(is_set or not needing, where, f"{', '.join(needing)} needs `{key}`, {what}")
            require(not is_set or bool(needing), where, f"no statistic here uses `{key}`; remove it")
        require(len(self.location) in (0, 2), where, "location must be two columns, latitude and longitude")

    @property
    def lengths(self) -> tuple[int, ...]:
        """The windows in microseconds."""
        return tuple(microseconds(window) for window in self.windows)
