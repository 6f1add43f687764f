"""The one definition of canonical values, for files, requests, batches and the engine.

numeric, boolean: float64. timestamp: UTC microseconds. categorical, entity, id: trimmed text; the whole numbers 123,
123.0, "123" and "123.0" are all "123". label: 1, 0 or -1 for unknown.

`convert` reads a column of a file. `number` and `microseconds` read one value for the engine.
`serve_app.request.fields` checks one JSON value, with the limits of this module and of `Column`.
"""

from __future__ import annotations

import datetime as dt
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from fraud.days import FIRST_YEAR, LAST_YEAR
from fraud.errors import DataError
from fraud.schema.columns import Column, Unit

# Words for a missing number, time or flag. A text is missing only if empty.
MISSING_WORDS = frozenset({"", "nan", "null", "none", "na", "n/a", "nat", "<na>"})
TRUE_WORDS = frozenset({"true", "yes", "y", "t", "1", "1.0"})
FALSE_WORDS = frozenset({"false", "no", "n", "f", "0", "0.0"})
UNKNOWN_LABEL = -1
EPOCH = dt.datetime(1970, 1, 1)
EARLIEST, LATEST = np.datetime64(f"{FIRST_YEAR}-01-01", "us"), np.datetime64(f"{LAST_YEAR + 1}-01-01", "us")
MICROSECONDS: dict[Unit, float] = {"s": 1e6, "ms": 1e3, "us": 1.0, "ns": 1e-3}  # per unit of a numeric timestamp

_ABSENT = "is missing; give a value, or set `nullable: true`"
_WHOLE_DECIMAL = r"^(-?[0-9]+)\.0+$"  # [0-9], since \d differs between RE2 and Python's re
_DIGITS = r"^[+-]?\d+([.]\d+)?$"
_ZONE = r"[Tt ]\d{1,2}:?\d{2}.*([zZ]|UTC|GMT|[+-]\d{2}(:?\d{2})?)$"

_whole_decimal = re.compile(_WHOLE_DECIMAL).fullmatch
_MICROSECOND = dt.timedelta(microseconds=1)
_NUMBERS = ("numeric", "boolean")


def accepts(column: Column, numbers: np.ndarray) -> np.ndarray:
    """Mask of valid numbers for a numeric or boolean column. numbers: float64; NaN is never valid."""
    if column.kind == "boolean":
        return _are_flags(numbers)
    low, high = column.bounds
    with np.errstate(invalid="ignore"):
        is_inside = (numbers >= low) & (numbers <= high)
        return np.asarray(is_inside & (numbers == np.floor(numbers)) if column.integer else is_inside)


def _are_flags(numbers: np.ndarray) -> np.ndarray:
    return np.asarray((numbers == 0) | (numbers == 1))


def array_of(column: Column, values: Sequence[Any] | np.ndarray) -> np.ndarray:
    """Canonical values as an array: float64, datetime64[us] or objects; missing values are NaN, NaT or None."""
    if column.kind in _NUMBERS:
        return np.array(values, dtype=np.float64)
    return np.array(values, dtype="datetime64[us]" if column.kind == "timestamp" else object)


def list_of(values: np.ndarray) -> list[Any]:
    """The inverse of `array_of`: Python values, None if missing."""
    plain: list[Any] = values.tolist()  # NaT becomes None
    if values.dtype.kind == "f" and np.isnan(values).any():
        return [None if value != value else value for value in plain]
    return plain


def without_decimals(text: str) -> str:
    """Strip the decimal zeros of a whole number ("123.0"); return other text unchanged."""
    match = _whole_decimal(text)
    return match[1] if match else text


def in_utc(moment: dt.datetime) -> dt.datetime:
    """A naive time in UTC. Naive input is assumed to be UTC. Raises OverflowError."""
    return moment.astimezone(dt.UTC).replace(tzinfo=None) if moment.tzinfo else moment


def since_epoch(moment: dt.datetime) -> int:
    """Microseconds from 1970 to a naive time in UTC."""
    return (moment - EPOCH) // _MICROSECOND


def number(column: Column, value: object) -> float:
    """Read a value of a numeric or boolean column. Raises DataError naming the column."""
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise DataError(f"column {column.name!r}: {value!r} is not a number; send a number or null") from None


