"""Transactions by id, for labels that come later: those of the daily snapshots, and those decided since."""

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

MOST_ROWS = 5_000_000  # decided transactions in memory, some 60 bytes each
_SNAPSHOTS_S = 30.0  # between two looks for a newer snapshot
_SMALL = 20_000  # tables of fewer rows are put together, so that they stay few


class TransactionIndex:
    """When a transaction happened, and whose it was. Not to be shared by threads."""

    def __init__(self, settings: Settings, decisions: DecisionSettings, schema: Schema) -> None:
        assert schema.timestamp is not None and schema.id is not None
        self._settings, self._schema = settings, schema
        self._id, self._time = schema.id.name, schema.timestamp.name
        self._memory = max(plan.memory for plan in plans(schema))
        self._entities = [plan.column for plan in plans(schema) if plan.keeps_frauds]
        self._reader = DecisionReader(decisions, schema, [self._id, self._time, *self._entities])
        self._tables: list[pa.Table] = []
        self._snapshots: Snapshots | None = None
        self._day: dt.date | None = None
        self._chain = ""
        self._looked = -np.inf
        self._said: set[str] = set()
        if not self._reader.is_on:
            self._say("decisions are not kept (FRAUD_DECISIONS=off): labels find the transactions of snapshots only")
        elif self._reader.hidden:
            hidden = ", ".join(self._reader.hidden)
            self._say(f"the decision log hides {hidden}: labels find the transactions of snapshots only")

    def refresh(self) -> list[str] | None:
        """Read what is new; return the ids that came, or None where there is a newer snapshot: then any may have."""
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
        """As Snapshots.find: "id", "time" and the entity columns whose frauds are counted; unknown ids are left out."""
        wanted = pa.array(ids, pa.string())
        parts = [table.filter(pc.is_in(table[self._id], value_set=wanted)) for table in self._tables]
        decided = pa.concat_tables(parts).to_pandas() if parts else pd.DataFrame(columns=[self._id])
        decided = decided.drop_duplicates(self._id).rename(columns={self._id: ID, self._time: "time"})
        there = set(decided[ID])
        rest = [each for each in ids if each not in there]
        if self._snapshots is None or self._day is None or not rest:
            return decided
        known = self._snapshots.find(rest, self._day)
        found = [frame for frame in (decided, known) if len(frame)]
        return pd.concat(found, ignore_index=True) if found else known

    def _look_for_snapshots(self) -> bool:
        if time.monotonic() - self._looked < _SNAPSHOTS_S:
            return False
        self._looked = time.monotonic()
        try:
            snapshots = Snapshots.open(self._settings, self._schema)
            day = snapshots.newest_day()
            chain = snapshots.chain_of(day) if day is not None else ""
        except (FraudError, OSError) as error:
            self._say(f"the daily snapshots cannot be read, so labels find decided transactions only ({error})")
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
        """When the newest snapshot's day ends, microseconds since 1970."""
        assert self._day is not None
        return zone_of(self._schema).end_of(self._day)

    def _tidy(self) -> None:
        """Put small tables together, and let go of what the snapshots hold and of what is too much."""
        if self._day is not None:
            # A day more than the snapshots need: a decided transaction may be missing in the day's own file.
            oldest = pa.scalar(self._ends() - DAY, pa.int64()).cast(pa.timestamp("us"))
            self._tables = [t for t in self._tables if pc.max(t[self._time]).as_py() >= oldest.as_py()]
        small = [table for table in self._tables if len(table) < _SMALL]
        if len(small) > 20:
            large = [table for table in self._tables if len(table) >= _SMALL]
            self._tables = [*large, pa.concat_tables(small).combine_chunks()]
        while sum(map(len, self._tables)) > MOST_ROWS and len(self._tables) > 1:
            del self._tables[0]
            self._say(
                f"more than {MOST_ROWS:,} transactions are decided since the newest snapshot: labels of the oldest "
                "find them in snapshots only; build those daily (python -m ray_jobs.history build)"
            )

    def _say(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            logger.warning("%s", text)
