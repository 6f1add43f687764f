"""Finds transactions by id, so that labels can be matched: in the daily snapshots and the decisions since."""

from __future__ import annotations

import datetime as dt
import logging
import time
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from fraud.errors import FraudError
from fraud.history.definition import DAY, plans
from fraud.history.snapshots.days import Snapshots
from fraud.labels.store import ID
from fraud.schema import Schema
from fraud.schema.zone import zone_of
from fraud.settings import Settings
from fraud.settings.serving import DecisionSettings
from serve_app.decisions.reader import DecisionReader

logger = logging.getLogger(__name__)

MOST_ROWS = 5_000_000  # transactions in memory, about 60 bytes each
_SNAPSHOTS_S = 30.0  # between two checks for a newer snapshot
_SMALL = 20_000  # smaller tables are merged


class TransactionIndex:
    """The time and the entities of transactions by id. Not thread-safe."""

    def __init__(self, settings: Settings, decisions: DecisionSettings, schema: Schema) -> None:
        assert schema.timestamp is not None and schema.id is not None
        self._settings, self._schema = settings, schema
        self._id, self._time = schema.id.name, schema.timestamp.name
        self._memory = max(plan.memory for plan in plans(schema))
        self._entities = [plan.column for plan in plans(schema) if plan.keeps_frauds]
        columns = [self._id, self._time, *self._entities]
        self._reader = DecisionReader(decisions, schema, columns, model=settings.model_name)
        self._tables: list[pa.Table] = []
        self._snapshots: Snapshots | None = None
        self._day: dt.date | None = None
        self._chain = ""
        self._looked = -np.inf
        self._warned: set[str] = set()
        if not self._reader.is_on:
            self._warn_once(
                "decisions are not kept (FRAUD_DECISIONS=off): labels find the transactions of snapshots only"
            )
        elif self._reader.hidden:
            hidden = ", ".join(self._reader.hidden)
            self._warn_once(f"the decision log hides {hidden}: labels find the transactions of snapshots only")

    def refresh(self) -> list[str] | None:
        """Read new decisions; return their ids, or None after a newer snapshot, which may add any id."""
        is_newer = self._look_for_snapshots()
        arrived: list[str] = []
        if self._reader.is_on and not self._reader.hidden:
            for table in self._reader.read(self._first_day()):
                rows = table.filter(pc.and_(pc.is_valid(table[self._id]), pc.is_valid(table[self._time])))
                if len(rows):
                    self._tables.append(rows.combine_chunks())
                    arrived += rows[self._id].to_pylist()
        if arrived:
            self._tidy()
        return None if is_newer else arrived

    def find(self, ids: Sequence[str]) -> pd.DataFrame:
        """Return "id", "time" and the entity columns with fraud counts, like Snapshots.find. Skips unknown ids."""
        id_array = pa.array(ids, pa.string())
        parts = [table.filter(pc.is_in(table[self._id], value_set=id_array)) for table in self._tables]
        decided = pa.concat_tables(parts).to_pandas() if parts else pd.DataFrame(columns=[self._id])
        decided = decided.drop_duplicates(self._id).rename(columns={self._id: ID, self._time: "time"})
        decided_ids = set(decided[ID])
        rest = [each for each in ids if each not in decided_ids]
        if self._snapshots is None or self._day is None or not rest:
            return decided
        known = self._snapshots.find(rest, self._day)
        frames = [frame for frame in (decided, known) if len(frame)]
        return pd.concat(frames, ignore_index=True) if frames else known

    def _look_for_snapshots(self) -> bool:
        if time.monotonic() - self._looked < _SNAPSHOTS_S:
            return False
        self._looked = time.monotonic()
        try:
            snapshots = Snapshots.open(self._settings, self._schema)
            day = snapshots.newest_day()
            chain = snapshots.chain_of(day) if day is not None else ""
        except (FraudError, OSError) as error:
            self._warn_once(f"the daily snapshots cannot be read: labels match only logged decisions ({error})")
            return False
        is_newer = chain != self._chain
        if is_newer:
            self._snapshots, self._day, self._chain = snapshots, day, chain
            self._tidy()
        return is_newer

    def _first_day(self) -> dt.date:
        oldest = time.time_ns() // 1000 - self._memory
        if self._day is not None:
            oldest = max(oldest, self._ends() - DAY)
        return np.datetime64(oldest, "us").astype("M8[D]").astype(dt.date)

    def _ends(self) -> int:
        """End of the newest snapshot's day, microseconds since 1970."""
        assert self._day is not None
        return zone_of(self._schema).end_of(self._day)

    def _tidy(self) -> None:
        """Merge small tables; drop what the snapshots cover and what exceeds MOST_ROWS."""
        if self._day is not None:
            # Keep one day more than needed: a logged transaction may be missing from that day's snapshot.
            oldest = pa.scalar(self._ends() - DAY, pa.int64()).cast(pa.timestamp("us"))
            self._tables = [t for t in self._tables if pc.max(t[self._time]).as_py() >= oldest.as_py()]
        small = [table for table in self._tables if len(table) < _SMALL]
        if len(small) > 20:
            large = [table for table in self._tables if len(table) >= _SMALL]
            self._tables = [*large, pa.concat_tables(small).combine_chunks()]
        while sum(map(len, self._tables)) > MOST_ROWS and len(self._tables) > 1:
            del self._tables[0]
            self._warn_once(
                f"more than {MOST_ROWS:,} transactions are decided since the newest snapshot: labels of the oldest "
                "find them in snapshots only; build those daily (python -m ray_jobs.history build)"
            )

    def _warn_once(self, text: str) -> None:
        if text not in self._warned:
            self._warned.add(text)
            logger.warning("%s", text)
