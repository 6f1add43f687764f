"""Validates JSON values: one check and one JSON schema per column, from the bundle's schema.

Canonical values are those of `fraud.schema.values`. Requests are stricter than files: numbers must be JSON numbers,
because a quoted number is a caller's bug.
"""

from __future__ import annotations

import datetime as dt
import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from pydantic_core import PydanticCustomError

from fraud.days import FIRST_YEAR, LAST_YEAR
from fraud.errors import closest
from fraud.schema.columns import Column
from fraud.schema.inference import written
from fraud.schema.values import EPOCH, MICROSECONDS, Refusal, TimeLimits, in_utc, without_decimals

Check = Callable[[object], object]

_UNIT_NAMES = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
_ISO = re.compile(r"(\d{4}-\d\d-\d\d)(?:[T ](\d\d:\d\d(?::\d\d(?:\.\d{1,9})?)?)(Z|[+-]\d\d(?::?\d\d)?)?)?", re.ASCII)
# Longer than any id. Unlimited, one caller could fill the history, which stores every entity.
LONGEST_TEXT = 1024
_LONGEST_SHOWN = 40
# A character that str.strip keeps. Implementations of JSON Schema differ on whether \s includes these.
_NO_BLANK = r"[^\s\u001c-\u001f\u0085]"
_SHORTER = f"send at most {LONGEST_TEXT:,} characters"
_FEW_CATEGORIES = 20
_OLDEST_YEARS = 20


def check_of(column: Column) -> Check:
    """Return the function that converts a JSON value to the column's canonical value.

    numeric, boolean: float; categorical, entity, id: str; timestamp: naive UTC datetime; missing: None.
    It raises a PydanticCustomError, with the remedy in its context, for an invalid value.
    """
    check = {"numeric": _number, "boolean": _flag, "timestamp": _time}.get(column.kind, _text)(column)

    def check_present(value: object) -> object:
        if value is not None:
            return check(value)
        if column.nullable:
            return None
        raise refused("null_not_allowed", "null is no value for this field", remedy_of(column))

    return check_present


def json_schema_of(column: Column) -> dict[str, Any]:
    """Return the column's JSON schema (draft 2020-12, as OpenAPI 3.1 wants it): type, range, description, example."""
    schema: dict[str, Any] = {}
    types: list[str] = []
    if column.kind == "numeric":
        types = ["integer" if column.integer else "number"]
        schema["minimum"], schema["maximum"] = (_tidy(limit) for limit in column.bounds)
    elif column.kind == "boolean":
        types = ["boolean", "integer"]
        schema["minimum"], schema["maximum"] = 0, 1  # of the integer
    elif column.kind == "timestamp":
        types = ["number"] if column.unit else ["string"]
        if not column.unit:
            schema["format"] = "date-time"
    elif column.categories:
        schema["enum"] = list(column.categories)
    else:
        types = ["string", "integer"]
        schema |= {"minLength": 1, "maxLength": LONGEST_TEXT, "pattern": _NO_BLANK}
    if column.nullable:
        types += ["null"] if types else []
        if "enum" in schema:
            schema["enum"].append(None)
    if types:
        schema["type"] = types[0] if len(types) == 1 else types
    # The schema itself has limits and categories; add the remedy's text only where it describes a format or nothing
    # else does.
    meaning = written(column.description)
    is_clear = column.kind in ("numeric", "boolean") or "enum" in schema
    form = "" if meaning and is_clear else f"{_upper_first(remedy_of(column))}."
    schema["description"] = f"{meaning} {form}".strip()
    if column.example is not None:
        schema["examples"] = [column.example]
    return schema


def remedy_of(column: Column) -> str:
    """Return what to send for the column, e.g. "send a number from 0 to 1"."""
    if column.kind == "numeric":
        form = f"{'whole ' if column.integer else ''}number{_range_of(column)}"
    elif column.kind == "boolean":
        form = "true or false, or 1 or 0"
    elif column.kind == "timestamp" and column.unit:
        form = f"number of {_UNIT_NAMES[column.unit]} since the origin that the training data used"
    elif column.kind == "timestamp":
        form = "time as ISO 8601 text, e.g. 2026-01-31T13:45:00Z, UTC where it names no zone"
    elif column.categories:
        shown = ", ".join(column.categories[:_FEW_CATEGORIES])
        form = f"one of {shown}" + (", …" if len(column.categories) > _FEW_CATEGORIES else "")
    else:
        form = "text or a whole number, not empty"
    article = "a " if column.kind in ("numeric", "timestamp") else ""
    return f"send {article}{form}" + (", or null" if column.nullable else "")


def _range_of(column: Column) -> str:
    """The limits that the schema sets; the default limits are too wide to mention."""
    low, high = (None if limit is None else _tidy(float(limit)) for limit in (column.minimum, column.maximum))
    if low is not None and high is not None:
        return f" from {low} to {high}"
    return f" of at least {low}" if low is not None else f" of at most {high}" if high is not None else ""


def _upper_first(text: str) -> str:
    return text[:1].upper() + text[1:]