def microseconds(column: Column, value: object) -> float:
    """Microseconds since 1970 (UTC), rounded as in a batch; NaN if missing. Raises DataError."""
    if isinstance(value, str):
        try:
            value = dt.datetime.fromisoformat(value)
        except ValueError:
            raise DataError(
                f"column {column.name!r}: {value!r} is not an ISO 8601 time, e.g. 2026-01-31T13:45:00Z"
            ) from None
    if isinstance(value, dt.datetime):
        return float(since_epoch(in_utc(value)))
    if value is None:
        return np.nan
    return float(np.round(number(column, value) * MICROSECONDS[column.unit or "s"]))


@dataclass(frozen=True)
class Refusal:
    """Why a time is refused, and what to do."""

    problem: str
    remedy: str

    @property
    def reason(self) -> str:
        """Problem and remedy, as in the quarantine."""
        return f"{self.problem}; {self.remedy}"


class TimeLimits:
    """Limits of a timestamp column: nothing before `oldest`, nothing more than `horizon_days` ahead of the clock.

    The newest time trims entity history, and the oldest one begins a split by time. So one row of the year 2099 would
    empty every history, and times in a wrong unit, which become January 1970, would fill the training window. now: the
    clock, seconds since 1970, read at each check.
    """

    def __init__(self, column: Column, now: Callable[[], float] = time.time) -> None:
        self._column, self._now = column, now
        self._newest_at = -1, EPOCH
        self._oldest = None if column.first_day is None else dt.datetime.combine(column.first_day, dt.time())

    def refusal(self, moment: dt.datetime) -> Refusal | None:
        """The reason to refuse a time (naive, UTC); None if it is valid."""
        if self._oldest is not None and moment < self._oldest:
            return self._too_early()
        if moment > (newest := self._newest()):
            return self._too_late(newest)
        return None

    def refusals(self, times: np.ndarray) -> Iterator[tuple[np.ndarray, Refusal]]:
        """Yield masks of refused rows, bool (n_rows,), with reasons. times: datetime64[us] (n_rows,); NaT is valid."""
        newest = self._newest()
        too_late = times > np.datetime64(newest, "us")
        if too_late.any():
            yield too_late, self._too_late(newest)
        if self._oldest is not None and (too_early := times < np.datetime64(self._oldest, "us")).any():
            yield too_early, self._too_early()

    def _newest(self) -> dt.datetime:
        second = int(self._now())
        if second != self._newest_at[0]:  # cached: a batch asks thousands of times a second, and a date takes 1 us
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


@dataclass(frozen=True)
class Fault:
    """Rows that a column rejects. mask: bool, shape (n_rows,)."""

    mask: np.ndarray
    reason: str


@dataclass(frozen=True)
class Converted:
    """Canonical values, shape (n_rows,), and faults, most specific first. zone: whether the times have a time zone."""

    values: np.ndarray | pd.Series
    faults: list[Fault]
    zone: bool | None = None


def convert(series: pd.Series, column: Column, zone: bool | None = None) -> Converted:
    """Convert a column from any reader (numbers, text, dates, dictionaries, mixed objects).

    Returns numeric, boolean: float64; categorical, entity, id: pandas `str` (Arrow memory, missing reads as NaN);
    timestamp: datetime64[us]; label: int8. Values of rows with a fault are arbitrary. zone: whether earlier rows
    have a time zone, if known.
    """
    if isinstance(series.dtype, pd.CategoricalDtype):
        series = series.astype(series.cat.categories.dtype)
    if column.kind == "numeric":
        return _numbers(series, column)
    if column.kind == "boolean":
        return _flags(series, column)
    if column.kind == "label":
        return _labels(series)
    if column.kind == "timestamp":
        return _times(series, column, zone)
    return _texts(series, column)


def _numbers(series: pd.Series, column: Column) -> Converted:
    values = _floats(series)
    if accepts(column, values).all():
        return Converted(values, [])
    low, high = column.bounds
    with np.errstate(invalid="ignore"):
        faults = [
            *_absence(series, np.isnan(values), column.nullable, "is not a number"),
            Fault(np.isinf(values), "is infinite"),
            Fault(values < low, f"is below the minimum {low:g}"),
            Fault(values > high, f"is above the maximum {high:g}"),
        ]
        if column.integer:
            faults.append(Fault(np.isfinite(values) & (values != np.floor(values)), "is not a whole number"))
    return Converted(values, faults)


