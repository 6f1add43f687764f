"""The stream behind batch scoring, on Ray Data: read and check in one task, score in actors, keep the order of rows.

Rows without history are independent: pieces of the file flow through several actors. With history a row's score depends
on its entities' rows before it, so that ray_jobs.history_shuffle adds the features first, in parts of bounded size.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import ray

from fraud import bundle, registry, scored
from fraud.detector import Detector
from fraud.engine import Engine
from fraud.features import raw_features
from fraud.history import feature_names
from fraud.history_state import HistoryState
from fraud.reasons import Reason
from fraud.settings import Settings
from ray_jobs.checked_stream import checked_rows, cpus_of_a_task, stream_settings, tables, with_notes, without_notes
from ray_jobs.history_shuffle import with_history
from ray_jobs.score_output import NOTE


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


def stream(
    path: str,
    model: Model,
    detector: Detector,
    *,
    reasons: bool,
    date: dt.date | None = None,
    history_partitions: int | None = None,
) -> Iterator[pa.Table]:
    """Yield scored rows and notes of a data file, in the order of its rows: `fraud.scored.arrow_schema` and `NOTE`.

    Needs a live Ray. A mistake in the file is a note (`failure`, `text`); raises DataError if Ray itself fails.
    """
    with stream_settings(path):
        cpus, actors = cpus_of_a_task()
        schema = detector.schema
        told: list[str] = []
        if schema.history:
            rows = checked_rows(path, schema, None, cpus)

            def states(oldest: int) -> tuple[HistoryState, ...]:
                assert schema.timestamp is not None
                first = pd.DataFrame({schema.timestamp.name: np.array([oldest], dtype="datetime64[us]")})
                warning = Engine(detector).history_warning(first)
                told.extend([warning] if warning else [])
                return () if warning else detector.history

            found = with_history(
                rows, schema, states=states, partitions=history_partitions, date=date, cpus=cpus
            ).dataset
        else:
            # Unequal CPUs keep Ray Data from fusing the two stages, which would leave all the scoring to one actor.
            found = checked_rows(path, schema, date, cpus / 2)
        if told:
            yield pa.table({NOTE: pa.array([json.dumps({"warning": warning}) for warning in told], pa.string())})
        scores = found.map_batches(
            _Scorer,
            fn_constructor_args=(model, reasons),
            num_cpus=cpus,
            compute=ray.data.ActorPoolStrategy(size=actors),
            batch_format="pyarrow",
            batch_size=None,
        )
        yield from tables(scores)


class _Scorer:
    """An actor that loads the engine once and scores blocks of checked rows, with their history features if any."""

    def __init__(self, model: Model, reasons: bool) -> None:
        self._engine = Engine(model.open().detector)
        self._version = model.version
        self._reasons = reasons

    def __call__(self, block: pa.Table) -> pa.Table:
        good, notes = without_notes(block)
        if scored.ROW not in good.column_names:
            return block  # nothing but the note that reading failed
        engine, schema = self._engine, self._engine.schema
        names = feature_names(schema)
        history = np.empty((len(good), len(names)))
        for j, name in enumerate(names):
            history[:, j] = good[name].to_numpy()
        rows = scored.source_columns(good.drop_columns(names).to_pandas(), schema)
        rows.index = pd.Index(good[scored.ROW].to_numpy(), name=scored.ROW)
        with_label = schema.label is not None and schema.label.name in rows
        arrow = scored.arrow_schema(schema, with_label=with_label, with_head=engine.detector.head is not None)
        if not len(rows):
            return with_notes(arrow.empty_table(), notes)
        raw = raw_features(rows, schema, engine.detector.features.categories, history)
        frame = engine.decide(raw, rows.index)
        found = scored.table(rows, frame, self._version, self._reasons_of(rows, raw, frame))
        return with_notes(pa.Table.from_pandas(found, schema=arrow, preserve_index=False), notes)

    def _reasons_of(self, rows: pd.DataFrame, raw: np.ndarray, frame: pd.DataFrame) -> list[list[Reason] | None] | None:
        if not self._reasons:
            return None
        told: list[list[Reason] | None] = [None] * len(rows)
        flagged = np.flatnonzero(frame["is_fraud"].to_numpy())
        if len(flagged):
            for i, why in zip(flagged, self._engine.reasons(rows.iloc[flagged], raw=raw[flagged]), strict=True):
                told[i] = why
        return told
