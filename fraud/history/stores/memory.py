"""State store in process memory: one bytes object per entity, for a single replica, a test or a back-test.

An entity costs its key, its records and about 140 bytes; benchmarks/bench_history.py measures it.
"""

from __future__ import annotations

import json
import os
import threading
import uuid
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np

from fraud.errors import StoreError
from fraud.history.definition import FRAUD_RECORD, EntityPlan
from fraud.history.state import HistoryState, from_arrays, is_sound, to_arrays
from fraud.history.stores.records import NEVER, Records, time_of, without
from fraud.history.stores.store import StoredRecords, Visit

_PART = 200  # entities entered per lock, to bound the wait of requests


class MemoryStore:
    """A live history in a dict. Thread-safe. `save` and `load` preserve it over a restart.

    states: initial history, one per plan; default: empty.
    """

    def __init__(self, plans: Sequence[EntityPlan], states: Sequence[HistoryState] = ()) -> None:
        self._lock = threading.Lock()
        self._logs = [_Logs(plan) for plan in plans]
        self._values: dict[str, bytes] = {}
        self.loaded: tuple[str, ...] = ()  # fingerprints of the plans restored from a saved file
        for logs, state in zip(self._logs, states, strict=False):
            logs.add(state, after=NEVER)

    def exchange(self, visits: Sequence[Visit]) -> list[StoredRecords]:
        """See StateStore."""
        with self._lock:
            return [self._logs[visit.plan].exchange(visit.key, visit.record) for visit in visits]

    def peek(self, visits: Sequence[Visit]) -> list[StoredRecords]:
        """See StateReader."""
        with self._lock:
            return [self._logs[visit.plan].remembered(visit.key) for visit in visits]

    def take_back(self, visits: Sequence[Visit]) -> None:
        """See StateStore."""
        with self._lock:
            for visit in visits:
                events = self._logs[visit.plan].events
                events.put(visit.key, without(events.get(visit.key), visit.record))

    def learn_fraud(self, visits: Sequence[Visit], *, is_fraud: bool) -> None:
        """See StateStore."""
        for part in _parts(len(visits)):
            with self._lock:
                for i in part:
                    self._logs[visits[i].plan].learn_fraud(visits[i].key, visits[i].record, is_fraud)

    @property
    def newest(self) -> int | None:
        """See LiveStore."""
        newest = max((logs.newest for logs in self._logs), default=NEVER)
        return None if newest == NEVER else newest

    def seed(self, states: Sequence[HistoryState], only: Collection[int] | None = None) -> int:
        """See LiveStore."""
        changed = 0
        for i, (logs, state) in enumerate(zip(self._logs, states, strict=True)):
            for part in _parts(len(state.keys) if only is None or i in only else 0):
                with self._lock:
                    changed += sum(logs.merge(state, row) for row in part)
        return changed

    def enter_frauds(self, states: Sequence[HistoryState]) -> int:
        """See LiveStore."""
        entered = 0
        for logs, state in zip(self._logs, states, strict=True):
            for part in _parts(len(state.keys)):
                with self._lock:
                    entered += sum(logs.merge_frauds(state, row) for row in part)
        return entered

    def get(self, name: str) -> bytes | None:
        """See LiveStore."""
        return self._values.get(name)

    def put(self, name: str, value: bytes | None) -> None:
        """See LiveStore."""
        if value is None:
            self._values.pop(name, None)
        else:
            self._values[name] = value

    def lease(self, name: str, seconds: float) -> bool:
        """See LiveStore: always granted, the store is not shared."""
        return True

    def release(self, name: str) -> None:
        """See LiveStore."""

    def maintain(self) -> list[str]:
        """See LiveStore: nothing to do."""
        return []

    def erase(self, plan: int, key: str) -> bool:
        """See LiveStore."""
        with self._lock:
            logs, existed = self._logs[plan], any(self._logs[plan].remembered(key))
            logs.events.put(key, b"")
            logs.frauds.put(key, b"")
        return existed

    def close(self) -> None:
        """See LiveStore."""

    def states(self) -> tuple[HistoryState, ...]:
        """The current history, one state per plan."""
        with self._lock:
            contents = [(logs.plan, logs.events.items(), logs.frauds.items()) for logs in self._logs]
        return tuple(_state(*content) for content in contents)

    @property
    def n_entities(self) -> int:
        """Number of entities with an event, over all plans."""
        return sum(len(logs.events.items()) for logs in self._logs)

    @property
    def n_bytes(self) -> int:
        """Bytes of all keys and records, without Python's overhead."""
        return sum(
            len(key) + len(records)
            for logs in self._logs
            for items in (logs.events.items(), logs.frauds.items())
            for key, records in items.items()
        )

    def save(self, path: str | Path) -> None:
        """Write the history to a safetensors file, atomically."""
        from safetensors.numpy import save_file

        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        fingerprints = json.dumps([logs.plan.fingerprint for logs in self._logs])
        try:
            save_file(to_arrays(self.states()), draft, metadata={"plans": fingerprints})
            os.chmod(draft, 0o600)  # noqa: PTH101 - the file holds personal data
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | Path, plans: Sequence[EntityPlan], states: Sequence[HistoryState] = ()) -> MemoryStore:
        """Restore a saved store, and add the events of `states` (a model's own history) that are newer.

        A plan missing in the file, after a schema change, starts with `states`. Raises StoreError if the file is
        damaged.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="np") as file:
                saved_plans = json.loads((file.metadata() or {}).get("plans", "[]"))
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
            matching = {plan.fingerprint: plan for plan in plans}
            known = [(i, matching[f]) for i, f in enumerate(saved_plans) if f in matching]
            saved = {plan.fingerprint: _numbered(arrays, i, plan) for i, plan in known}
        except (SafetensorError, KeyError, ValueError, OSError) as error:
            raise StoreError(f"{path} cannot be read ({error}); delete it to start with the model's history") from error
        store = cls(plans)
        store.loaded = tuple(saved)
        for i, (logs, plan) in enumerate(zip(store._logs, plans, strict=True)):
            state, after = saved.get(plan.fingerprint), NEVER
            if state is not None:
                if not is_sound(state, plan):
                    raise StoreError(f"{path} is damaged; delete it to start with the model's history")
                logs.add(state, after=NEVER)
                after = NEVER if state.last_time is None else state.last_time
            if states:
                logs.add(states[i], after=after)
        return store


class _Generations:
    """Records by entity in two dicts, recently used and older ones: rotating them drops all idle entities at once."""

    def __init__(self) -> None:
        self.young: dict[str, bytes] = {}
        self.old: dict[str, bytes] = {}

    def get(self, key: str) -> bytes:
        records = self.young.get(key)
        return records if records is not None else self.old.get(key, b"")

    def put(self, key: str, records: bytes) -> None:
        if self.old:
            self.old.pop(key, None)
        if records:
            self.young[key] = records
        else:
            self.young.pop(key, None)

    def rotate(self) -> None:
        self.old, self.young = self.young, {}

    def items(self) -> dict[str, bytes]:
        return {**self.old, **self.young}


class _Logs:
    """One plan's events and frauds by entity, sorted by time."""

    def __init__(self, plan: EntityPlan) -> None:
        self.plan = plan
        self.events, self.frauds = _Generations(), _Generations()
        self._records = Records(plan)
        self.newest = self._rotated_at = NEVER

    def remembered(self, key: str) -> StoredRecords:
        return StoredRecords(self.events.get(key), self.frauds.get(key))

    def exchange(self, key: str, record: bytes) -> StoredRecords:
        remembered = self.remembered(key)
        self.events.put(key, self._records.insert(remembered.events, record))
        self._advance(time_of(record))
        return remembered

    def add(self, state: HistoryState, *, after: int) -> None:
        """Enter the events of a state that are newer than `after`, and all its frauds."""
        if after == NEVER:
            blob, width = state.events.tobytes(), self.plan.record.itemsize
            for key, start, stop in zip(state.keys.tolist(), state.starts[:-1], state.starts[1:], strict=True):
                if stop > start:
                    self.events.young[key] = blob[start * width : stop * width]
            self.newest = self._rotated_at = NEVER if state.last_time is None else state.last_time
        else:
            owners = np.repeat(np.arange(len(state.keys)), np.diff(state.starts))
            for i in np.flatnonzero(state.events["time"] > after):
                self.exchange(state.keys[owners[i]], state.events[i].tobytes())
        for row in range(len(state.keys)):
            self.merge_frauds(state, row)

    def merge(self, state: HistoryState, row: int) -> bool:
        """Merge one entity of a state; return whether anything changed."""
        key, before = state.keys[row], self.events.get(state.keys[row])
        records = state.events[state.starts[row] : state.starts[row + 1]]
        after = self._records.merge(before, records.tobytes())
        if after != before:
            self.events.put(key, after)
            self._advance(int(records["time"][-1]))
        return bool(self.merge_frauds(state, row)) or after != before

    def merge_frauds(self, state: HistoryState, row: int) -> int:
        """Merge the frauds of one entity; return the number of new ones."""
        frauds = state.frauds[state.fraud_starts[row] : state.fraud_starts[row + 1]]
        return sum(self.learn_fraud(state.keys[row], fraud.tobytes(), True) for fraud in frauds)

    def learn_fraud(self, key: str, record: bytes, is_fraud: bool) -> bool:
        """Add or remove a fraud; return whether anything changed."""
        before = self.frauds.get(key)
        after = self._records.with_fraud(before, record, self.newest) if is_fraud else without(before, record)
        if after != before:
            self.frauds.put(key, after)
        return after != before

    def _advance(self, time: int) -> None:
        if time > self.newest:
            self.newest = time
            if self._rotated_at == NEVER:
                self._rotated_at = time
            if time - self._rotated_at >= self.plan.memory:
                # Entities idle for two rotations are older than the memory: they have no effect any more.
                self.events.rotate()
                self.frauds.rotate()
                self._rotated_at = time


def _parts(n: int) -> Iterator[range]:
    return (range(start, min(start + _PART, n)) for start in range(0, n, _PART))


def _state(plan: EntityPlan, events: dict[str, bytes], frauds: dict[str, bytes]) -> HistoryState:
    keys = list(dict.fromkeys([*events, *frauds]))
    logs = [[log.get(key, b"") for key in keys] for log in (events, frauds)]
    key_array = np.empty(len(keys), dtype=object)
    key_array[:] = keys
    parts: list[np.ndarray] = []
    for log, dtype in zip(logs, (plan.record, FRAUD_RECORD), strict=True):
        parts.append(np.frombuffer(b"".join(log), dtype=dtype))
        parts.append(np.cumsum([0, *(len(records) // dtype.itemsize for records in log)]).astype(np.int64))
    return HistoryState(key_array, *parts)


def _numbered(arrays: dict[str, np.ndarray], i: int, plan: EntityPlan) -> HistoryState:
    """State number i of a saved file."""
    prefix = f"history.{i}."
    own = {name.replace(prefix, "history.0.", 1): array for name, array in arrays.items() if name.startswith(prefix)}
    return from_arrays(own, [plan])[0]