def _floats(series: pd.Series) -> np.ndarray:
    """A new float64 array; NaN if missing or not a number."""
    dtype = series.dtype
    if pd.api.types.is_numeric_dtype(dtype) and not pd.api.types.is_complex_dtype(dtype):
        return np.array(series.to_numpy(dtype=np.float64, na_value=np.nan))
    if not (pd.api.types.is_object_dtype(dtype) or pd.api.types.is_string_dtype(dtype)):
        return np.full(len(series), np.nan)  # dates and durations are not numbers, though pandas would cast them
    try:  # Arrow parses text 10 times faster than pandas, to the nearest float64, but stops at the first invalid value
        texts = pc.utf8_trim_whitespace(_joined(pa.array(series, type=pa.large_string(), from_pandas=True)))
        return np.array(texts.cast(pa.float64()).to_numpy(zero_copy_only=False))
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return np.array([_float_of(value) for value in series], dtype=np.float64)


def _float_of(value: object) -> float:
    try:
        return float("nan" if isinstance(value, str) and "_" in value else value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return np.nan


def _joined(texts: pa.Array | pa.ChunkedArray) -> pa.Array:
    return texts.combine_chunks() if isinstance(texts, pa.ChunkedArray) else texts


def _absence(series: pd.Series, absent: np.ndarray, nullable: bool, otherwise: str) -> list[Fault]:
    """Faults of rows without a usable value (`absent`): missing ones, and invalid ones (`otherwise`)."""
    if not absent.any():
        return []
    missing = absent.copy()
    missing[absent] = [_is_missing(value) for value in series[absent]]
    odd = Fault(absent & ~missing, otherwise)
    return [odd] if nullable else [Fault(missing, _ABSENT), odd]


def _is_missing(value: object) -> bool:
    if isinstance(value, str):
        return value.strip().lower() in MISSING_WORDS
    return value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and np.isnan(value))


def _flag_of(value: object) -> float:
    word = str(value).strip().lower()
    return 1.0 if word in TRUE_WORDS else 0.0 if word in FALSE_WORDS else np.nan


def _flag_values(series: pd.Series) -> np.ndarray:
    if pd.api.types.is_numeric_dtype(series.dtype):
        values = _floats(series)
        return np.where(_are_flags(values), values, np.nan)
    codes, words = pd.factorize(series.astype("str"), use_na_sentinel=True)
    return np.array([*map(_flag_of, words), np.nan])[codes]  # code -1 (missing) picks the NaN at the end


def _flags(series: pd.Series, column: Column) -> Converted:
    values = _flag_values(series)
    return Converted(values, _absence(series, np.isnan(values), column.nullable, "is not true/false, yes/no or 1/0"))


def _labels(series: pd.Series) -> Converted:
    values = _flag_values(series)
    absent = np.isnan(values)
    faults = _absence(series, absent, True, "is not a label; use 1 (fraud), 0 (legitimate) or leave it empty")
    return Converted(np.where(absent, UNKNOWN_LABEL, values).astype(np.int8), faults)


def _texts(series: pd.Series, column: Column) -> Converted:
    texts = _text_array(series)
    null = np.asarray(pc.is_null(texts).to_numpy(zero_copy_only=False), dtype=bool)
    faults = [] if column.nullable or not null.any() else [Fault(null, _ABSENT)]
    if column.categories:
        known = pc.is_in(texts, value_set=pa.array(column.categories, type=texts.type)).to_numpy(zero_copy_only=False)
        faults.append(Fault(~known & ~null, f"is not one of {', '.join(column.categories)}"))
    return Converted(texts.to_pandas(), faults)


