"""Entity history of single requests: read the stored events, compute the features, store the row.

The features are bit-identical to those of `fraud.history.replay` if rows arrive in time order and labels arrive before
they take effect. Other cases:

- late row: reads the events up to its own time, and is inserted by time for later rows;
- retry (the entity has this id already): stored once, same features as the first time;
- missing entity: no history, nothing stored;
- row dated more than a day ahead of this machine's clock: features, but not stored.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from fraud.history import kernels as history_kernels
from fraud.history.definition import DAY, LARGEST_FLOAT32, EntityPlan, entry_names, hashed, plans
from fraud.history.replay import EntryArguments
from fraud.history.state import starts_of
from fraud.history.stores.store import StateReader, StateStore, StoredRecords, Visit
from fraud.schema import Schema

_NO_RECORDS = StoredRecords(b"", b"")
_NO_WORDS = np.empty(0, dtype="<u4")
_NO_WORDS.flags.writeable = False  # as np.frombuffer's arrays are: numba compiles once
Number = Callable[[str, object], float]


class StoredRow(NamedTuple):
    """Result of storing a row. features: float64 (width,).

    is_changed: the id was stored before with another time or other values; the first record stays.
    """

    features: np.ndarray
    is_changed: bool


class OnlineHistory:
    """Computes one row's history features from a store. Safe to share between threads."""

    def __init__(self, schema: Schema) -> None:
        self._plans = [_PlanReader(plan, schema) for plan in plans(schema)]
        self._id = schema.id.name if schema.id else None
        self.width = sum(plan.width for plan in self._plans)

    def warm_up(self) -> None:
        """Compile the kernels that a request needs."""
        for plan in self._plans:
            plan.compute(plan.pack({}, 0, 0, lambda name, value: 0.0), _NO_RECORDS, np.empty(plan.width))

    def visits(self, row: Mapping[str, object], now: int, number: Number) -> list[Visit]:
        """The row's record for each plan, with the entity's key ("" if missing).

        now: the row's time, microseconds since 1970. number: parses a value of the named numeric column.
        """
        row_id = hashed(row.get(self._id)) if self._id else 0
        return [
            Visit(i, _key(row.get(plan.column)), plan.pack(row, now, row_id, number))
            for i, plan in enumerate(self._plans)
        ]

    def read(self, visits: Sequence[Visit], store: StateReader) -> np.ndarray:
        """History features, float64 (width,); the row is not stored. Raises StoreError."""
        return self._features(visits, store.peek([visit for visit in visits if visit.key]))[0]

    def exchange(self, visits: Sequence[Visit], store: StateStore) -> np.ndarray:
        """History features, float64 (width,); the row is stored. Raises StoreError."""
        return self.remember(visits, store).features

    def remember(self, visits: Sequence[Visit], store: StateStore) -> StoredRow:
        """As `exchange`; also returns whether the id was stored before with other values. Raises StoreError."""
        if int.from_bytes(visits[0].record[:8], "little", signed=True) > time.time() * 1e6 + DAY:
            return StoredRow(self.read(visits, store), False)
        named = [visit for visit in visits if visit.key]
        remembered = store.exchange(named)
        out, repeated = self._features(visits, remembered)
        if not repeated:
            return StoredRow(out, False)
        store.take_back(repeated)
        before = dict(zip(named, remembered, strict=True))
        return StoredRow(out, any(_first_of(visit, before[visit].events) != visit.record for visit in repeated))

    def learn_fraud(self, row: Mapping[str, object], now: int, store: StateStore, *, is_fraud: bool = True) -> None:
        """Record a known fraud, or remove it (is_fraud False). Idempotent. Raises StoreError.

        row: only entities and id are read. now: the transaction's time, microseconds since 1970.
        """
        row_id = hashed(row.get(self._id)) if self._id else 0
        record = struct.pack("<qI", now, row_id)
        keys = [(i, _key(row.get(plan.column))) for i, plan in enumerate(self._plans) if plan.keeps_frauds]
        store.learn_fraud([Visit(i, key, record) for i, key in keys if key], is_fraud=is_fraud)

    def _features(self, visits: Sequence[Visit], remembered: Sequence[StoredRecords]) -> tuple[np.ndarray, list[Visit]]:
        """Features of one row, and the visits whose id was stored already."""
        out = np.empty(self.width)
        first, next_remembered, repeated = 0, iter(remembered), []
        for plan, visit in zip(self._plans, visits, strict=True):
            part = out[first : first + plan.width]
            if plan.compute(visit.record, next(next_remembered) if visit.key else _NO_RECORDS, part):
                repeated.append(visit)
            first += plan.width
        return out, repeated


class _PlanReader:
    """One plan's record format, arguments and scratch arrays."""

    def __init__(self, plan: EntityPlan, schema: Schema) -> None:
        self.column, self.keeps_frauds = plan.column, plan.keeps_frauds
        self._plan, self._schema = plan, schema
        self._struct = struct.Struct("<qI" + "f" * len(plan.values) + "I" * len(plan.others))
        names = list(plan.values) + list(plan.others)
        arguments = [EntryArguments.of(entry, plan) for entry in plan.entries]
        widths = [len(entry_names(entry)) for entry in plan.entries]
        self.width = sum(widths)
        first = starts_of(widths)
        where = [
            [(names.index(name) if name else -1) for name in (entry.value, entry.of, *(entry.location or (None, None)))]
            for entry in plan.entries
        ]
        layout = np.array([[*columns, first[e]] for e, columns in enumerate(where)], dtype=np.int64)
        statistics, windows = zip(*((a.statistics, a.windows) for a in arguments), strict=True)
        n = plan.store_capacity + plan.capacity
        columns = np.zeros((max(len(names), 1), n), dtype=np.uint32)
        table = 1 << (2 * n + 1).bit_length()
        self._arguments = (
            layout, np.concatenate(statistics), starts_of([len(part) for part in statistics]),
            np.concatenate(windows), starts_of([len(part) for part in windows]),
            plan.delay, plan.memory, plan.capacity,
            np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.int64), columns, columns.view(np.float32),
            np.zeros(n, dtype=np.int64), np.zeros(table, dtype=np.uint32), np.zeros(table, dtype=np.int64),
            np.zeros(1, dtype=np.int64),
        )  # fmt: skip

    def pack(self, row: Mapping[str, object], now: int, row_id: int, number: Number) -> bytes:
        """The row's record."""
        values = [
            min(max(number(name, row.get(name)), -LARGEST_FLOAT32), LARGEST_FLOAT32) for name in self._plan.values
        ]
        return self._struct.pack(now, row_id, *values, *[hashed(row.get(name)) for name in self._plan.others])

    def compute(self, record: bytes, remembered: StoredRecords, out: np.ndarray) -> bool:
        """Write the features of a record; return whether its id was stored already."""
        events, frauds = remembered
        return history_kernels.read_row(
            np.frombuffer(events, "<u4") if events else _NO_WORDS,
            np.frombuffer(frauds, "<u4") if frauds else _NO_WORDS,
            np.frombuffer(record, "<u4"), *self._arguments, out,
        )  # fmt: skip


def _first_of(visit: Visit, events: bytes) -> bytes:
    """The oldest stored record with the visit's id; the visit's own record if there is none."""
    width, row_id = len(visit.record), visit.record[8:12]
    starts = range(0, len(events), width)
    return next((events[s : s + width] for s in starts if events[s + 8 : s + 12] == row_id), visit.record)


def _key(value: object) -> str:
    return "" if value is None or value != value else str(value)
