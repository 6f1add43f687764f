"""Cut the last day and one request from a user's data, for the demo."""

from __future__ import annotations

import datetime as dt
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fraud.errors import DataError

if TYPE_CHECKING:
    from fraud.schema import Schema

FEWEST_ROWS = 100


@dataclass(frozen=True)
class LastDay:
    """The last day of a user's data. rows: Parquet file with the day.

    date: calendar day in the schema's day_zone; None if the "day" is the last tenth of the rows.
    """

    rows: Path
    date: dt.date | None


def cut_last_day(data: str, schema: Schema, folder: Path) -> LastDay:
    """Write the last day of `data` as Parquet into `folder`.

    The last day is the last calendar day (in the schema's day_zone), or the last tenth of the rows if there is no
    timestamp or the day, or the time before it, has fewer than 100 rows. Rows that the schema rejects are dropped.
    Raises DataError if there are fewer than 200 valid rows.
    """
    import numpy as np

    from fraud.data.tables import read, write_parquet
    from fraud.schema import validate
    from fraud.schema.zone import zone_of

    frame = read(data)
    good = validate(frame, schema).rows
    if len(good) < 2 * FEWEST_ROWS:
        raise DataError(f"{data} holds {len(good)} usable rows: the demo needs {2 * FEWEST_ROWS}")
    ordered, first, date = frame.loc[good.index], len(good) * 9 // 10, None
    if schema.timestamp is not None:
        times = good[schema.timestamp.name].sort_values(kind="stable")
        zone = zone_of(schema)
        last_day = zone.day_of(times.to_numpy()[-1:])[0].item()
        midnight = np.datetime64(zone.start_of(last_day), "us")
        ordered, start = frame.loc[times.index], int(times.searchsorted(midnight))
        if FEWEST_ROWS <= start <= len(ordered) - FEWEST_ROWS:
            first, date = start, last_day
    last = LastDay(rows=folder / "day.parquet", date=date)
    folder.mkdir(parents=True, exist_ok=True)
    write_parquet(ordered.iloc[first:], str(last.rows))
    return last


def request_from(day: Path, schema: Schema) -> dict[str, Any]:
    """The body of a /score request for the last row of `day`: all columns but the label."""
    from fraud.data.tables import read

    row = read(str(day)).iloc[-1]
    return {column.name: _as_json(row[column.name]) for column in schema.inputs if column.name in row.index}


def _as_json(value: Any) -> Any:
    if hasattr(value, "isoformat"):
        return value.isoformat() if value == value else None  # NaT differs from itself
    plain = value.item() if hasattr(value, "item") else value
    return None if isinstance(plain, float) and not math.isfinite(plain) else plain
