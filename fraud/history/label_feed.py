"""Labels as they are ingested, for a live history: what is new in the store of labels, and which frauds follow from it.

A label is entered by what it says, not by when it is read: applying one twice changes nothing, of several of an id the
newest counts, and one that says "legitimate" takes the fraud out. Which files were applied is kept in the live history
itself, so that whoever follows goes on, and an emptied history gets all of them again.
"""

from __future__ import annotations

import json
import logging
import secrets
import struct
import time
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from fraud.errors import DataError
from fraud.history.definition import DAY, hashed, plans
from fraud.history.stores.store import LiveStore, Visit
from fraud.labels import ID, INGESTED_AT, IS_FRAUD, KNOWN_AT, LabelStore
from fraud.schema import Schema

logger = logging.getLogger(__name__)

_FILE = "ingestion"  # which one a label came with
_ROWS = 20_000  # ids looked up at a time
Find = Callable[[Sequence[str]], pd.DataFrame]


class LabelFeed:
    """The labels of a store that can still matter, read file by file. Not to be shared by threads."""

    def __init__(self, store: LabelStore) -> None:
        self._store = store
        self.stamps: dict[str, str] = {}
        self._frames: dict[str, pd.DataFrame] = {}
        self._refused: dict[str, str] = {}
        self._trimmed_at: int | None = None

    def refresh(self, oldest: int) -> None:
        """Read the files that are new or changed. oldest: microseconds since 1970; labels known before it are left out.

        Raises ObjectStoreError where the store cannot be reached.
        """
        listing = self._store.listing()
        for name in set(self._frames) - set(listing):
            del self._frames[name]
            self.stamps.pop(name, None)
        if self._trimmed_at is None or oldest - self._trimmed_at > DAY:
            self._trimmed_at = oldest
            self._frames = {name: _known_since(labels, oldest) for name, labels in self._frames.items()}
        for name, stamp in listing.items():
            if self.stamps.get(name) == stamp or self._refused.get(name) == stamp:
                continue
            try:
                labels = self._store.read_ingestion(name)
            except DataError as error:
                self._refused[name] = stamp
                logger.error("labels do not reach the live history: %s", error)
                continue
            self._frames[name] = _known_since(labels.assign(**{ID: labels[ID].astype("str")}), oldest)
            self.stamps[name] = stamp

    def ids(self, names: Iterable[str]) -> list[str]:
        """The ids that these ingestions label, each once."""
        frames = [self._frames[name][ID] for name in names if name in self._frames]
        return pd.concat(frames).drop_duplicates().tolist() if frames else []

    def newest(self, ids: Collection[str], now: int) -> pd.DataFrame:
        """The label that holds of each id at `now`, microseconds: ID, IS_FRAUD, KNOWN_AT, INGESTED_AT, _FILE."""
        return _newest(self._of(ids), now)

    def later(self, ids: Collection[str], now: int) -> list[str]:
        """Those of the ids that have a label which becomes known after `now`."""
        labels = self._of(ids)
        return labels[ID][_microseconds(labels[KNOWN_AT]) > now].drop_duplicates().tolist()

    def _of(self, ids: Collection[str]) -> pd.DataFrame:
        wanted = pd.Index(list(ids), dtype="str")
        parts = [(name, each[each[ID].isin(wanted)]) for name, each in self._frames.items()]
        frames = [part.assign(**{_FILE: name}) for name, part in parts if len(part)]
        return pd.concat(frames, ignore_index=True) if frames else _EMPTY


@dataclass
class Applied:
    """What a look at the labels did. newest: when the newest applied label became known, microseconds since 1970.

    applied, unmatched, too_old: labels; unmatched ones wait for their transaction. lags: seconds from the ingestion of
    a label to now, of those ingested since the following began.
    """

    applied: int = 0
    unmatched: int = 0
    too_old: int = 0
    newest: int | None = None
    lags: list[float] = field(default_factory=list)


