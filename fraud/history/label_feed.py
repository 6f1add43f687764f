"""Applies new labels of the label store to a live history.

Applying a label is idempotent. The newest label of an id counts; a "legitimate" label removes the fraud. The live
history itself stores which files were applied: another follower continues from there, and an emptied history gets all
labels again.
"""

from __future__ import annotations

import json
import logging
import secrets
import struct
import time
import zlib
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pandas as pd

from fraud.errors import DataError
from fraud.history.definition import DAY, hashed, plans
from fraud.history.records import long_hashes
from fraud.history.state import positions_of
from fraud.history.stores.store import LiveStore, Visit
from fraud.labels.store import ID, INGESTED_AT, IS_FRAUD, KNOWN_AT, LabelStore
from fraud.schema import Schema

logger = logging.getLogger(__name__)

_ROWS = 20_000  # ids looked up at a time
_SMALL = 20_000  # size at which the part with new labels is merged into the large one
Find = Callable[[Sequence[str]], pd.DataFrame]


class Labels(NamedTuple):
    """Labels as columns. keys: (n,), uint64 id hashes in a part, or int64 positions of requested ids in an answer.

    known, ingested: int64 (n,) microseconds since 1970; is_fraud: bool (n,); files: int32 (n,), see `number_of`.
    """

    keys: np.ndarray
    known: np.ndarray
    ingested: np.ndarray
    is_fraud: np.ndarray
    files: np.ndarray

    def take(self, chosen: np.ndarray) -> Labels:
        """Select by positions or by a mask."""
        return Labels(*(column[chosen] for column in self))


