"""Scores blocks of rows, in an actor of Ray Data or in the job's own process; nothing here needs Ray.

A block names pieces of a Parquet file, which are read and checked here, or holds rows that were checked before
(`ray_jobs.streaming.checked_blocks`), with their history features if any. What comes out holds scored rows and notes;
or, where the output is partitioned, parts: whole Parquet files as bytes in the column `PART`, told of by the note
beside them.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
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
from fraud.schema import Schema
from fraud.schema.zone import zone_of
from fraud.scoring import bundle, scored
from fraud.scoring.engine import Engine
from fraud.scoring.reasons import Reason
from fraud.settings import Settings
from ray_jobs.score.output import NOTE, PART, ROW_GROUP, parquet_options
from ray_jobs.streaming.checked_blocks import failure, on_date, told, with_notes, without_notes

PIECE = "piece"  # the column of a block that names pieces


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
            return bundle.load(versions.fetch(self.number, self.settings), expected_sha256=self.sha256)
        return bundle.load(self.folder, expected_sha256=self.sha256)


@dataclass(frozen=True, kw_only=True)
class Work:
    """What to do with a block.

    reasons: explain flagged rows; date: only rows of this day; in_parts: give encoded parts, one for each day;
    learnt_until: the last moment of the windows that the model learnt from, if it has times.
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
        """Score one block; a mistake in the data is a note, as an exception would be pages of Ray's own log."""
        if PIECE in block.column_names:
            for i in block[PIECE].to_pylist():
                yield from self._piece(self._work.pieces[i])
            return
        good, notes = without_notes(block)
        if scored.ROW not in good.column_names:
            yield block  # nothing but the note that reading failed
            return
        schema = self._engine.schema
        names = feature_names(schema)
        history = np.empty((len(good), len(names)))
        for j, name in enumerate(names):
            history[:, j] = good[name].to_numpy()
        rows = scored.source_columns(good.drop_columns(names).to_pandas(split_blocks=True), schema)
        rows.index = pd.Index(good[scored.ROW].to_numpy(), name=scored.ROW)
        yield self._answer(rows, history, notes)

    def _piece(self, piece: Piece) -> Iterator[pa.Table]:
        schema, date = self._engine.schema, self._work.date
        frames = piece.frames(ROW_GROUP)
        try:
            for checked in tables.check_frames(frames, piece.source, schema, first_row=piece.first_row):
                wanted = on_date(checked.rows, schema, date)
                rows = checked.rows if wanted.all() else checked.rows[wanted]
                notes = told(checked, wanted, schema, date)
                yield self._answer(rows, np.empty((len(rows), 0)), pa.chunked_array([notes], pa.string()))
        except FraudError as error:
            yield failure(error)

    def _answer(self, rows: pd.DataFrame, history: np.ndarray, notes: pa.ChunkedArray) -> pa.Table:
        engine, schema = self._engine, self._engine.schema
        raw = raw_features(rows, schema, engine.detector.features.categories, history)
        frame = engine.decide(raw, rows.index)
        table = scored.arrow_table(rows, schema, frame, self._work.model.version, self._reasons_of(rows, raw, frame))
        if self._work.in_parts:
            return _parts(table, schema, self._work, notes)
        learnt = _n_learnt(table, schema, self._work)
        told_of = [json.dumps({"learnt": learnt})] if learnt else []
        return with_notes(table, pa.chunked_array([*notes.chunks, told_of], pa.string()))

    def _reasons_of(self, rows: pd.DataFrame, raw: np.ndarray, frame: pd.DataFrame) -> Mapping[int, list[Reason]]:
        flagged = np.flatnonzero(frame["is_fraud"].to_numpy())
        if not self._work.reasons or not len(flagged):
            return {}
        return dict(zip(flagged.tolist(), self._engine.reasons(rows.iloc[flagged], raw=raw[flagged]), strict=True))


def _n_learnt(table: pa.Table, schema: Schema, work: Work) -> int:
    """How many scored rows are no newer than what the model learnt from."""
    if work.learnt_until is None or schema.timestamp is None:
        return 0
    return int((table[scored.name_of(schema.timestamp.name)].to_numpy() <= work.learnt_until).sum())


def _parts(table: pa.Table, schema: Schema, work: Work, notes: pa.ChunkedArray) -> pa.Table:
    """Scored rows as one encoded part for each of their days, each with its note, and the other notes."""
    told_of: list[str] = notes.to_pylist()
    parts: list[bytes | None] = [None] * len(notes)
    for day, rows in _days(table, schema, work.date):
        encoded = encode(rows)
        first = rows[scored.ROW][0].as_py()
        note = {
            "day": day,
            "first": first,
            "rows": len(rows),
            "flagged": pc.sum(rows["is_fraud"]).as_py(),
            "learnt": _n_learnt(rows, schema, work),
            "bytes": len(encoded),
            "sha256": hashlib.sha256(encoded).hexdigest(),
        }
        told_of.append(json.dumps({"part": note}))
        parts.append(encoded)
    return pa.table({NOTE: pa.array(told_of, pa.string()), PART: pa.array(parts, pa.large_binary())})


def _days(table: pa.Table, schema: Schema, date: dt.date | None) -> Iterator[tuple[str, pa.Table]]:
    """Rows day by day, in their order; all of them where a date is given."""
    if not len(table):
        return
    if date is not None or schema.timestamp is None:
        yield (partitions.UNKNOWN if date is None else date.isoformat()), table
        return
    days = zone_of(schema).day_of(table[scored.name_of(schema.timestamp.name)].to_numpy())
    for day in np.unique(days):  # NaT is the last
        at = np.isnat(days) if np.isnat(day) else days == day
        whole = at.all()
        yield (partitions.UNKNOWN if np.isnat(day) else str(day)), table if whole else table.filter(pa.array(at))


def encode(table: pa.Table) -> bytes:
    """A table as the bytes of a Parquet file; the same table gives the same bytes."""
    sink = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata(None), sink, **parquet_options(table.schema))
    # Not a memoryview: pyarrow 25 never frees one that it made a binary array of.
    return bytes(sink.getvalue().to_pybytes())
