"""The start of a replay: the stored history before the rows, and which frauds were known when."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from fraud.days import Zone
from fraud.history.label_intervals import LabelIntervals
from fraud.history.records import long_hashes, record_hashes
from fraud.history.snapshots.days import Snapshots
from fraud.history.snapshots.partition import partition_of, split
from fraud.history.state import HistoryState, KnownFrauds


@dataclass(frozen=True, kw_only=True)
class ReplayStart:
    """The start of a replay.

    states: one per plan; empty: no history. snapshots, through: instead of `states`, the history at the end of a day.
    frauds: of the stored transactions, one per plan; None: the rows' own labels count, as in training.
    labels: of the rows themselves. has_earlier_days: rows of earlier days are in the history already, unless late.
    """

    states: tuple[HistoryState, ...] = ()
    snapshots: Snapshots | None = None
    through: dt.date | None = None
    frauds: tuple[KnownFrauds, ...] | None = None
    labels: LabelIntervals | None = None
    has_earlier_days: bool = False

    def split(self, i: int, n: int) -> list[ReplayStartPart]:
        """The start of each of n partitions of plan number `i`. A part reads its snapshots when it is used."""
        states: Sequence[HistoryState | None] = split(self.states[i], n) if self.states else [None] * n
        frauds: list[KnownFrauds | None] = [None] * n
        if self.frauds is not None:
            of_plan = self.frauds[i]
            owner = partition_of(of_plan.keys, np.zeros(len(of_plan), dtype=np.int64), n)
            frauds = [of_plan.take(owner == p) for p in range(n)]
        return [
            ReplayStartPart(
                state=states[p], snapshots=self.snapshots, through=self.through, plan=i, partition=(p, n),
                frauds=frauds[p], has_earlier_days=self.has_earlier_days,
            )
            for p in range(n)
        ]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ReplayStartPart:
    """The start of one partition of one plan. See `ReplayStart`."""

    state: HistoryState | None
    snapshots: Snapshots | None
    through: dt.date | None
    plan: int
    partition: tuple[int, int]
    frauds: KnownFrauds | None
    has_earlier_days: bool

    def remembered(self) -> HistoryState | None:
        """The stored history; None: no history. Raises DataError if a snapshot was altered."""
        if self.snapshots is not None and self.through is not None:
            return self.snapshots.events(self.plan, self.through, self.partition)
        return self.state


def frauds_of_rows(
    known: KnownFrauds, labels: LabelIntervals | None, keys: np.ndarray, records: np.ndarray, ids: np.ndarray | None
) -> KnownFrauds:
    """`known` and the labelled frauds among the rows, without duplicates.

    keys: the rows' entities, None or NaN if missing; records: EntityPlan.record; ids: their ids as texts.
    """
    if labels is None or ids is None or not len(labels.id_hashes):
        return known
    hashes = long_hashes(ids)
    at = np.flatnonzero(np.isin(hashes, labels.id_hashes) & ~pd.isna(keys))
    nothing = np.zeros(len(at), dtype=np.int64)
    rows = KnownFrauds(keys[at].astype(object), records["time"][at], records["id"][at], nothing, nothing)
    if len(known):
        names = [known.keys, known.times, known.ids]
        is_known = pd.MultiIndex.from_arrays([rows.keys, rows.times, rows.ids]).isin(pd.MultiIndex.from_arrays(names))
        at, rows = at[~is_known], rows.take(~is_known)
    return KnownFrauds.join([known, labels.of(hashes[at], rows)])


def is_new(keys: np.ndarray, records: np.ndarray, state: HistoryState) -> np.ndarray:
    """Which rows are not in the state: bool (n_rows,). keys, records: as for `frauds_of_rows`.

    Rows are identified by entity, time and id; without an id, by the whole record.
    """
    remembered = np.repeat(state.keys, np.diff(state.starts))
    return ~np.isin(_identities(keys, records), _identities(remembered, state.events))


def _identities(keys: np.ndarray, records: np.ndarray) -> np.ndarray:
    texts = np.where(pd.isna(keys), "", keys).astype(object)
    by_content = record_hashes(texts, records)
    by_id = record_hashes(texts, records[["time", "id"]])
    return np.where(records["id"] == 0, by_content, by_id)


def day_starts(times: np.ndarray, zone: Zone) -> np.ndarray:
    """The first instant of each time's day. times, result: int64 (n,), microseconds since 1970."""
    days, codes = np.unique(zone.day_of(times), return_inverse=True)
    return np.array([zone.start_of(day.astype(dt.date)) for day in days], dtype=np.int64)[codes]
