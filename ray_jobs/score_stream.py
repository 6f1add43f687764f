"""The stream behind batch scoring, on Ray Data: read and check in one task, score in actors, keep the order of rows.

Rows without history are independent: pieces of the file flow through several actors. With history a row's score depends
on the rows before it, so that one actor takes the whole file and replays it in time order.

Blocks between the stages are Arrow tables. What is said about rows rather than scored travels in the column `NOTE`, as
JSON: a refused row with its reason, a warning, a count of rows outside the wanted day.
"""

from __future__ import annotations

import datetime as dt
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import ray

from fraud import bundle, data, registry, scored
from fraud.engine import Engine
from fraud.errors import DataError, FraudError
from fraud.reasons import Reason
from fraud.schema import Schema, Validated
from fraud.settings import Settings
from ray_jobs.score_output import NOTE

logger = logging.getLogger(__name__)

READ_ROWS = 200_000
# Small enough that several actors share a million rows, large enough that a block's fixed cost does not matter.
BLOCK_BYTES = 8 * 2**20
_BUSY = 0.5  # free CPUs below which we do not wait for some


@dataclass(frozen=True, kw_only=True)
class Model:
    """Which detector to load, on any node.

    folder: a bundle; sha256: of its manifest; version: what to call it in the output; number: its version in the
    registry, for nodes that lack the folder.
    """

    folder: str
    sha256: str
    version: str
    number: int | None
    settings: Settings

    def open(self) -> bundle.Bundle:
        """Load the bundle from its folder, or from the registry where this node lacks it. Raises BundleError."""
        if self.number is not None and not Path(self.folder).exists():
            return bundle.load(registry.fetch(self.number, self.settings), expected_sha256=self.sha256)
        return bundle.load(self.folder, expected_sha256=self.sha256)


def stream(path: str, model: Model, schema: Schema, *, reasons: bool, date: dt.date | None) -> Iterator[pa.Table]:
    """Yield scored rows and notes of a data file, in the order of its rows: `fraud.scored.arrow_schema` and `NOTE`.

    Needs a live Ray. A mistake in the file is a note (`failure`, `text`); raises DataError if Ray itself fails.
    """
    with _context():  # a data set keeps the settings of the moment it is made
        found = _dataset(path, model, schema, reasons, date)
        try:
            yield from found.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1)
        except ray.exceptions.RayError as error:
            last = str(error).strip().splitlines()[-1]
            raise DataError(f"scoring {path} failed on Ray: {last}; see the log above") from error


def _dataset(path: str, model: Model, schema: Schema, reasons: bool, date: dt.date | None) -> ray.data.Dataset:
    free = ray.available_resources().get("CPU", 0.0)
    cpus = 1.0 if free >= 1.0 + _BUSY else 0.0
    if not cpus:
        logger.warning("the cluster has %.1f free CPUs: scoring shares them with what runs there", free)
    source = ray.data.from_items([{"path": path}])
    whole = {"batch_format": "pyarrow", "batch_size": None}
    actor = {"fn_constructor_args": (model, reasons, date), "num_cpus": cpus, **whole}
    if schema.history:
        logger.info("schema %r keeps history: rows are replayed in time order by one actor", schema.name)
        return source.map_batches(_Replayer, compute=ray.data.ActorPoolStrategy(size=1), **actor)
    # Unequal CPUs keep Ray Data from fusing the two stages, which would leave all the scoring to one actor.
    pieces = source.map_batches(_read, fn_args=(schema, date), num_cpus=cpus / 2, **whole)
    return pieces.map_batches(_Scorer, compute=ray.data.ActorPoolStrategy(size=max(1, int(free - _BUSY))), **actor)


class _Scorer:
    """An actor that loads the engine once and scores blocks of checked rows."""

    def __init__(self, model: Model, reasons: bool, date: dt.date | None) -> None:
        self._engine = Engine(model.open().detector)
        self._version = model.version
        self._reasons = reasons

    def __call__(self, block: pa.Table) -> pa.Table:
        if scored.ROW not in block.column_names:
            return block  # nothing but the note that reading failed
        is_note = pc.is_valid(block[NOTE])
        good = block.filter(pc.invert(is_note))
        rows = scored.source_columns(good.to_pandas(), self._engine.schema)
        rows.index = pd.Index(good[scored.ROW].to_numpy(), name=scored.ROW)
        found = _scored(self._engine, rows, None, self._version, self._reasons)
        return _with_notes(found, block[NOTE].filter(is_note))


