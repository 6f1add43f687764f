"""Blocks of checked rows with what is said about others; nothing here needs Ray.

Blocks are Arrow tables: row number (`fraud.scoring.scored.ROW`), then the schema's columns. What is said about rows
travels in the column `NOTE`, as JSON: refused rows with their reasons, a warning, how many rows are of other days, a
failure.
"""

from __future__ import annotations

import base64
import datetime as dt
import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fraud.data import partitions
from fraud.data import tables as data
from fraud.errors import FraudError
from fraud.schema import Schema, Validated
from fraud.schema.validation import QUARANTINE_COLUMNS
from fraud.schema.values import TimeLimits, convert
from fraud.schema.zone import zone_of
from fraud.scoring import scored
from ray_jobs.score.output import NOTE

READ_ROWS = 200_000


def checked_tables(path: str, schema: Schema, date: dt.date | None, *, with_others: bool = False) -> Iterator[pa.Table]:
    """The good rows of a data file, those of `date` if one is given, with notes on the others.

    with_others: good rows of other days come too.
    """
    try:
        for checked in data.iter_checked(path, schema, chunk_rows=READ_ROWS):
            wanted = on_date(checked.rows, schema, None if with_others else date)
            rows = checked.rows[wanted]
            with_label = schema.label is not None and schema.label.name in rows
            fields = [pa.field(scored.ROW, pa.int64()), *scored.arrow_fields(schema, with_label=with_label)]
            frame = rows.rename(columns={name: scored.name_of(name) for name in rows.columns})
            frame.insert(0, scored.ROW, rows.index.to_numpy(dtype=np.int64))
            good = pa.Table.from_pandas(frame, schema=pa.schema(fields), preserve_index=False)
            yield with_notes(good, told(checked, wanted, schema, date))
    except FraudError as error:
        yield failure(error)


def on_date(rows: pd.DataFrame, schema: Schema, date: dt.date | None) -> np.ndarray:
    """Which rows happened on `date` in the schema's zone: bool (n_rows,); all without a date or a timestamp column."""
    if date is None or schema.timestamp is None:
        return np.ones(len(rows), dtype=bool)
    days = zone_of(schema).day_of(rows[schema.timestamp.name].to_numpy())
    return np.asarray(days == np.datetime64(date), dtype=bool)


def told(checked: Validated, wanted: np.ndarray, schema: Schema, date: dt.date | None) -> list[str]:
    """Notes on a piece: warnings, refused rows day by day, how many rows are of other days.

    With a date, refused rows whose time can be read and is of another day are that day's.
    """
    notes: list[dict[str, object]] = [{"warning": warning} for warning in checked.warnings]
    others: Counter[str] = Counter()
    if len(checked.quarantine):
        for day, rows in _by_day(checked.quarantine, schema, date):
            if date is not None and day not in (date.isoformat(), partitions.UNKNOWN):
                others[day] += len(rows)
                continue
            named = day if date is None else date.isoformat()
            data = io.BytesIO()
            pq.write_table(pa.Table.from_pandas(rows, preserve_index=False), data, compression="zstd")
            row, column, value, reason = rows.iloc[-1][list(QUARANTINE_COLUMNS)]
            quarantine = {
                "day": named,
                "is_dated": day != partitions.UNKNOWN,
                "first": int(rows["row"].iloc[0]),
                "rows": len(rows),
                "example": f"row {row}, column {column!r}: {value!r} {reason}",
                "data": base64.b64encode(data.getbuffer()).decode(),
            }
            notes.append({"quarantine": quarantine})
    return [json.dumps(note) for note in notes] + outside(checked.rows, wanted, schema, date, others)


def _by_day(refused: pd.DataFrame, schema: Schema, date: dt.date | None) -> Iterator[tuple[str, pd.DataFrame]]:
    """Refused rows by the day in their own text; UNKNOWN where it cannot be read or believed, or there is no time."""
    if schema.timestamp is None or f"raw_{schema.timestamp.name}" not in refused:
        yield partitions.UNKNOWN if date is None else date.isoformat(), refused
        return
    limits = TimeLimits(schema.timestamp)
    read = convert(refused[f"raw_{schema.timestamp.name}"].reset_index(drop=True), schema.timestamp)
    days = zone_of(schema).day_of(np.asarray(read.values))
    for mask in (*(fault.mask for fault in read.faults), *(mask for mask, _ in limits.refusals(read.values))):
        days[mask] = np.datetime64("NaT")
    names = np.where(np.isnat(days), partitions.UNKNOWN, np.datetime_as_string(days))
    for name in np.unique(names):
        yield str(name), refused[names == name]


def failure(error: FraudError) -> pa.Table:
    """A block with nothing but the note that a mistake of the user's ended the work."""
    note = {"failure": type(error).__name__, "text": str(error)}
    return pa.table({NOTE: pa.array([json.dumps(note)], pa.string())})


def outside(
    rows: pd.DataFrame,
    wanted: np.ndarray,
    schema: Schema,
    date: dt.date | None,
    refused: Mapping[str, int] | None = None,
) -> list[str]:
    """The note on rows of other days than `date` (`ray_jobs.score.other_days`); none without a date or a timestamp.

    rows: good ones, of any day. wanted: which of them are of `date`. refused: how many more are of which other day.
    """
    if date is None or schema.timestamp is None:
        return []
    times = rows[schema.timestamp.name].to_numpy(dtype="datetime64[us]")
    days = zone_of(schema).day_of(times[~wanted])
    names, counts = np.unique(np.where(np.isnat(days), partitions.UNKNOWN, days.astype(str)), return_counts=True)
    others = Counter(dict(zip(names.tolist(), counts.tolist(), strict=True)))
    others.update(refused)
    known = times[~np.isnat(times)].astype(np.int64)
    span = [int(known.min()), int(known.max())] if len(known) else None
    return [json.dumps({"outside": others, "span": span})] if others or span else []


def with_notes(rows: pa.Table, notes: list[str] | pa.ChunkedArray) -> pa.Table:
    """One block: rows, then notes, which have nothing in the rows' columns."""
    rows = rows.replace_schema_metadata(None).append_column(NOTE, pa.nulls(len(rows), pa.string()))
    if not len(notes):
        return rows
    return pa.concat_tables(
        [rows, pa.table({NOTE: pa.chunked_array([notes], pa.string()) if isinstance(notes, list) else notes})],
        promote_options="default",
    )


def without_notes(block: pa.Table) -> tuple[pa.Table, pa.ChunkedArray]:
    """The rows of a block, and its notes."""
    if NOTE not in block.column_names:
        return block, pa.chunked_array([], pa.string())
    is_note = pc.is_valid(block[NOTE])
    return block.filter(pc.invert(is_note)).drop_columns([NOTE]), block[NOTE].filter(is_note)
