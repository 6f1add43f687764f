"""The values of one transaction, as a caller gives them, as numbers."""

from __future__ import annotations

import datetime as dt

import numpy as np

from fraud.errors import DataError
from fraud.schema.columns import Column

_EPOCH = dt.datetime(1970, 1, 1)
_MICROSECOND = dt.timedelta(microseconds=1)
_MICROSECONDS_A_UNIT = {"s": 1e6, "ms": 1e3, "us": 1.0, "ns": 1e-3}


def number(column: Column, value: object) -> float:
    """A number for a numeric or boolean column. Raises DataError naming the column."""
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise DataError(f"column {column.name!r}: {value!r} is not a number; send a number or null") from None


def microseconds(column: Column, value: object) -> float:
    """Microseconds since 1970 (UTC) of a timestamp, a whole number as in a batch; NaN for a missing one."""
    if isinstance(value, str):
        try:
            value = dt.datetime.fromisoformat(value)
        except ValueError:
            raise DataError(
                f"column {column.name!r}: {value!r} is not an ISO 8601 time, e.g. 2026-01-31T13:45:00Z"
            ) from None
    if isinstance(value, dt.datetime):
        if value.tzinfo is not None:
            value = value.astimezone(dt.UTC).replace(tzinfo=None)
        return float((value - _EPOCH) // _MICROSECOND)
    if value is None:
        return np.nan
    return float(np.round(number(column, value) * _MICROSECONDS_A_UNIT[column.unit or "s"]))
