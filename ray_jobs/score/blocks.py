"""Score blocks of rows, in a Ray Data actor or in the job's own process. This module does not need Ray.

An input block either lists pieces of Parquet files, which are read and checked here, or has checked rows
(`ray_jobs.streaming.checked_blocks`) with history features, if any. An output block has scored rows and notes, or for a
partitioned output only notes with parts (Parquet files).
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fraud.data import partitions, tables
from fraud.data.files import Piece
from fraud.detectors.features import raw_features
from fraud.errors import FraudError
from fraud.history.definition import feature_names
from fraud.registry import versions
from fraud.schema import Schema, Validated
from fraud.schema.zone import zone_of
from fraud.scoring import bundle, scored
from fraud.scoring.engine import Engine
from fraud.scoring.reasons import Reason
from fraud.settings import Settings
from ray_jobs.score.output import ROW_GROUP, parquet_options
from ray_jobs.streaming.checked_blocks import (
    READ_ROWS,
    Note,
    failure,
    notes_on,
    notes_table,
    on_date,
    with_notes,
    without_notes,
)

PIECE = "piece"  # column of a block that lists pieces


@dataclass(frozen=True, kw_only=True)
class Model:
    """The detector to load, on any node.

    folder: of the bundle; sha256: of its manifest; version: name for the output; number: version in the registry, for
    nodes without the folder.
    """

    folder: str
    sha256: str
    version: str
    number: int | None
    settings: Settings

    def open(self) -> bundle.Bundle:
        """Load the bundle from its folder, or from the registry if this node lacks it. Raises BundleError."""
        if self.number is not None and not Path(self.folder).exists():
            return bundle.load(versions.fetch(self.number, self.settings), expected_sha256=self.sha256)
        return bundle.load(self.folder, expected_sha256=self.sha256)


@dataclass(frozen=True, kw_only=True)
class Work:
    """Options for scoring blocks.

    reasons: explain flagged rows; date: only rows of this day; in_parts: return encoded parts, one per day;
    learnt_until: end of the windows that the model learned from, if it has times.
    """

    model: Model
    reasons: bool
    date: dt.date | None
    in_parts: bool
    learnt_until: np.datetime64 | None = None
    pieces: Sequence[Piece] = ()


class Scorer:
    """Loads the engine once and scores blocks."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._engine = Engine(work.model.open().detector)

    def __call__(self, block: pa.Table) -> Iterator[pa.Table]:
        """Score one block. A data error becomes a note, since an exception would fill pages of Ray's log."""
        if PIECE in block.column_names:
            for i in block[PIECE].to_pylist():
                yield from self.piece(self._work.pieces[i])
            return
        good, notes = without_notes(block)
        if scored.ROW not in good.column_names:
            yield block  # only the note that reading failed
            return
        schema = self._engine.schema
        names = feature_names(schema)
        history = np.empty((len(good), len(names)))
        for j, name in enumerate(names):
            history[:, j] = good[name].to_numpy()
        rows = scored.source_columns(good.drop_columns(names).to_pandas(split_blocks=True), schema)
        rows.index = pd.Index(good[scored.ROW].to_numpy(), name=scored.ROW)
        yield self._answer(rows, history, notes)

    def piece(self, piece: Piece) -> Iterator[pa.Table]:
        """Read, check and score a piece of a Parquet file."""
        frames = piece.frames(ROW_GROUP)
        yield from self.checked(
            tables.check_frames(frames, piece.source, self._engine.schema, first_row=piece.first_row)
        )

    def checked(self, pieces: Iterable[Validated]) -> Iterator[pa.Table]:
        """Score checked rows without entity history. A data error becomes a note."""
        schema, date = self._engine.schema, self._work.date
        try:
            for piece in pieces:
                is_of_day = on_date(piece.rows, schema, date)
                rows = piece.rows if is_of_day.all() else piece.rows[is_of_day]
                yield self._answer(rows, np.empty((len(rows), 0)), notes_on(piece, is_of_day, schema, date))
        except FraudError as error:
            yield failure(error)

    def _answer(self, rows: pd.DataFrame, history: np.ndarray, notes: pa.Table) -> pa.Table:
        engine, schema = self._engine, self._engine.schema
        raw = raw_features(rows, schema, engine.detector.features.categories, history)
        frame = engine.decide(raw, rows.index)
        table = scored.arrow_table(rows, schema, frame, self._work.model.version, self._reasons_of(rows, raw, frame))
        if self._work.in_parts:
            parts = notes_table(list(_parts(table, schema, self._work)))
            return pa.concat_tables([notes, parts], promote_options="default")
        learnt = _n_learnt(table, schema, self._work)
        return with_notes(table, notes, notes_table([({"learnt": learnt}, None)] if learnt else []))

    def _reasons_of(self, rows: pd.DataFrame, raw: np.ndarray, frame: pd.DataFrame) -> Mapping[int, list[Reason]]:
        flagged = np.flatnonzero(frame["is_fraud"].to_numpy())
        if not self._work.reasons or not len(flagged):
            return {}
        return dict(zip(flagged.tolist(), self._engine.reasons(rows.iloc[flagged], raw=raw[flagged]), strict=True))


def _n_learnt(table: pa.Table, schema: Schema, work: Work) -> int:
    """Number of rows from the time that the model learned from."""
    if work.learnt_until is None or schema.timestamp is None:
        return 0
    return int((table[scored.name_of(schema.timestamp.name)].to_numpy() <= work.learnt_until).sum())


def _parts(table: pa.Table, schema: Schema, work: Work) -> Iterator[Note]:
    """One encoded part per day, with its note."""
    for day, rows in _days(table, schema, work.date):
        encoded = encode(rows)
        part = {
            "day": day,
            "first": rows[scored.ROW][0].as_py(),
            "rows": len(rows),
            "flagged": pc.sum(rows["is_fraud"]).as_py(),
            "learnt": _n_learnt(rows, schema, work),
            "bytes": len(encoded),
            "sha256": hashlib.sha256(encoded).hexdigest(),
        }
        yield {"part": part}, encoded


def _days(table: pa.Table, schema: Schema, date: dt.date | None) -> Iterator[tuple[str, pa.Table]]:
    """Rows by day, in order; all rows if a date is given."""
    if not len(table):
        return
    if date is not None or schema.timestamp is None:
        yield (partitions.UNKNOWN if date is None else date.isoformat()), table
        return
    days = zone_of(schema).day_of(table[scored.name_of(schema.timestamp.name)].to_numpy())
    for day in np.unique(days):  # NaT is last
        at = np.isnat(days) if np.isnat(day) else days == day
        yield (partitions.UNKNOWN if np.isnat(day) else str(day)), table if at.all() else table.filter(pa.array(at))


def score_locally(path: str, work: Work, schema: Schema) -> Iterator[pa.Table]:
    """`ray_jobs.score.stream.stream` without Ray, for schemas without entity history."""
    scorer = Scorer(work)
    for piece in work.pieces:
        yield from scorer.piece(piece)
    if not work.pieces:
        yield from scorer.checked(tables.iter_checked(path, schema, chunk_rows=READ_ROWS))


def encode(table: pa.Table) -> bytes:
    """Encode a table as a Parquet file, deterministically."""
    sink = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata(scored.MARK), sink, **parquet_options(table.schema))
    # Not a memoryview: pyarrow 25 never frees one after making a binary array of it.
    return bytes(sink.getvalue().to_pybytes())
