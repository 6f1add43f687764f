"""Validates Arrow columns against a schema, with the same errors as a single request.

Vectorised comparisons accept valid values. Invalid ones go one by one through the check of `serve_app.request.fields`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic_core import PydanticCustomError

from fraud.schema.columns import Column
from fraud.schema.values import EARLIEST, LATEST, accepts, array_of
from serve_app.request.fields import check_of, outside_limits, outside_years, remedy_of, time_limits
from serve_app.request.problems import problem

Problem = dict[str, Any]


def wrong_type(column: Column, kind: pa.DataType) -> Problem | None:
    """The problem with the Arrow type of a column, or None."""
    is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind)
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    fits = {
        "numeric": is_number,
        "boolean": is_number or pa.types.is_boolean(kind),
        "timestamp": is_number if column.unit else is_text or pa.types.is_timestamp(kind) or pa.types.is_date32(kind),
    }.get(column.kind, is_text or pa.types.is_integer(kind))
    if fits or pa.types.is_null(kind):
        return None
    plain = "; dictionary-encoded columns must be decoded first" if pa.types.is_dictionary(kind) else ""
    return problem(
        "column_type", f"an Arrow column of {str(kind)[:80]}", f"{remedy_of(column)}{plain}", field=column.name
    )


def read_column(column: Column, values: pa.Array) -> tuple[np.ndarray, dict[int, Problem]]:
    """Return canonical values (see `fraud.schema.values.array_of`; undefined in invalid rows) and {row: problem}."""
    if pa.types.is_null(values.type):
        return _read_values(column, values)
    if column.kind in ("numeric", "boolean"):
        return _read_numbers(column, values)
    if pa.types.is_timestamp(values.type) or pa.types.is_date32(values.type):
        return _read_times(column, values)
    return _read_values(column, values)


def _read_numbers(column: Column, values: pa.Array) -> tuple[np.ndarray, dict[int, Problem]]:
    numbers = values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    missing = _missing(values)
    good = accepts(column, numbers)
    return numbers, _faults(column, values, ~(good | missing if column.nullable else good & ~missing))


def _read_times(column: Column, values: pa.Array) -> tuple[np.ndarray, dict[int, Problem]]:
    missing = _missing(values)
    unit = values.type.unit if pa.types.is_timestamp(values.type) else "D"
    ticks = values.cast(pa.int32() if unit == "D" else pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
    # Compare in the unit of the column: the year 292,277,026,596 fits into seconds but not into microseconds.
    first, last = (limit.astype(f"M8[{unit}]").astype(np.int64) for limit in (EARLIEST, LATEST))
    inside = (ticks >= first) & (ticks < last)
    times = np.where(inside, ticks, 0).astype(np.int64).astype(f"M8[{unit}]").astype("M8[us]")
    times[missing] = np.datetime64("NaT")
    faults = _faults(column, values, missing) if not column.nullable else {}
    for i in np.flatnonzero(~inside & ~missing).tolist():
        error = outside_years(f"{int(ticks[i])} {unit} since 1970")
        faults[i] = _problem_of(column, error)
    for mask, refusal in time_limits(column).refusals(times):
        for i in np.flatnonzero(mask & inside).tolist():
            faults[i] = _problem_of(column, outside_limits(refusal, str(times[i])))
    return times, faults


def _read_values(column: Column, values: pa.Array) -> tuple[np.ndarray, dict[int, Problem]]:
    """Text, integers as text, and times as text or numbers. Checks each distinct value once."""
    check = check_of(column)
    encoded = pc.dictionary_encode(values, null_encoding="encode")
    canonical: list[Any] = []
    wrong: dict[int, Problem] = {}
    for code, value in enumerate(encoded.dictionary.to_pylist()):
        try:
            canonical.append(check(value))
        except PydanticCustomError as error:
            canonical.append(None)
            wrong[code] = _problem_of(column, error)
    codes = encoded.indices.to_numpy()
    faults = {i: wrong[code] for i, code in enumerate(codes.tolist()) if code in wrong} if wrong else {}
    return array_of(column, canonical)[codes], faults


def _missing(values: pa.Array) -> np.ndarray:
    return np.asarray(values.is_null().to_numpy(zero_copy_only=False), dtype=bool)


def _faults(column: Column, values: pa.Array, at_fault: np.ndarray) -> dict[int, Problem]:
    check, faults = check_of(column), {}
    for i in np.flatnonzero(at_fault).tolist():
        try:
            check(values[i].as_py())
        except PydanticCustomError as error:
            faults[i] = _problem_of(column, error)
        else:
            raise AssertionError(f"column {column.name!r}: the check of one value and that of a column disagree")
    return faults


def _problem_of(column: Column, error: PydanticCustomError) -> Problem:
    context = error.context or {}
    return problem(error.type, context["problem"], context["remedy"], field=column.name)
