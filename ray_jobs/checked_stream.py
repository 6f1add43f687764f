"""A data file as a Ray Data set of checked rows, read by one task in the order of its rows, in bounded memory.

Blocks are Arrow tables: row number (`fraud.scored.ROW`), then the schema's columns. What is said about rows travels in
the column `NOTE`, as JSON: a refused row with its reason, a warning, a count of rows outside the wanted day, a failure.
"""

from __future__ import annotations

import datetime as dt
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import ray

from fraud import data, scored
from fraud.errors import DataError, FraudError
from fraud.schema import Schema, Validated
from ray_jobs.score_output import NOTE

logger = logging.getLogger(__name__)

READ_ROWS = 200_000
# Small enough that several actors share a million rows, large enough that a block's fixed cost does not matter.
BLOCK_BYTES = 8 * 2**20
_BUSY = 0.5  # free CPUs below which we do not wait for some


def cpus_of_a_task() -> tuple[float, int]:
    """CPUs to ask for a task, 0 when there is none to wait for (which it warns of), and how many actors fit beside."""
    free = ray.available_resources().get("CPU", 0.0)
    if free < 1.0 + _BUSY:
        logger.warning("the cluster has %.1f free CPUs: this job shares them with what runs there", free)
    return (1.0 if free >= 1.0 + _BUSY else 0.0), max(1, int(free - _BUSY))


def checked_rows(path: str, schema: Schema, date: dt.date | None, cpus: float) -> ray.data.Dataset:
    """The good rows of a data file, those of `date` if one is given, and notes on the others; `cpus` for the reader.

    A mistake in the file is a note (`failure`, `text`): an exception would reach the driver as pages of Ray's own log.
    """
    source = ray.data.from_items([{"path": path}])
    return source.map_batches(_read, fn_args=(schema, date), num_cpus=cpus, batch_format="pyarrow", batch_size=None)


def tables(found: ray.data.Dataset) -> Iterator[pa.Table]:
    """Yield the blocks of a set in their order."""
    yield from found.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1)


@contextmanager
def stream_settings(path: str) -> Iterator[None]:
    """Ray Data's settings for a stream of `path`: rows stay in order. Raises DataError if Ray itself fails.

    A data set keeps the settings of the moment it is made.
    """
    context = ray.data.DataContext.get_current()
    options = context.execution_options
    before = (options.preserve_order, context.enable_progress_bars, context.target_max_block_size)
    options.preserve_order, context.enable_progress_bars, context.target_max_block_size = True, False, BLOCK_BYTES
    chatter = logging.getLogger("ray.data")
    level = chatter.level
    chatter.setLevel(logging.WARNING)
    try:
        yield
    except ray.exceptions.RayError as error:
        last = str(error).strip().splitlines()[-1]
        raise DataError(f"the work on {path} failed on Ray: {last}; see the log above") from error
    finally:
        chatter.setLevel(level)
        options.preserve_order, context.enable_progress_bars, context.target_max_block_size = before


def on_date(rows: pd.DataFrame, schema: Schema, date: dt.date | None) -> np.ndarray:
    """Which rows happened on `date` (UTC): bool (n_rows,); all of them without a date or a timestamp column."""
    if date is None or schema.timestamp is None:
        return np.ones(len(rows), dtype=bool)
    return (rows[schema.timestamp.name].to_numpy(dtype="datetime64[D]") == np.datetime64(date)).astype(bool)


def outside(wanted: np.ndarray) -> list[str]:
    """The note on rows of other days."""
    return [] if wanted.all() else [json.dumps({"outside": int((~wanted).sum())})]


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


def _read(block: pa.Table, schema: Schema, date: dt.date | None) -> Iterator[pa.Table]:
    """The reading task: pieces of the file as checked rows and notes."""
    try:
        yield from _checked(block["path"][0].as_py(), schema, date)
    except FraudError as error:
        note = {"failure": type(error).__name__, "text": str(error)}
        yield pa.table({NOTE: pa.array([json.dumps(note)], pa.string())})


def _checked(path: str, schema: Schema, date: dt.date | None) -> Iterator[pa.Table]:
    for checked in data.iter_checked(path, schema, chunk_rows=READ_ROWS):
        wanted = on_date(checked.rows, schema, date)
        rows = checked.rows[wanted]
        with_label = schema.label is not None and schema.label.name in rows
        fields = [pa.field(scored.ROW, pa.int64()), *scored.arrow_fields(schema, with_label=with_label)]
        frame = rows.rename(columns={name: scored.name_of(name) for name in rows.columns})
        frame.insert(0, scored.ROW, rows.index.to_numpy(dtype=np.int64))
        good = pa.Table.from_pandas(frame, schema=pa.schema(fields), preserve_index=False)
        yield with_notes(good, [*_told(checked), *outside(wanted)])


def _told(checked: Validated) -> list[str]:
    """Notes on refused rows, and warnings."""
    notes: list[dict[str, object]] = [{"warning": warning} for warning in checked.warnings]
    notes += [{"refused": refused} for refused in checked.quarantine.to_dict(orient="records")]
    return [json.dumps(note) for note in notes]