def _text_array(series: pd.Series) -> pa.Array:
    """Trimmed text, whole numbers `without_decimals`; null if empty."""
    dtype = series.dtype
    is_object = pd.api.types.is_object_dtype(dtype)
    kind = pd.api.types.infer_dtype(series, skipna=True) if is_object else ""
    if isinstance(dtype, np.dtype) and dtype.kind in "iu":
        return pa.array(series.to_numpy()).cast(pa.large_string())
    if pd.api.types.is_float_dtype(dtype):
        values = _floats(series)
        small = np.abs(values) < 2.0**63
        if (small & (values == np.floor(values)) | np.isnan(values)).all():
            integers = np.where(small, values, 0).astype(np.int64)
            return pa.array(integers, mask=np.isnan(values)).cast(pa.large_string())
    if isinstance(dtype, pd.StringDtype) or kind in ("string", "empty"):
        texts = pa.array(series, type=pa.large_string(), from_pandas=True)
    else:
        texts = pa.array([_text_of(value) for value in series], type=pa.large_string())
    texts = pc.utf8_trim_whitespace(_joined(texts))
    if pc.any(pc.match_substring(texts, ".0")).as_py():
        texts = pc.replace_substring_regex(texts, _WHOLE_DECIMAL, r"\1")
    return pc.if_else(pc.equal(pc.binary_length(texts), 0), pa.scalar(None, texts.type), texts)


def _text_of(value: object) -> str | None:
    if isinstance(value, str):
        return value
    if _is_missing(value):
        return None
    if isinstance(value, bool | np.bool_):
        return str(value).lower()
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    return str(value)


def _times(series: pd.Series, column: Column, zone: bool | None) -> Converted:
    dtype = series.dtype
    if pd.api.types.is_datetime64_any_dtype(dtype):
        has_zone = isinstance(dtype, pd.DatetimeTZDtype)
        naive = series.dt.tz_convert("UTC").dt.tz_localize(None) if has_zone else series
        values, aware = np.array(naive.to_numpy(dtype="datetime64[us]")), np.full(len(series), has_zone)
        faults = _absence(series, np.isnat(values), column.nullable, "is not a time")
    elif column.unit is not None:
        microseconds = _floats(series) * MICROSECONDS[column.unit]
        aware = np.zeros(len(series), dtype=bool)
        faults = _absence(
            series, np.isnan(microseconds), column.nullable, f"is not a number of {column.unit} since 1970"
        )
        limits = [limit.astype(np.int64) for limit in (EARLIEST, LATEST)]
        clipped = np.clip(np.nan_to_num(microseconds), limits[0] - 1, limits[1] + 1)
        values = np.round(clipped).astype("datetime64[us]")
        values[np.isnan(microseconds)] = np.datetime64("NaT")
    else:
        return _parsed_times(series, column, zone)
    return _within_years(values, faults, aware, zone)


def _parsed_times(series: pd.Series, column: Column, zone: bool | None) -> Converted:
    """Parse ISO 8601 text. Mixed times with and without a zone are a fault, since the zone is ambiguous."""
    texts = _text_array(series)
    numeric = np.array(pc.fill_null(pc.match_substring_regex(texts, _DIGITS), False))
    aware = np.array(pc.fill_null(pc.match_substring_regex(texts, _ZONE), False))
    parsed = pd.to_datetime(texts.to_pandas().mask(numeric), format="ISO8601", errors="coerce", utc=True)
    values = np.array(parsed.dt.tz_localize(None).to_numpy(dtype="datetime64[us]"))
    reason = "is a bare number, not a time; write ISO 8601 dates, or set the column's `unit` to s, ms, us or ns"
    faults = [Fault(numeric, reason)] if numeric.any() else []
    faults += _absence(
        series, np.isnat(values) & ~numeric, column.nullable, "is not an ISO 8601 time like 2018-04-01T12:30:00"
    )
    return _within_years(values, faults, aware, zone)


def _within_years(values: np.ndarray, faults: list[Fault], aware: np.ndarray, zone: bool | None) -> Converted:
    present = ~np.isnat(values)
    if not ((values >= EARLIEST) & (values < LATEST)).all():
        outside = present & ((values < EARLIEST) | (values >= LATEST))
        faults.append(Fault(outside, f"is outside the years {FIRST_YEAR} to {LAST_YEAR}"))
    if zone is None and present.any():
        zone = bool((aware & present).any())
    if zone is not None and (aware[present] != zone).any():
        here, there = ("no", "a") if zone else ("a", "no")
        faults.append(
            Fault(
                present & (aware != zone),
                f"has {here} time zone where other rows have {there} zone; write all times alike",
            )
        )
    return Converted(values, faults, zone)
