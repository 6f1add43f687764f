"""Interfaces of the live history stores, and a read-only store with the history of a bundle.

A store holds bytes: per plan and entity a log of records (EntityPlan.record) and one of frauds (FRAUD_RECORD).
fraud.history.online computes the statistics. The stores are fraud.history.stores.memory (one process), node (all
processes of one machine) and redis.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple, Protocol

from fraud.history.state import HistoryState


class Visit(NamedTuple):
    """One entity of one transaction. plan: index in `history.definition.plans`; record: bytes to store."""

    plan: int
    key: str
    record: bytes


class StoredRecords(NamedTuple):
    """The stored records of one entity, concatenated; in any order, possibly with duplicates."""

    events: bytes
    frauds: bytes


class StateReader(Protocol):
    """Read access to entities."""

    def peek(self, visits: Sequence[Visit]) -> list[StoredRecords]:
        """The stored records of each visit's entity. Raises StoreError."""


class StateStore(StateReader, Protocol):
    """A live history. Safe for concurrent use by threads, and by all processes that share it."""

    def exchange(self, visits: Sequence[Visit]) -> list[StoredRecords]:
        """Return the stored records of each entity and add the visits' records, atomically. Raises StoreError."""

    def take_back(self, visits: Sequence[Visit]) -> None:
        """Remove the last copy of each record. Raises StoreError."""

    def learn_fraud(self, visits: Sequence[Visit], *, is_fraud: bool) -> None:
        """Add or remove frauds; records are FRAUD_RECORDs. Idempotent. Raises StoreError."""


class LiveStore(StateStore, Protocol):
    """A state store that replicas can seed, maintain and share. Every method may raise StoreError.

    It also holds small named values, which are lost together with the entities. So an emptied store is detected, and
    label followers know what was applied.
    """

    @property
    def newest(self) -> int | None:
        """Time of the newest event, microseconds since 1970; None without events."""

    def seed(self, states: Sequence[HistoryState], only: Collection[int] | None = None) -> int:
        """Add missing events and frauds of states, one per plan; return the number of changed entities.

        Idempotent; several processes may seed at once. only: indices of the plans to seed; default: all.
        """

    def enter_frauds(self, states: Sequence[HistoryState]) -> int:
        """Add missing frauds of states, one per plan; return the number of new ones."""

    def get(self, name: str) -> bytes | None:
        """A named value; None if it does not exist."""

    def put(self, name: str, value: bytes | None) -> None:
        """Store a named value; None removes it."""

    def lease(self, name: str, seconds: float) -> bool:
        """Acquire or renew the lease `name`; return whether this store holds it. It ends after `seconds` or on exit."""

    def release(self, name: str) -> None:
        """Release a lease."""

    def maintain(self) -> list[str]:
        """Regular maintenance. Returns the losses since the last call, as predicates such as "was emptied"."""

    def erase(self, plan: int, key: str) -> bool:
        """Delete an entity; return whether it had any records."""

    def close(self) -> None:
        """Release all resources."""


class Snapshot:
    """Read-only store with the history of a bundle, as of the end of its training data."""

    def __init__(self, states: Sequence[HistoryState]) -> None:
        self._states = states
        self._rows = [{key: row for row, key in enumerate(state.keys.tolist())} for state in states]

    def peek(self, visits: Sequence[Visit]) -> list[StoredRecords]:
        """See StateReader."""
        return [self._of(visit) for visit in visits]

    def _of(self, visit: Visit) -> StoredRecords:
        state, row = self._states[visit.plan], self._rows[visit.plan].get(visit.key)
        if row is None:
            return StoredRecords(b"", b"")
        return StoredRecords(
            state.events[state.starts[row] : state.starts[row + 1]].tobytes(),
            state.frauds[state.fraud_starts[row] : state.fraud_starts[row + 1]].tobytes(),
        )
