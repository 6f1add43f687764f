"""Where the live history is kept: what a state store can do, and the history that comes with the model.

A store keeps bytes: per plan and entity a log of records (EntityPlan.record) and one of frauds (FRAUD_RECORD). It knows
nothing of statistics; fraud.history.online reads the bytes. The stores are fraud.history.stores.memory (one process),
node (all processes of one machine) and redis.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
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


class LiveStore(StateStore, Protocol):
    """A state store that a replica can begin, watch and hand over. Every method may raise StoreError.

    It also keeps small named values beside the entities, which vanish with them: so that a store that was emptied is
    recognised, and whoever follows knows what was entered already.
    """

    @property
    def newest(self) -> int | None:
        """Time of the newest event, microseconds since 1970; None without any."""

    def seed(self, states: Sequence[HistoryState], only: Collection[int] | None = None) -> int:
        """Enter the events and frauds of states, one for each plan, that are not there; return the entities changed.

        Several processes may do so at once, and twice is as once. only: positions of the plans to enter, default all.
        """

    def enter_frauds(self, states: Sequence[HistoryState]) -> int:
        """Enter the frauds of states, one for each plan, that are not there; return how many were new."""

    def get(self, name: str) -> bytes | None:
        """A named value; None where there is none."""

    def put(self, name: str, value: bytes | None) -> None:
        """Keep a named value, or with None remove it."""

    def lease(self, name: str, seconds: float) -> bool:
        """Whether this store leads in what `name` says, among those who share it: for so long, or until it dies."""

    def release(self, name: str) -> None:
        """Lead no longer."""

    def maintain(self) -> list[str]:
        """Do the small regular work; return what was lost since the last call, each as the end of a sentence."""

    def erase(self, plan: int, key: str) -> bool:
        """Forget an entity; return whether anything was remembered of it."""

    def close(self) -> None:
        """Let go of it."""


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