class LabelFollower:
    """Applies the labels of a feed to one live history. find: transactions by id, as Snapshots.find gives them."""

    def __init__(self, store: LiveStore, schema: Schema, feed: LabelFeed, find: Find) -> None:
        self.store, self._schema, self._feed, self._find = store, schema, feed, find
        self._plans = plans(schema)
        self.name = "labels " + " ".join(plan.fingerprint for plan in self._plans)
        self._token = b""
        self._files: dict[str, str] = {}
        self.pending: set[str] = set()  # their transaction is not known yet
        self._future: set[str] = set()  # a label that becomes known later
        self._since = time.time_ns() // 1000

    @property
    def _memory(self) -> int:
        return max(plan.memory for plan in self._plans)

    def oldest(self) -> int:
        """Microseconds since 1970 before which no transaction, and so no label, matters. Raises StoreError."""
        newest = self.store.newest
        return -(2**63) if newest is None else newest - self._memory

    def follow(self, arrived: Collection[str] | None = (), now: int | None = None) -> Applied:
        """Apply what is new. arrived: ids of transactions that became known since the last call; None: of any number.

        now: microseconds since 1970. Raises StoreError, and what `find` raises; what was not applied comes again then.
        """
        now = time.time_ns() // 1000 if now is None else now
        self._load()
        oldest, changed = self.oldest(), [
            name for name, stamp in self._feed.stamps.items() if self._files.get(name) != stamp
        ]  # fmt: skip
        is_due = bool(self._future) and len(self._feed.newest(self._future, now)) > 0
        waiting = self.pending if arrived is None else self.pending.intersection(arrived)
        fresh = set(self._feed.ids(changed))
        touched = fresh | waiting | (self._future if is_due else set())
        found = Applied()
        gone = [name for name in self._files if name not in self._feed.stamps]
        if not (touched or changed or gone):
            found.unmatched = len(self.pending)
            return found
        for ids in _portions(sorted(touched)):
            self._apply(ids, changed, now, oldest, found)
        self._future |= set(self._feed.later(fresh, now)) if fresh else set()
        if is_due:
            self._future = set(self._feed.later(self._future, now))
        self._files = dict(self._feed.stamps)
        self._save()
        found.unmatched = len(self.pending)
        return found

    def _apply(self, ids: Sequence[str], changed: Sequence[str], now: int, oldest: int, found: Applied) -> None:
        labels = self._feed.newest(ids, now)
        transactions = self._find(labels[ID].tolist())
        labels = labels.merge(transactions, on=ID, how="left") if len(transactions) else labels.assign(time=pd.NaT)
        times = pd.to_datetime(labels["time"]).to_numpy(dtype="datetime64[us]")
        known, is_missing = _microseconds(labels[KNOWN_AT]), np.isnat(times)
        micros = times.astype(np.int64)
        is_old = np.where(is_missing, known, micros) < oldest
        ready = ~is_missing & ~is_old
        self.pending -= set(ids) - set(labels[ID][is_missing & ~is_old])
        self.pending |= set(labels[ID][is_missing & ~is_old])
        for is_fraud in (True, False):
            chosen = np.flatnonzero(ready & (labels[IS_FRAUD].to_numpy(dtype=bool) == is_fraud))
            self.store.learn_fraud(list(self._visits(labels, micros, chosen)), is_fraud=is_fraud)
        found.applied += int(ready.sum())
        found.too_old += int(is_old.sum())
        if ready.any():
            found.newest = max(found.newest or 0, int(known[ready].max()))
        ingested = _microseconds(labels[INGESTED_AT])
        counted = ready & (ingested >= self._since) & labels[_FILE].isin(changed).to_numpy()
        found.lags += ((time.time_ns() // 1000 - ingested[counted]) / 1e6).tolist()

    def _visits(self, labels: pd.DataFrame, micros: np.ndarray, rows: np.ndarray) -> Iterator[Visit]:
        ids = labels[ID].tolist()
        for i, plan in enumerate(self._plans):
            if not plan.keeps_frauds or plan.column not in labels:
                continue
            keys = labels[plan.column].tolist()
            for row in rows.tolist():
                key = keys[row]
                if key is not None and key == key and key != "":
                    yield Visit(i, str(key), struct.pack("<qI", int(micros[row]), hashed(ids[row])))

    def forget(self) -> None:
        """Have every label applied again, here and wherever this history is followed. Raises StoreError."""
        self.store.put(self.name, None)
        self._token = b""

    def _load(self) -> None:
        """Go on from what the store says was applied, where that is not what this follower wrote last."""
        token = self.store.get(self.name)
        if token is not None and token == self._token:
            return
        ledger = self.store.get(f"{self.name} ledger") if token is not None else None
        self._token, self._files, self.pending, self._future = token or b"", {}, set(), set()
        if ledger is not None:
            content = json.loads(zlib.decompress(ledger))
            self._files, self.pending = content["files"], set(content["pending"])
            self._future = set(content["future"])

    def _save(self) -> None:
        ledger = {"files": self._files, "pending": sorted(self.pending), "future": sorted(self._future)}
        self._token = secrets.token_bytes(8)
        self.store.put(f"{self.name} ledger", zlib.compress(json.dumps(ledger).encode(), 1))
        self.store.put(self.name, self._token)


def _portions(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    return (ids[start : start + _ROWS] for start in range(0, len(ids), _ROWS))


def _newest(labels: pd.DataFrame, now: int) -> pd.DataFrame:
    known = labels[_microseconds(labels[KNOWN_AT]) <= now].sort_values([KNOWN_AT, INGESTED_AT], kind="stable")
    return known.drop_duplicates(ID, keep="last")[[ID, IS_FRAUD, KNOWN_AT, INGESTED_AT, _FILE]].reset_index(drop=True)


def _known_since(labels: pd.DataFrame, oldest: int) -> pd.DataFrame:
    return labels[_microseconds(labels[KNOWN_AT]) >= oldest]


def _microseconds(moments: pd.Series) -> np.ndarray:
    return moments.to_numpy(dtype="datetime64[us]").astype(np.int64)


_EMPTY = pd.DataFrame(
    {
        ID: pd.Series(dtype="str"), IS_FRAUD: pd.Series(dtype="bool"),
        KNOWN_AT: pd.Series(dtype="datetime64[us]"), INGESTED_AT: pd.Series(dtype="datetime64[us]"),
        _FILE: pd.Series(dtype="str"),
    }
)  # fmt: skip