class LabelFeed:
    """The labels of a store that can still have an effect, read file by file, 29 bytes each. Not thread-safe.

    Ids are 64-bit hashes, sorted. New labels go to a small part, so that the cost of a file depends on its size only.
    """

    def __init__(self, store: LabelStore) -> None:
        self._store = store
        self.stamps: dict[str, str] = {}
        self._numbers: dict[str, int] = {}
        self._parts = [_NOTHING, _NOTHING]  # the large part, and the small one with new labels
        self._refused: dict[str, str] = {}
        self._trimmed_at: int | None = None

    def refresh(self, oldest: int) -> None:
        """Read new and changed files. oldest: microseconds since 1970; labels known earlier are skipped.

        Raises ObjectStoreError if the store cannot be reached.
        """
        listing = self._store.listing()
        changed = {name for name, stamp in self.stamps.items() if listing.get(name) != stamp}
        if changed:
            gone = np.array([self._numbers[name] for name in changed], dtype=np.int32)
            self._parts = [part.take(~np.isin(part.files, gone)) for part in self._parts]
            self.stamps = {name: stamp for name, stamp in self.stamps.items() if name not in changed}
        if self._trimmed_at is None or oldest - self._trimmed_at > DAY:
            self._trimmed_at = oldest
            self._parts = [part.take(part.known >= oldest) for part in self._parts]
        new = [part for name, stamp in listing.items() if (part := self._read(name, stamp, oldest)) is not None]
        if new:
            large, small = self._parts
            small = _sorted([small, *new])
            is_many = len(small.known) > max(_SMALL, len(large.known) // 20)
            self._parts = [_sorted([large, small]), _NOTHING] if is_many else [large, small]

    def ids(self, names: Iterable[str]) -> set[str]:
        """The ids labelled by these ingestions."""
        labelled: set[str] = set()
        for name in names:
            try:
                labelled.update(self._store.read_ingestion(name)[ID].astype("str"))
            except DataError as error:  # the file was just removed
                logger.warning("labels do not reach the live history: %s", error)
        return labelled

    def newest(self, ids: Sequence[str], now: int) -> Labels:
        """The newest label known at `now` (microseconds) of each id that has one."""
        labels = self._of(ids)
        labels = labels.take(labels.known <= now)
        order = np.lexsort((labels.ingested, labels.known, labels.keys))
        return labels.take(order[np.append(np.diff(labels.keys[order]) != 0, True)] if len(order) else order)

    def later(self, ids: Sequence[str], now: int) -> set[str]:
        """The ids that have a label which becomes known after `now`."""
        labels = self._of(ids)
        return {ids[position] for position in np.unique(labels.keys[labels.known > now]).tolist()}

    def number_of(self, name: str) -> int:
        """The number by which `Labels.files` names an ingestion."""
        return self._numbers[name]

    def _read(self, name: str, stamp: str, oldest: int) -> Labels | None:
        """A file's labels, with id hashes as `keys`; None if the file was read before or cannot be read."""
        if self.stamps.get(name) == stamp or self._refused.get(name) == stamp:
            return None
        try:
            labels = self._store.read_ingestion(name)
        except DataError as error:
            self._refused[name] = stamp
            logger.error("labels do not reach the live history: %s", error)
            return None
        number = self._numbers.setdefault(name, len(self._numbers))
        self.stamps[name] = stamp
        known = _microseconds(labels[KNOWN_AT])
        return Labels(
            long_hashes(labels[ID].astype("str")), known, _microseconds(labels[INGESTED_AT]),
            labels[IS_FRAUD].to_numpy(dtype=bool), np.full(len(labels), number, dtype=np.int32),
        ).take(known >= oldest)  # fmt: skip

    def _of(self, ids: Sequence[str]) -> Labels:
        """All labels of the ids, with positions in `ids` as `keys`."""
        hashes = long_hashes(np.asarray(ids, dtype=object)) if len(ids) else _NOTHING.keys
        parts = []
        for part in self._parts:
            first = np.searchsorted(part.keys, hashes, side="left")
            counts = np.searchsorted(part.keys, hashes, side="right") - first
            owners = np.repeat(np.arange(len(hashes)), counts)
            rows = positions_of(first, counts)
            parts.append(part.take(rows)._replace(keys=owners))
        return Labels(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


@dataclass
class Applied:
    """Result of `LabelFollower.follow`. newest: time the newest applied label became known, microseconds since 1970.

    applied, unmatched, too_old: numbers of labels. Unmatched labels wait for their transaction. lags: seconds from
    ingestion to now, of labels ingested since this follower started.
    """

    applied: int = 0
    unmatched: int = 0
    too_old: int = 0
    newest: int | None = None
    lags: list[float] = field(default_factory=list)


class LabelFollower:
    """Applies the labels of a feed to one live history. find: returns transactions by id, as Snapshots.find does."""

    def __init__(self, store: LiveStore, schema: Schema, feed: LabelFeed, find: Find) -> None:
        self.store, self._schema, self._feed, self._find = store, schema, feed, find
        self._plans = plans(schema)
        self.name = "labels " + " ".join(plan.fingerprint for plan in self._plans)
        self._token = b""
        self._files: dict[str, str] = {}
        self.pending: set[str] = set()  # ids whose transaction is not known yet
        self._future: set[str] = set()  # ids with a label that becomes known later
        self._since = time.time_ns() // 1000

    @property
    def _memory(self) -> int:
        return max(plan.memory for plan in self._plans)

    def oldest(self) -> int:
        """Transactions and labels before this time have no effect. Microseconds since 1970. Raises StoreError."""
        newest = self.store.newest
        return -(2**63) if newest is None else newest - self._memory

    def follow(self, arrived: Collection[str] | None = (), now: int | None = None) -> Applied:
        """Apply new labels. arrived: ids of transactions known since the last call; None: retry all pending ids.

        now: microseconds since 1970. Raises StoreError, and what `find` raises; the next call then retries.
        """
        now = time.time_ns() // 1000 if now is None else now
        self._load()
        oldest, summary = self.oldest(), Applied()
        changed = [name for name, stamp in self._feed.stamps.items() if self._files.get(name) != stamp]
        is_due = bool(self._future) and len(self._feed.newest(sorted(self._future), now).known) > 0
        waiting = self.pending if arrived is None else self.pending.intersection(arrived)
        fresh = self._feed.ids(changed)
        touched = sorted(fresh | waiting | (self._future if is_due else set()))
        files = np.array([self._feed.number_of(name) for name in changed], dtype=np.int32)
        for start in range(0, len(touched), _ROWS):
            self._apply(touched[start : start + _ROWS], files, now, oldest, summary)
        if touched or self._files.keys() != self._feed.stamps.keys():
            self._future = self._feed.later(sorted(self._future | fresh), now)
            self._files = dict(self._feed.stamps)
            self._save(summary.newest)
        summary.unmatched = len(self.pending)
        return summary

    def _apply(self, ids: Sequence[str], changed: np.ndarray, now: int, oldest: int, summary: Applied) -> None:
        labels = self._feed.newest(ids, now)
        labelled = [ids[position] for position in labels.keys.tolist()]
        transactions = self._find(labelled)
        rows = pd.Index(transactions[ID], dtype=object).get_indexer(pd.Index(labelled, dtype=object))
        is_known, times = rows >= 0, np.full(len(rows), -(2**63), dtype=np.int64)
        if is_known.any():
            times[is_known] = _microseconds(transactions["time"])[rows[is_known]]
        is_old = np.where(is_known, times, labels.known) < oldest
        ready, waits = is_known & ~is_old, ~is_known & ~is_old
        self.pending -= set(ids)
        self.pending |= {labelled[i] for i in np.flatnonzero(waits).tolist()}
        entities = {
            plan.column: transactions[plan.column].tolist() for plan in self._plans if plan.column in transactions
        }
        for is_fraud in (True, False):
            chosen = np.flatnonzero(ready & (labels.is_fraud == is_fraud)).tolist()
            visits = [
                Visit(i, str(key), struct.pack("<qI", times[row], hashed(labelled[row])))
                for i, plan in enumerate(self._plans)
                if plan.keeps_frauds and plan.column in entities
                for row in chosen
                if (key := entities[plan.column][rows[row]]) is not None and key == key and key != ""
            ]
            self.store.learn_fraud(visits, is_fraud=is_fraud)
        summary.applied += int(ready.sum())
        summary.too_old += int(is_old.sum())
        if ready.any():
            summary.newest = max(summary.newest or 0, int(labels.known[ready].max()))
        counted = ready & (labels.ingested >= self._since) & np.isin(labels.files, changed)
        summary.lags += np.round((time.time_ns() // 1000 - labels.ingested[counted]) / 1e6, 3).tolist()

    def forget(self) -> None:
        """Make every follower of this history apply all labels again. Raises StoreError."""
        self.store.put(self.name, None)
        self._token = b""

    def _load(self) -> None:
        """Load the applied files from the store, unless this follower was the last to write them."""
        token = self.store.get(self.name)
        if token is not None and token == self._token:
            return
        ledger = self.store.get(f"{self.name} ledger") if token is not None else None
        self._token, self._files, self.pending, self._future = token or b"", {}, set(), set()
        if ledger is not None:
            content = json.loads(zlib.decompress(ledger))
            self._files, self.pending = content["files"], set(content["pending"])
            self._future = set(content["future"])

    def _save(self, newest: int | None) -> None:
        if newest is not None:
            newest = max(newest, newest_applied(self.store, self.name) or newest)
            self.store.put(f"{self.name} newest", struct.pack("<q", newest))
        ledger = {"files": self._files, "pending": sorted(self.pending), "future": sorted(self._future)}
        self._token = secrets.token_bytes(8)
        self.store.put(f"{self.name} ledger", zlib.compress(json.dumps(ledger).encode(), 1))
        self.store.put(self.name, self._token)


def newest_applied(store: LiveStore, name: str) -> int | None:
    """When the newest label that any follower applied became known, microseconds since 1970. name: of the followers.

    Raises StoreError.
    """
    stored = store.get(f"{name} newest")
    return None if stored is None else int(struct.unpack("<q", stored)[0])


def _sorted(parts: Sequence[Labels]) -> Labels:
    """All labels of the parts, sorted by `keys`."""
    together = Labels(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
    return together.take(np.argsort(together.keys, kind="stable"))


def _microseconds(moments: pd.Series) -> np.ndarray:
    return moments.to_numpy(dtype="datetime64[us]").astype(np.int64)


_NOTHING = Labels(
    np.empty(0, np.uint64), np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, bool), np.empty(0, np.int32)
)
