"""Where the live history is kept: what a state store can do, and the history that comes with the model.

A store keeps bytes: per plan and entity a log of records (EntityPlan.record) and one of frauds (FRAUD_RECORD). It knows
nothing of statistics; fraud.history.online reads the bytes. The stores are fraud.history.stores.memory and
fraud.history.stores.redis.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from fraud.history.state import HistoryState


class Visit(NamedTuple):
    """One entity of one transaction. plan: position among `history.definition.plans`; record: bytes to remember."""

    plan: int
    key: str
    record: bytes


class Remembered(NamedTuple):
    """What is remembered of one entity: records one after another, in any order, perhaps one twice."""

    events: bytes
    frauds: bytes


class StateReader(Protocol):
    """What can be asked about entities."""

    def peek(self, visits: Sequence[Visit]) -> list[Remembered]:
        """What is remembered of each visit's entity. Raises StoreError."""


class StateStore(StateReader, Protocol):
    """A live history that several threads, and with Redis several replicas, may use at once."""

    def exchange(self, visits: Sequence[Visit]) -> list[Remembered]:
        """What is remembered of each entity, and remember the records from now on: one operation. Raises StoreError."""

    def take_back(self, visits: Sequence[Visit]) -> None:
        """Forget one copy, the last, of each record. Raises StoreError."""

    def learn_fraud(self, visits: Sequence[Visit], *, is_fraud: bool) -> None:
        """Enter the records, FRAUD_RECORDs here, among the frauds, each once; or remove them. Raises StoreError."""


class Snapshot:
    """The history in a bundle, as of the end of its training data: can be read, never changes."""

    def __init__(self, states: Sequence[HistoryState]) -> None:
        self._states = states
        self._rows = [{key: row for row, key in enumerate(state.keys.tolist())} for state in states]

    def peek(self, visits: Sequence[Visit]) -> list[Remembered]:
        """See StateReader."""
        return [self._of(visit) for visit in visits]

    def _of(self, visit: Visit) -> Remembered:
        state, row = self._states[visit.plan], self._rows[visit.plan].get(visit.key)
        if row is None:
            return Remembered(b"", b"")
        return Remembered(
            state.events[state.starts[row] : state.starts[row + 1]].tobytes(),
            state.frauds[state.fraud_starts[row] : state.fraud_starts[row + 1]].tobytes(),
        )
