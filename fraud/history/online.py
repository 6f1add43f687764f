"""Entity history of single requests: read what a state store remembers, give the features, have the row remembered.

The features equal those of `fraud.history.replay`, to the last bit, if rows arrive in time order and labels are learnt
before they matter. What happens otherwise:

- late row: it reads the events up to its own time and takes its place among them for the rows after it;
- retry (an id that the entity has already): remembered once, and answered as the first time;
- missing entity: no history, and nothing is remembered;
- row dated more than a day ahead of this machine's clock: answered, not remembered.
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
from fraud.history.stores.store import Remembered, StateReader, StateStore, Visit
from fraud.schema import Schema

_NO_RECORDS = Remembered(b"", b"")
_NO_WORDS = np.empty(0, dtype="<u4")
_NO_WORDS.flags.writeable = False  # as np.frombuffer's arrays are: numba compiles once
Number = Callable[[str, object], float]


class Seen(NamedTuple):
    """What remembering a row gave. features: float64 (width,).

    is_changed: its id was remembered already with another time or other values; what was there stays.
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
        """Compile what a request needs."""
        for plan in self._plans:
            plan.compute(plan.pack({}, 0, 0, lambda name, value: 0.0), _NO_RECORDS, np.empty(plan.width))

    def visits(self, row: Mapping[str, object], now: int, number: Number) -> list[Visit]:
        """The row's record for each plan, under the entity's key ("" where the row names none).

        now: the row's time, microseconds since 1970; number: reads a value of the named numeric column.
        """
        row_id = hashed(row.get(self._id)) if self._id else 0
        return [
            Visit(i, _key(row.get(plan.column)), plan.pack(row, now, row_id, number))
            for i, plan in enumerate(self._plans)
        ]

    def read(self, visits: Sequence[Visit], store: StateReader) -> np.ndarray:
        """History features, float64 (width,), without remembering the row. Raises StoreError."""
        return self._features(visits, store.peek([visit for visit in visits if visit.key]))[0]

    def exchange(self, visits: Sequence[Visit], store: StateStore) -> np.ndarray:
        """History features, float64 (width,); the row is remembered for the rows after it. Raises StoreError."""
        return self.remember(visits, store).features

    def remember(self, visits: Sequence[Visit], store: StateStore) -> Seen:
        """As `exchange`, and whether the row's id came before as another row. Raises StoreError."""
        if int.from_bytes(visits[0].record[:8], "little", signed=True) > time.time() * 1e6 + DAY:
            return Seen(self.read(visits, store), False)
        named = [visit for visit in visits if visit.key]
        remembered = store.exchange(named)
        out, repeated = self._features(visits, remembered)
        if not repeated:
            return Seen(out, False)
        store.take_back(repeated)
        before = dict(zip(named, remembered, strict=True))
        return Seen(out, any(_first_of(visit, before[visit].events) != visit.record for visit in repeated))

    def learn_fraud(self, row: Mapping[str, object], now: int, store: StateStore, *, is_fraud: bool = True) -> None:
        """Enter a fraud that became known, or take it out again (is_fraud False). Twice is as once. Raises StoreError.

        row: its entities and its id; no other column is read. now: when the transaction happened.
        """
        row_id = hashed(row.get(self._id)) if self._id else 0
        record = struct.pack("<qI", now, row_id)
        keys = [(i, _key(row.get(plan.column))) for i, plan in enumerate(self._plans) if plan.keeps_frauds]
        store.learn_fraud([Visit(i, key, record) for i, key in keys if key], is_fraud=is_fraud)

    def _features(self, visits: Sequence[Visit], remembered: Sequence[Remembered]) -> tuple[np.ndarray, list[Visit]]:
        """Features of one row, and the visits whose id was remembered already."""
        out = np.empty(self.width)
        first, found, repeated = 0, iter(remembered), []
        for plan, visit in zip(self._plans, visits, strict=True):
            part = out[first : first + plan.width]
            if plan.compute(visit.record, next(found) if visit.key else _NO_RECORDS, part):
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
        n = plan.kept + plan.capacity
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

    def compute(self, record: bytes, remembered: Remembered, out: np.ndarray) -> bool:
        """Write the features of a record; return whether its id was remembered already."""
        events, frauds = remembered
        return history_kernels.read_row(
            np.frombuffer(events, "<u4") if events else _NO_WORDS,
            np.frombuffer(frauds, "<u4") if frauds else _NO_WORDS,
            np.frombuffer(record, "<u4"), *self._arguments, out,
        )  # fmt: skip


def _first_of(visit: Visit, events: bytes) -> bytes:
    """The oldest of the remembered records with the id of a visit's; its own where none is left."""
    width, row_id = len(visit.record), visit.record[8:12]
    starts = range(0, len(events), width)
    return next((events[s : s + width] for s in starts if events[s + 8 : s + 12] == row_id), visit.record)


def _key(value: object) -> str:
    return "" if value is None or value != value else str(value)
