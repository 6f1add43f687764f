"""The records of one entity as bytes, in order of time: what the stores that keep bytes in this process share.

A process (fraud.history.stores.memory) and a node (fraud.history.stores.node) keep the same bytes by the same rules, so
that a transaction gets the same features from either.
"""

from __future__ import annotations

import struct

import numpy as np

from fraud.history.definition import FRAUD_RECORD, EntityPlan

NEVER = -(2**63)
_TIME = struct.Struct("<q")


class Records:
    """The rules of one plan: what is kept of an entity's events and frauds, and in which order."""

    def __init__(self, plan: EntityPlan) -> None:
        self.plan = plan
        self._width, self._most, self._memory = plan.record.itemsize, plan.kept * plan.record.itemsize, plan.memory

    def insert(self, events: bytes, record: bytes) -> bytes:
        """The events with one more, in its place by time; the oldest go where there are too many."""
        time, width = time_of(record), self._width
        end = len(events)
        while end and _TIME.unpack_from(events, end - width)[0] > time:
            end -= width
        return self._trimmed(events[:end] + record + events[end:])

    def merge(self, events: bytes, older: bytes) -> bytes:
        """The events with those of `older`, by time, that they do not have: an id once, a record without id once.

        older: in order of time; of two events of one time the one of `older` comes first.
        """
        if not events:
            return self._trimmed(older) if older else older
        here, others = (np.frombuffer(blob, self.plan.record) for blob in (events, older))
        is_new = ~np.isin(others["id"], here["id"])
        nameless = np.flatnonzero(others["id"] == 0)
        if len(nameless):
            there = {record.tobytes() for record in here[here["id"] == 0]}
            is_new[nameless] = [others[i].tobytes() not in there for i in nameless.tolist()]
        if not is_new.any():
            return events
        together = np.concatenate([others[is_new], here])
        return self._trimmed(together[np.argsort(together["time"], kind="stable")].tobytes())

    def with_fraud(self, frauds: bytes, record: bytes, newest: int) -> bytes:
        """The frauds with one more, each once; those that can no longer matter at `newest`, microseconds, go."""
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
    """The records less the last copy of one; as they are where there is none."""
    width = len(record)
    for start in range(len(records) - width, -1, -width):
        if records[start : start + width] == record:
            return records[:start] + records[start + width :]
    return records


def split(records: bytes, width: int) -> list[bytes]:
    """The single records."""
    return [records[start : start + width] for start in range(0, len(records), width)]


def time_of(record: bytes) -> int:
    """When it happened, microseconds since 1970."""
    return int(_TIME.unpack_from(record)[0])
