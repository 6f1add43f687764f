"""The parts of a schema: Column and History, small frozen records that check themselves when they are made."""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, get_args

from fraud.errors import SchemaError

Kind = Literal["numeric", "categorical", "boolean", "timestamp", "entity", "id", "label"]
Transform = Literal["none", "log", "signed_log"]
Unit = Literal["s", "ms", "us", "ns"]
Calendar = Literal["hour", "weekday", "weekend", "night"]
Statistic = Literal["zscore", "log_ratio", "count", "risk"]

# A numeric column without its own limits takes no more than this: the square of a larger scaled value leaves float32.
LARGEST_NUMBER = 1e15
# Marks that separate the values of a table which is not separated by commas, and what to call them.
OTHER_DELIMITERS = {";": "semicolons", "\t": "tabs", "|": "bars"}
# Options of a column that belong to one kind only, with the value that means "not given".
_OPTION_KIND: dict[str, tuple[Kind, object]] = {
    "minimum": ("numeric", None),
    "maximum": ("numeric", None),
    "integer": ("numeric", False),
    "transform": ("numeric", "none"),
    "categories": ("categorical", ()),
    "unit": ("timestamp", None),
    "calendar": ("timestamp", ()),
}


def closest(word: str, known: Collection[str]) -> str:
    """Return "; did you mean 'x'?" for the most similar of `known`, or an empty string when nothing is near."""
    by_lower_case = {name.lower(): name for name in known}
    found = difflib.get_close_matches(word.lower(), list(by_lower_case), n=1, cutoff=0.6)
    return f"; did you mean {by_lower_case[found[0]]!r}?" if found else ""


def require(holds: bool, where: str, message: str) -> None:
    """Raise SchemaError("schema WHERE: MESSAGE") unless `holds`."""
    if not holds:
        raise SchemaError(f"schema {where}: {message}")


def _one_of(value: object, allowed: tuple[str, ...], where: str, key: str) -> None:
    near = closest(str(value), allowed)
    require(value in allowed, where, f"{key} {value!r} is unknown{near or ';'} use one of {', '.join(allowed)}")


def is_number(value: object) -> bool:
    """True for a finite int or float; a bool is not a number here."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_flag(value: object, where: str, key: str) -> None:
    require(isinstance(value, bool), where, f"{key} is {value!r}; write true or false without quotes")


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of the data, and what a value of it may be.

    name: the column's name in the files and in requests.
    kind: numeric, categorical or boolean are features; timestamp orders the rows and may give calendar features; entity
        is whom a history belongs to (a card, a terminal); id names a row; label is the answer (1 = fraud).
    minimum, maximum: inclusive limits, numeric only; without them a value may be up to `LARGEST_NUMBER` either way.
    integer: only whole numbers, numeric only.
    nullable: a missing value is allowed (a missing label always is: it means "not known yet").
    categories: the closed list of values, categorical only; empty accepts any text and learns the list in training.
    transform: applied before scaling, numeric only; "log" is log1p and needs minimum >= 0.
    unit: the files hold numbers of this unit since an origin (1970 taken) instead of dates, timestamp only.
    calendar: which calendar features to derive, timestamp only.
    example: a plausible value for the documentation of the HTTP API.

    Raises SchemaError naming the column, the key and the remedy when the parts do not fit together.
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
    example: float | int | str | bool | None = None

    def __post_init__(self) -> None:
        require(isinstance(self.name, str) and bool(self.name.strip()), "column", "name is empty; give it a text")
        where = f"column {self.name!r}"
        _one_of(self.kind, get_args(Kind), where, "kind")
        require(isinstance(self.description, str), where, "description must be a text; put it in quotes")
        _is_flag(self.nullable, where, "nullable")
        for key, (kind, absent) in _OPTION_KIND.items():
            given = getattr(self, key) != absent
            require(not given or self.kind == kind, where, f"{key} is for {kind} columns, not {self.kind}; remove it")
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
    def bounds(self) -> tuple[float, float]:
        """The inclusive range a numeric value must be in: its own limits, else plus and minus `LARGEST_NUMBER`."""
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


@dataclass(frozen=True, kw_only=True)
class History:
    """Features from an entity's own past, declared as data (computed in `fraud.history`).

    entity: name of an entity column. value: numeric column whose decayed mean and spread are kept per entity.
    half_life_days: age at which a past transaction counts half.
    statistics: zscore and log_ratio compare `value` with the entity's past; count is the decayed number of rows;
        risk is the entity's decayed fraud rate, known only `Schema.label_delay_days` late.
    """

    entity: str
    value: str | None = None
    half_life_days: float = 30.0
    statistics: tuple[Statistic, ...] = ()

    def __post_init__(self) -> None:
        where = f"history of {self.entity!r}"
        days = self.half_life_days
        require(is_number(days) and days > 0, where, f"half_life_days {days!r} must be a number above 0")
        require(bool(self.statistics), where, f"statistics is empty; list some of {', '.join(get_args(Statistic))}")
        for statistic in self.statistics:
            _one_of(statistic, get_args(Statistic), where, "statistic")
        require(len(set(self.statistics)) == len(self.statistics), where, "statistics repeat one; list each once")
        needs_value = sorted({"zscore", "log_ratio"} & set(self.statistics))
        require(
            not needs_value or self.value is not None,
            where,
            f"{', '.join(needs_value)} needs `value`, a numeric column",
        )
