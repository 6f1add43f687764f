"""State store of one machine: an LMDB file that all replicas on it share, and that survives their restarts.

An exchange is one transaction (read, insert by time, trim, put) of some tens of microseconds. A key is a letter (e:
events, f: frauds, v: named values, p: plans), the plan's fingerprint and the entity. So a new model version with the
same plan continues the live history. Local disks only: LMDB's locks do not work over a network.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import struct
import threading
import time
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from fraud.errors import StoreError
from fraud.history.definition import DAY, FRAUD_RECORD, EntityPlan
from fraud.history.state import HistoryState
from fraud.history.stores.environment import Environment, shared
from fraud.history.stores.records import NEVER, Records, split, time_of, without
from fraud.history.stores.store import StoredRecords, Visit

_EVENTS, _FRAUDS, _VALUES, _PLANS = b"e", b"f", b"v", b"p"
_PRINT_BYTES = 6
_LONGEST_KEY = 400  # bytes of an entity's name; LMDB takes 511 in all
# A write transaction blocks other replicas: keep it to some milliseconds.
_SEED_ENTITIES, _VISITS, _SWEPT = 100, 500, 2_000
_YIELD_S = 0.001  # LMDB's lock is not fair: retaking it at once would starve the other writers
_PAUSE_S = 1.0
_NUMBER, _PLAN_USE = struct.Struct("<q"), struct.Struct("<qqq")
_BEAT, _NEWEST = "beat", "newest"
T = TypeVar("T")


class NodeStore:
    """A live history shared by the processes of a machine. Thread-safe.

    folder: of the file; created if missing. Opened on first use, closed by `close`.
    """

    def __init__(self, folder: Path, plans: Sequence[EntityPlan]) -> None:
        self._folder, self._plans = folder, list(plans)
        self._records = [Records(plan) for plan in plans]
        self._prints = [bytes.fromhex(plan.fingerprint) for plan in plans]
        self._environment: Environment | None = None
        self._opening, self._closed_until = threading.Lock(), 0.0
        self._newest, self._beat = NEVER, 0
        self._leases: dict[str, int] = {}
        self._swept = b""

    def exchange(self, visits: Sequence[Visit]) -> list[StoredRecords]:
        """See StateStore."""

        def work(transaction: Any) -> list[StoredRecords]:
            results = []
            for plan, key, record in visits:
                name = self._name(_EVENTS, plan, key)
                remembered = self._remembered(transaction, plan, key, transaction.get(name, b""))
                transaction.put(name, self._records[plan].insert(remembered.events, record))
                results.append(remembered)
            return results

        if not visits:
            return []
        remembered = self._env().write(work)
        self._newest = max(self._newest, time_of(visits[0].record))
        return remembered

    def peek(self, visits: Sequence[Visit]) -> list[StoredRecords]:
        """See StateReader."""

        def work(transaction: Any) -> list[StoredRecords]:
            return [
                self._remembered(transaction, plan, key, transaction.get(self._name(_EVENTS, plan, key), b""))
                for plan, key, _ in visits
            ]

        return self._env().read(work) if visits else []

    def take_back(self, visits: Sequence[Visit]) -> None:
        """See StateStore."""

        def work(transaction: Any) -> None:
            for plan, key, record in visits:
                name = self._name(_EVENTS, plan, key)
                _put(transaction, name, without(transaction.get(name, b""), record))

        self._env().write(work)

    def learn_fraud(self, visits: Sequence[Visit], *, is_fraud: bool) -> None:
        """See StateStore."""
        self._in_parts(visits, _VISITS, lambda transaction, visit: self._learn(transaction, visit, is_fraud))

    def seed(self, states: Sequence[HistoryState], only: Collection[int] | None = None) -> int:
        """See LiveStore."""
        changed = 0
        for plan, state in enumerate(states):
            if only is None or plan in only:
                merge = partial(self._merge, plan, state)
                changed += self._in_parts(range(len(state.keys)), _SEED_ENTITIES, merge)
                self._newest = max(self._newest, NEVER if state.last_time is None else state.last_time)
        self._keep_newest()
        return changed

    def enter_frauds(self, states: Sequence[HistoryState]) -> int:
        """See LiveStore."""
        visits = [
            Visit(plan, str(state.keys[row]), record)
            for plan, state in enumerate(states)
            for row in range(len(state.keys))
            for record in _frauds_of(state, row)
        ]
        return self._in_parts(visits, _VISITS, lambda transaction, visit: self._learn(transaction, visit, True))

    @property
    def newest(self) -> int | None:
        """See LiveStore."""
        known = self.get(_NEWEST)
        newest = max(self._newest, NEVER if known is None else _NUMBER.unpack(known)[0])
        return None if newest == NEVER else newest

    def get(self, name: str) -> bytes | None:
        """See LiveStore."""
        value: bytes | None = self._env().read(lambda transaction: transaction.get(_VALUES + name.encode()))
        return value

    def put(self, name: str, value: bytes | None) -> None:
        """See LiveStore."""
        self._env().write(lambda transaction: _put(transaction, _VALUES + name.encode(), value or b""))

    def lease(self, name: str, seconds: float) -> bool:
        """See LiveStore: a file lock, which the operating system releases with the process."""
        if name in self._leases:
            return True
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            file = os.open(self._folder / f"{hashlib.sha256(name.encode()).hexdigest()[:16]}.lease",
                           os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)  # fmt: skip
        except OSError as error:
            raise StoreError(f"the live history's folder {self._folder} cannot be written ({error})") from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            return False
        self._leases[name] = file
        return True

    def release(self, name: str) -> None:
        """See LiveStore."""
        if (file := self._leases.pop(name, None)) is not None:
            os.close(file)

    def maintain(self) -> list[str]:
        """See LiveStore: frees dead readers, removes some idle entities, detects a restored old copy."""
        losses = ["was removed"] if self.recover() else []
        self._keep_newest()
        now = time.time_ns() // 1000

        def work(transaction: Any) -> int:
            beat = _NUMBER.unpack(transaction.get(_VALUES + _BEAT.encode(), bytes(8)))[0]
            transaction.put(_VALUES + _BEAT.encode(), _NUMBER.pack(max(beat, self._beat) + 1))
            for plan, fingerprint in zip(self._plans, self._prints, strict=True):
                use = _PLAN_USE.pack(plan.memory, plan.record.itemsize, now)
                transaction.put(_PLANS + fingerprint, use)
            return int(beat)

        beat = self._env().write(work)
        if beat < self._beat and not losses:
            losses.append("went back in time")
        self._beat = max(beat, self._beat) + 1
        self._sweep(now)
        return losses

    def recover(self) -> bool:
        """See Environment.recover."""
        return self._env().recover()

    def erase(self, plan: int, key: str) -> bool:
        """See LiveStore."""
        names = [self._name(kind, plan, key) for kind in (_EVENTS, _FRAUDS)]
        return any(self._env().write(lambda transaction: [transaction.delete(name) for name in names]))

    def close(self) -> None:
        """See LiveStore."""
        for name in list(self._leases):
            self.release(name)
        with self._opening:
            environment, self._environment = self._environment, None
        if environment is not None:
            environment.close()

    def _env(self) -> Environment:
        environment = self._environment
        if environment is not None:
            return environment
        with self._opening:
            if self._environment is None:
                if time.monotonic() < self._closed_until:
                    raise StoreError(f"the live history in {self._folder} could not be opened a moment ago")
                try:
                    self._environment = shared(self._folder)
                except StoreError:
                    self._closed_until = time.monotonic() + _PAUSE_S
                    raise
            return self._environment

    def _in_parts(self, items: Sequence[T] | range, size: int, enter: Callable[[Any, Any], bool]) -> int:
        """Run `enter` for every item, `size` items per transaction; return the number of changes."""
        changed = 0
        for start in range(0, len(items), size):
            part = items[start : start + size]
            changed += self._env().write(partial(_enter_all, enter, part))
            if start + size < len(items):
                time.sleep(_YIELD_S)
        return changed

    def _merge(self, plan: int, state: HistoryState, transaction: Any, row: int) -> bool:
        key, records = str(state.keys[row]), self._records[plan]
        name = self._name(_EVENTS, plan, key)
        before = transaction.get(name, b"")
        after = records.merge(before, state.events[state.starts[row] : state.starts[row + 1]].tobytes())
        if after != before:
            transaction.put(name, after)
        frauds = [self._learn(transaction, Visit(plan, key, record), True) for record in _frauds_of(state, row)]
        return after != before or any(frauds)

    def _learn(self, transaction: Any, visit: Visit, is_fraud: bool) -> bool:
        plan, key, record = visit
        name = self._name(_FRAUDS, plan, key)
        before = transaction.get(name, b"")
        after = self._records[plan].with_fraud(before, record, self._newest) if is_fraud else without(before, record)
        if after != before:
            _put(transaction, name, after)
        return bool(after != before)

    def _remembered(self, transaction: Any, plan: int, key: str, events: bytes) -> StoredRecords:
        keeps_frauds = self._plans[plan].keeps_frauds
        return StoredRecords(events, transaction.get(self._name(_FRAUDS, plan, key), b"") if keeps_frauds else b"")

    def _name(self, kind: bytes, plan: int, key: str) -> bytes:
        entity = key.encode(errors="surrogatepass")
        if len(entity) > _LONGEST_KEY:
            entity = b"\0" + hashlib.sha256(entity).digest()
        return kind + self._prints[plan] + entity

    def _keep_newest(self) -> None:
        """Exchange the time of the newest event with the other processes."""
        known = self.newest
        if known is not None and known > (_NUMBER.unpack(self.get(_NEWEST) or _NUMBER.pack(NEVER))[0]):
            self.put(_NEWEST, _NUMBER.pack(known))
        self._newest = NEVER if known is None else known

    def _sweep(self, now: int) -> None:
        """Check the next `_SWEPT` keys and remove idle entities. Continues where the last call ended."""
        if self._newest == NEVER:
            return
        uses = dict(zip(self._prints, [(plan.memory, plan.record.itemsize, now) for plan in self._plans], strict=True))

        def is_idle(transaction: Any, name: bytes, records: bytes) -> bool:
            fingerprint, is_fraud = name[1 : 1 + _PRINT_BYTES], name[:1] == _FRAUDS
            if fingerprint not in uses:
                use = transaction.get(_PLANS + fingerprint)
                uses[fingerprint] = _PLAN_USE.unpack(use) if use else (0, 0, now)
            memory, width, used = uses[fingerprint]
            if not width:
                return False
            if now - used > memory + DAY:  # no model has used the plan for that long
                return True
            width = FRAUD_RECORD.itemsize if is_fraud else width
            return len(records) < width or time_of(records[-width:]) < self._newest - memory

        def scan(transaction: Any) -> tuple[list[bytes], bytes]:
            idle: list[bytes] = []
            cursor = transaction.cursor()
            has_key = cursor.set_range(self._swept) if self._swept else cursor.first()
            for _ in range(_SWEPT):
                name = cursor.key() if has_key else b""
                if not has_key or name[:1] not in (_EVENTS, _FRAUDS):
                    return idle, b""
                if is_idle(transaction, name, cursor.value()):
                    idle.append(name)
                has_key = cursor.next()
            return idle, bytes(cursor.key()) if has_key else b""

        def remove(transaction: Any, name: bytes) -> bool:
            return is_idle(transaction, name, transaction.get(name, b"")) and bool(transaction.delete(name))

        idle, self._swept = self._env().read(scan)
        self._in_parts(idle, _VISITS, remove)


def _enter_all(enter: Callable[[Any, Any], bool], items: Sequence[Any], transaction: Any) -> int:
    return sum(enter(transaction, item) for item in items)


def _frauds_of(state: HistoryState, row: int) -> list[bytes]:
    frauds = state.frauds[state.fraud_starts[row] : state.fraud_starts[row + 1]]
    return split(frauds.tobytes(), FRAUD_RECORD.itemsize) if len(frauds) else []


def _put(transaction: Any, name: bytes, value: bytes) -> None:
    """Put a value; an empty value deletes the key."""
    if value:
        transaction.put(name, value)
    else:
        transaction.delete(name)
