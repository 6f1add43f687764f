"""Blocks of checked rows, with notes on the other rows. This module does not need Ray.

Blocks are Arrow tables: row number (`fraud.scoring.scored.ROW`), then the schema's columns. A note is a separate row
with JSON in the column `NOTE`: refused rows, a warning, the number of rows of other days, or a failure. The column
`CONTENT` has the refused rows as an Arrow stream, or an encoded part of the output.
"""

from __future__ import annotations

import datetime as dt
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from fraud.data import partitions, tables
from fraud.errors import FraudError
from fraud.schema import Schema, Validated
from fraud.schema.validation import QUARANTINE_COLUMNS
from fraud.schema.values import TimeLimits, convert
from fraud.schema.zone import zone_of
from fraud.scoring import scored

READ_ROWS = 200_000
NOTE = "_note"
CONTENT = "_content"
Note = tuple[dict[str, Any], bytes | None]  # note, content


def checked_tables(path: str, schema: Schema, date: dt.date | None, *, with_others: bool = False) -> Iterator[pa.Table]:
    """Good rows of a data file, with notes on the others.

    date: only rows of this day. with_others: also good rows of other days.
    """
    try:
        for checked in tables.iter_checked(path, schema, chunk_rows=READ_ROWS):
            is_of_day = on_date(checked.rows, schema, None if with_others else date)
            rows = checked.rows[is_of_day]
            with_label = schema.label is not None and schema.label.name in rows
            fields = [pa.field(scored.ROW, pa.int64()), *scored.arrow_fields(schema, with_label=with_label)]
            frame = rows.rename(columns={name: scored.name_of(name) for name in rows.columns})
            frame.insert(0, scored.ROW, rows.index.to_numpy(dtype=np.int64))
            good = pa.Table.from_pandas(frame, schema=pa.schema(fields), preserve_index=False)
            yield with_notes(good, notes_on(checked, is_of_day, schema, date))
    except FraudError as error:
        yield failure(error)


def on_date(rows: pd.DataFrame, schema: Schema, date: dt.date | None) -> np.ndarray:
    """Mask of rows on `date` in the schema's zone: bool (n_rows,); all without a date or a timestamp column."""
    if date is None or schema.timestamp is None:
        return np.ones(len(rows), dtype=bool)
    days = zone_of(schema).day_of(rows[schema.timestamp.name].to_numpy())
    return np.asarray(days == np.datetime64(date), dtype=bool)


def notes_on(checked: Validated, is_of_day: np.ndarray, schema: Schema, date: dt.date | None) -> pa.Table:
    """Notes on a piece: warnings, refused rows by day, number of rows of other days.

    With a date, refused rows with a readable time of another day count for that day.
    """
    notes: list[Note] = [({"warning": warning}, None) for warning in checked.warnings]
    others: Counter[str] = Counter()
    if len(checked.quarantine):
        for day, rows in _by_day(checked.quarantine, schema, date):
            if date is not None and day not in (date.isoformat(), partitions.UNKNOWN):
                others[day] += len(rows)
                continue
            row, column, value, reason = rows.iloc[-1][list(QUARANTINE_COLUMNS)]
            quarantine = {
                "day": day if date is None else date.isoformat(),
                "is_dated": day != partitions.UNKNOWN,
                "first": int(rows["row"].iloc[0]),
                "rows": len(rows),
                "example": f"row {row}, column {column!r}: {value!r} {reason}",
            }
            notes.append(({"quarantine": quarantine}, _as_stream(rows)))
    return notes_table([*notes, *outside(checked.rows, is_of_day, schema, date, others)])


def _as_stream(rows: pd.DataFrame) -> bytes:
    table, sink = pa.Table.from_pandas(rows, preserve_index=False), pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    # Not a memoryview: pyarrow 25 never frees one after making a binary array of it.
    return bytes(sink.getvalue().to_pybytes())


def _by_day(refused: pd.DataFrame, schema: Schema, date: dt.date | None) -> Iterator[tuple[str, pd.DataFrame]]:
    """Refused rows by the day of their time; UNKNOWN if the time is missing, unreadable or out of limits."""
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


def notes_table(notes: Sequence[Note]) -> pa.Table:
    """Notes as the rows of a block."""
    table = pa.table({NOTE: pa.array([json.dumps(note) for note, _ in notes], pa.string())})
    if all(content is None for _, content in notes):
        return table
    return table.append_column(CONTENT, pa.array([content for _, content in notes], pa.large_binary()))


def failure(error: FraudError) -> pa.Table:
    """A block with only the note of a user error that ended the work."""
    return notes_table([({"failure": type(error).__name__, "text": str(error)}, None)])


def outside(
    rows: pd.DataFrame,
    is_of_day: np.ndarray,
    schema: Schema,
    date: dt.date | None,
    refused: Mapping[str, int] | None = None,
) -> list[Note]:
    """The note on rows of other days than `date`; none without a date or a timestamp.

    rows: good rows of all days. is_of_day: mask of those of `date`. refused: refused rows by other day.
    """
    if date is None or schema.timestamp is None:
        return []
    times = rows[schema.timestamp.name].to_numpy(dtype="datetime64[us]")
    days = zone_of(schema).day_of(times[~is_of_day])
    names, counts = np.unique(np.where(np.isnat(days), partitions.UNKNOWN, days.astype(str)), return_counts=True)
    others = Counter(dict(zip(names.tolist(), counts.tolist(), strict=True)))
    others.update(refused)
    known = times[~np.isnat(times)].astype(np.int64)
    span = [int(known.min()), int(known.max())] if len(known) else None
    return [({"outside": others, "span": span}, None)] if others or span else []


def with_notes(rows: pa.Table, *notes: pa.Table) -> pa.Table:
    """Join rows and notes into one block; notes are null in the rows' columns."""
    rows = rows.replace_schema_metadata(None).append_column(NOTE, pa.nulls(len(rows), pa.string()))
    with_rows = [table for table in notes if len(table)]
    return pa.concat_tables([rows, *with_rows], promote_options="default") if with_rows else rows


def without_notes(block: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Split a block into rows and notes."""
    if NOTE not in block.column_names:
        return block, notes_table([])
    is_note = pc.is_valid(block[NOTE])
    names = [name for name in (NOTE, CONTENT) if name in block.column_names]
    return block.filter(pc.invert(is_note)).drop_columns(names), block.select(names).filter(is_note)


def notes_in(notes: pa.Table) -> Iterator[tuple[dict[str, Any], pa.Buffer | None]]:
    """Each note and its content."""
    contents = notes[CONTENT] if CONTENT in notes.column_names else [None] * len(notes)
    for note, content in zip(notes[NOTE], contents, strict=True):
        yield json.loads(note.as_py()), None if content is None else content.as_buffer()
