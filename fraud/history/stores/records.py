"""Operations on the records of one entity: bytes, sorted by time.

Shared by fraud.history.stores.memory and fraud.history.stores.node, so that both give a transaction the same features.
"""

from __future__ import annotations

import struct

import numpy as np

from fraud.history.definition import FRAUD_RECORD, EntityPlan

NEVER = -(2**63)
_TIME = struct.Struct("<q")


class Records:
    """Insertion and trimming rules of one plan's events and frauds."""

    def __init__(self, plan: EntityPlan) -> None:
        self.plan = plan
        self._width, self._most, self._memory = (
            plan.record.itemsize,
            plan.store_capacity * plan.record.itemsize,
            plan.memory,
        )

    def insert(self, events: bytes, record: bytes) -> bytes:
        """Insert a record by time; drop the oldest events over capacity."""
        time, width = time_of(record), self._width
        end = len(events)
        while end and _TIME.unpack_from(events, end - width)[0] > time:
            end -= width
        return self._trimmed(events[:end] + record + events[end:])

    def merge(self, events: bytes, older: bytes) -> bytes:
        """Merge the events of `older` by time, without duplicates: by id, or by the whole record if it has no id.

        older: sorted by time. At equal times the events of `older` come first.
        """
        if not events:
            return self._trimmed(older) if older else older
        own, others = (np.frombuffer(blob, self.plan.record) for blob in (events, older))
        is_new = ~np.isin(others["id"], own["id"])
        without_id = np.flatnonzero(others["id"] == 0)
        if len(without_id):
            existing = {record.tobytes() for record in own[own["id"] == 0]}
            is_new[without_id] = [others[i].tobytes() not in existing for i in without_id.tolist()]
        if not is_new.any():
            return events
        together = np.concatenate([others[is_new], own])
        return self._trimmed(together[np.argsort(together["time"], kind="stable")].tobytes())

    def with_fraud(self, frauds: bytes, record: bytes, newest: int) -> bytes:
        """Add a fraud, without duplicates; drop frauds that have no effect any more at `newest` (microseconds)."""
        known = split(frauds, FRAUD_RECORD.itemsize)
        if record in known:
            return frauds
        known = sorted([*known, record], key=time_of)
        while known and time_of(known[0]) < newest - self._memory:
            del known[0]
        n_known = sum(time_of(fraud) < newest - self.plan.delay for fraud in known)
        return b"".join(known[max(0, n_known - self.plan.capacity) :])

    def _trimmed(self, events: bytes) -> bytes:
        width = self._width
        if len(events) > self._most:
            events = events[-self._most :]
        oldest, first = _TIME.unpack_from(events, len(events) - width)[0] - self._memory, 0
        while _TIME.unpack_from(events, first)[0] < oldest:
            first += width
        return events[first:] if first else events


def without(records: bytes, record: bytes) -> bytes:
    """Remove the last copy of `record`; unchanged if there is none."""
    width = len(record)
    for start in range(len(records) - width, -1, -width):
        if records[start : start + width] == record:
            return records[:start] + records[start + width :]
    return records


def split(records: bytes, width: int) -> list[bytes]:
    """Split into records of `width` bytes."""
    return [records[start : start + width] for start in range(0, len(records), width)]


def time_of(record: bytes) -> int:
    """Time of a record, microseconds since 1970."""
    return int(_TIME.unpack_from(record)[0])