def refused(kind: str, problem: str, remedy: str) -> PydanticCustomError:
    """Build an error for pydantic; `serve_app.request.problems` converts it to a problem."""
    return PydanticCustomError(kind, "{problem}", {"problem": problem, "remedy": remedy})


def shown(value: object) -> str:
    """The value as JSON, truncated. For responses only: it may be card data."""
    text = json.dumps(value, ensure_ascii=True, default=str)
    return text if len(text) <= _LONGEST_SHOWN else text[:_LONGEST_SHOWN] + "…"


def _number(column: Column) -> Check:
    low, high = column.bounds
    remedy, is_integer = remedy_of(column), column.integer

    def check(value: object) -> float:
        number = _as_float(value, remedy)
        if not low <= number <= high:
            raise refused("out_of_range", f"{shown(value)} is outside {low:g} to {high:g}", remedy)
        if is_integer and not number.is_integer():
            raise refused("whole_number", f"{shown(value)} is not a whole number", remedy)
        return number

    return check


def _as_float(value: object, remedy: str) -> float:
    """The finite float64 of a JSON number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        hint = ", without quotes" if isinstance(value, str) else ""
        raise refused("number_type", f"{shown(value)} is not a number", remedy + hint)
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise refused("finite_number", f"{shown(value)} is not a finite number", remedy)
    return number


def _flag(column: Column) -> Check:
    remedy = remedy_of(column)

    def check(value: object) -> float:
        if isinstance(value, bool | int | float) and (value == 0 or value == 1):
            return float(value)
        raise refused("bool_type", f"{shown(value)} is not true, false, 1 or 0", remedy)

    return check


def _text(column: Column) -> Check:
    remedy, categories = remedy_of(column), frozenset(column.categories)

    def check(value: object) -> str:
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise refused("string_type", f"{shown(value)} is not text or a whole number", remedy)
        text = str(value).strip()
        if not text:
            raise refused("string_empty", "the text is empty", remedy)
        if len(text) > LONGEST_TEXT:
            raise refused("string_too_long", f"the text has {len(text):,} characters", _SHORTER)
        if not text.isascii() and not _is_unicode(text):
            raise refused("string_unicode", "the text holds half of a surrogate pair", "send valid Unicode")
        if text.endswith("0"):  # cheap test first
            text = without_decimals(text)
        if categories and text not in categories:
            near = closest(text[:_LONGEST_SHOWN], categories).lstrip("; ")
            raise refused("category", f"{shown(value)} is not a known category", near or remedy)
        return text

    return check


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _time(column: Column) -> Check:
    remedy, unit, limits = remedy_of(column), column.unit, time_limits(column)

    def accepted(time: dt.datetime, value: object) -> dt.datetime:
        if not FIRST_YEAR <= time.year <= LAST_YEAR:
            raise outside_years(value)
        if refusal := limits.refusal(time):
            raise outside_limits(refusal, value)
        return time

    def check_number(value: object) -> dt.datetime:
        microseconds = _as_float(value, remedy) * MICROSECONDS[unit or "s"]
        try:
            return accepted(EPOCH + dt.timedelta(microseconds=round(microseconds)), value)
        except OverflowError:
            raise outside_years(value) from None

    def check_text(value: object) -> dt.datetime:
        if not isinstance(value, str):
            raise refused("datetime_type", f"{shown(value)} is not a time", remedy)
        match = _ISO.fullmatch(value.strip())
        if match is None:
            raise refused("datetime_parsing", f"{shown(value)} is not an ISO 8601 time", remedy)
        try:
            time = in_utc(dt.datetime.fromisoformat(match[0]))
        except OverflowError:
            raise outside_years(value) from None
        except ValueError as error:
            raise refused("datetime_parsing", f"{shown(value)} is not a time ({error})", remedy) from None
        return accepted(time, value)

    return check_number if unit else check_text


def time_limits(column: Column) -> TimeLimits:
    """The limits of a request's times: those of files and, where the schema sets no `oldest`, 20 years before now.

    A transaction that is scored now did not happen decades ago. Numbers may count from any origin: they have no date.
    """
    if column.oldest is None and column.unit is None:
        today = dt.datetime.now(dt.UTC).date()
        column = replace(column, oldest=f"{today.year - _OLDEST_YEARS}-01-01")
    return TimeLimits(column)


def outside_years(value: object) -> PydanticCustomError:
    """The error for a time outside the supported years."""
    return refused(
        "out_of_range",
        f"{shown(value)} is outside the years {FIRST_YEAR} to {LAST_YEAR}",
        "send the time at which the transaction happened",
    )


def outside_limits(refusal: Refusal, value: object) -> PydanticCustomError:
    """The error for a time too far from now, in the same words as quarantine."""
    return refused("out_of_range", f"{shown(value)} {refusal.problem}", refusal.remedy)


def _tidy(number: float) -> int | float:
    """Convert a whole number to int, so that the documentation shows 0 instead of 0.0."""
    return int(number) if number.is_integer() else number