class _Replayer:
    """The actor that scores a whole file with history."""

    def __init__(self, model: Model, reasons: bool, date: dt.date | None) -> None:
        self._engine = Engine(model.open().detector)
        self._version = model.version
        self._reasons = reasons
        self._date = date

    def __call__(self, block: pa.Table) -> Iterator[pa.Table]:
        try:
            yield from self._replayed(block["path"][0].as_py())
        except FraudError as error:
            yield _failure(error)

    def _replayed(self, path: str) -> Iterator[pa.Table]:
        schema = self._engine.schema
        pieces, notes = [], []
        for checked in data.iter_checked(path, schema):
            pieces.append(checked.rows)
            notes += _told(checked)
        rows = pd.concat(pieces)
        raw = self._engine.raw(rows) if len(rows) else np.empty((0, 0))
        if warning := self._engine.history_warning(rows):
            notes.append(json.dumps({"warning": warning}))
        wanted = _on(rows, schema, self._date)
        notes += _outside(wanted)
        rows, raw = rows[wanted], raw[wanted]
        for start in range(0, max(len(rows), 1), READ_ROWS):
            piece = slice(start, start + READ_ROWS)
            found = _scored(self._engine, rows.iloc[piece], raw[piece], self._version, self._reasons)
            yield _with_notes(found, notes if start == 0 else [])


def _read(block: pa.Table, schema: Schema, date: dt.date | None) -> Iterator[pa.Table]:
    """The reading task: pieces of the file as checked rows and notes."""
    try:
        yield from _checked(block["path"][0].as_py(), schema, date)
    except FraudError as error:
        yield _failure(error)


def _checked(path: str, schema: Schema, date: dt.date | None) -> Iterator[pa.Table]:
    for checked in data.iter_checked(path, schema, chunk_rows=READ_ROWS):
        wanted = _on(checked.rows, schema, date)
        rows = checked.rows[wanted]
        with_label = schema.label is not None and schema.label.name in rows
        fields = [pa.field(scored.ROW, pa.int64()), *scored.arrow_fields(schema, with_label=with_label)]
        frame = rows.rename(columns={name: scored.name_of(name) for name in rows.columns})
        frame.insert(0, scored.ROW, rows.index.to_numpy(dtype=np.int64))
        good = pa.Table.from_pandas(frame, schema=pa.schema(fields), preserve_index=False)
        yield _with_notes(good, [*_told(checked), *_outside(wanted)])


def _scored(engine: Engine, rows: pd.DataFrame, raw: np.ndarray | None, version: str, reasons: bool) -> pa.Table:
    schema = engine.schema
    with_label = schema.label is not None and schema.label.name in rows
    arrow = scored.arrow_schema(schema, with_label=with_label, with_head=engine.detector.head is not None)
    if not len(rows):
        return arrow.empty_table()
    raw = engine.raw(rows) if raw is None else raw
    frame = engine.decide(raw, rows.index)
    told: list[list[Reason] | None] | None = None
    if reasons:
        told = [None] * len(rows)
        flagged = np.flatnonzero(frame["is_fraud"].to_numpy())
        if len(flagged):
            for i, why in zip(flagged, engine.reasons(rows.iloc[flagged], raw=raw[flagged]), strict=True):
                told[i] = why
    return pa.Table.from_pandas(scored.table(rows, frame, version, told), schema=arrow, preserve_index=False)


def _on(rows: pd.DataFrame, schema: Schema, date: dt.date | None) -> np.ndarray:
    """Which rows happened on `date` (UTC): bool (n_rows,); all of them without a date or a timestamp column."""
    if date is None or schema.timestamp is None:
        return np.ones(len(rows), dtype=bool)
    return (rows[schema.timestamp.name].to_numpy(dtype="datetime64[D]") == np.datetime64(date)).astype(bool)


def _told(checked: Validated) -> list[str]:
    """Notes on refused rows, and warnings."""
    notes: list[dict[str, object]] = [{"warning": warning} for warning in checked.warnings]
    notes += [{"refused": refused} for refused in checked.quarantine.to_dict(orient="records")]
    return [json.dumps(note) for note in notes]


def _failure(error: FraudError) -> pa.Table:
    """A user's mistake as a note: an exception would reach the driver as pages of Ray's own log."""
    note = {"failure": type(error).__name__, "text": str(error)}
    return pa.table({NOTE: pa.array([json.dumps(note)], pa.string())})


def _outside(wanted: np.ndarray) -> list[str]:
    return [] if wanted.all() else [json.dumps({"outside": int((~wanted).sum())})]


def _with_notes(rows: pa.Table, notes: list[str] | pa.ChunkedArray) -> pa.Table:
    """One block: rows, then notes, which have nothing in the rows' columns."""
    rows = rows.replace_schema_metadata(None).append_column(NOTE, pa.nulls(len(rows), pa.string()))
    if not len(notes):
        return rows
    return pa.concat_tables(
        [rows, pa.table({NOTE: pa.chunked_array([notes], pa.string()) if isinstance(notes, list) else notes})],
        promote_options="default",
    )


@contextmanager
def _context() -> Iterator[None]:
    """Ray Data's settings for the length of one stream."""
    context = ray.data.DataContext.get_current()
    options = context.execution_options
    before = (options.preserve_order, context.enable_progress_bars, context.target_max_block_size)
    options.preserve_order, context.enable_progress_bars, context.target_max_block_size = True, False, BLOCK_BYTES
    chatter = logging.getLogger("ray.data")
    level = chatter.level
    chatter.setLevel(logging.WARNING)
    try:
        yield
    finally:
        chatter.setLevel(level)
        options.preserve_order, context.enable_progress_bars, context.target_max_block_size = before
