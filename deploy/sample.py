"""What a demonstration on somebody's own data needs from it: the last day, what came before, and one request."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fraud.errors import DataError

if TYPE_CHECKING:
    from fraud.schema import Schema

FEWEST_ROWS = 100
REFERENCE_ROWS = 100_000


def cut_last_day(data: str, schema: Schema, folder: Path) -> tuple[Path, Path]:
    """Write the last day of `data`, and up to 100,000 rows before it, as Parquet into `folder`.

    The last day is the last calendar day (UTC), or the last tenth of the rows where there is no timestamp or that day
    holds fewer than 100 rows. Rows that the schema rejects are left out. Returns (reference, day).
    Raises DataError when there are fewer than 200 good rows.
    """
    from fraud.data import read, write_parquet
    from fraud.schema import validate

    frame = read(data)
    good = validate(frame, schema).rows
    if len(good) < 2 * FEWEST_ROWS:
        raise DataError(f"{data} holds {len(good)} usable rows: the demo needs {2 * FEWEST_ROWS}")
    if schema.timestamp is None:
        ordered, first = frame.loc[good.index], len(good) * 9 // 10
    else:
        times = good[schema.timestamp.name].sort_values(kind="stable")
        ordered, first = frame.loc[times.index], int(times.searchsorted(times.iloc[-1].floor("D")))
        if not FEWEST_ROWS <= len(ordered) - first <= len(ordered) - FEWEST_ROWS:
            first = len(ordered) * 9 // 10
    reference, day = folder / "reference.parquet", folder / "day.parquet"
    folder.mkdir(parents=True, exist_ok=True)
    write_parquet(ordered.iloc[max(0, first - REFERENCE_ROWS) : first], str(reference))
    write_parquet(ordered.iloc[first:], str(day))
    return reference, day


def request_from(day: Path, schema: Schema) -> dict[str, Any]:
    """The body of a /score request for the last row of `day`: what a caller knows, so everything but the label."""
    from fraud.data import read

    row = read(str(day)).iloc[-1]
    return {column.name: _as_json(row[column.name]) for column in schema.inputs if column.name in row.index}


def _as_json(value: Any) -> Any:
    if hasattr(value, "isoformat"):
        return value.isoformat() if value == value else None  # NaT differs from itself
    plain = value.item() if hasattr(value, "item") else value
    return None if isinstance(plain, float) and not math.isfinite(plain) else plain
