"""Compute the entity history features of many rows.

Each entry of the schema's `history` defines statistics over exact sliding windows of its entity's earlier transactions
(counts, means, z-scores, distinct values, delayed fraud rates: Fraud Detection Handbook, ch. 3.4; Bahnsen et al.,
"Feature engineering strategies for credit card fraud detection", 2016). Stored per entity: the newest
`Schema.history_events` transactions, no older than the longest window, and the known frauds; a few dozen bytes an
event. A row's features use only earlier information: transactions with an earlier time (or the same time and an earlier
arrival), and frauds older than the label delay.

`replay` handles millions of rows, `fraud.history.online` one row with the events of a live store. Both run
`history_kernels.window_statistics` over the same records, so the features are bit-identical.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple, get_args

import numpy as np
import pandas as pd

from fraud.history import kernels as history_kernels
from fraud.history.definition import FRAUD_RECORD, EntityPlan, entry_names, feature_names, plans
from fraud.history.records import id_hashes, microseconds_since_epoch, remembered_column
from fraud.history.state import HistoryState, KnownFrauds, count_per_group, frauds_that_matter, starts_of
from fraud.schema import Schema
from fraud.schema.columns import History, Statistic

_CODES = {name: code for code, name in enumerate(get_args(Statistic))}
# Rows per thread task.
_CHUNK = 50_000
_NO_TIMES = np.empty(0, dtype=np.int64)
_EARLIEST, _LATEST = np.iinfo(np.int64).min, np.iinfo(np.int64).max


def replay(
    rows: pd.DataFrame,
    schema: Schema,
    states: tuple[HistoryState, ...] = (),
    *,
    learn: bool = True,
    frauds: Sequence[KnownFrauds] | None = None,
    moments: np.ndarray | None = None,
) -> tuple[np.ndarray, tuple[HistoryState, ...]]:
    """Compute the history features of every row, as if the rows arrived one by one in time order after `states`.

    rows: canonical frame (fraud.schema.validate), any order; rows of equal time arrive in the frame's order.
    learn: later rows see each row, and its label after the label delay. False: only `states` are read.
    frauds: one per plan: known frauds in addition to those of `states`, each within its interval; the rows' own labels
    are ignored. None: the rows' own labels count after the label delay.
    moments: int64 (n_rows,) microseconds since 1970: a row sees the frauds known at this time; default: its own time.
    Returns float64 (n_rows, n_history_features) in the order of `rows`, and the states after the last row, without
    events that can no longer have an effect.
    """
    entity_plans = plans(schema)
    if not entity_plans:
        return np.empty((len(rows), 0)), ()
    assert schema.timestamp is not None  # Schema refuses a history without one
    out = np.empty((len(rows), len(feature_names(schema))))
    times = microseconds_since_epoch(rows[schema.timestamp.name])
    order = np.argsort(times, kind="stable")
    is_fraud = np.zeros(len(rows), dtype=bool)
    if frauds is None and schema.label is not None and schema.label.name in rows:
        is_fraud = rows[schema.label.name].to_numpy() == 1
    ids = id_hashes(rows, schema) if learn else np.zeros(len(rows), dtype=np.uint32)
    frame = _Frame(rows, times, order, is_fraud, ids, learn, moments)
    after, column = [], 0
    states = states or tuple(HistoryState.empty(plan) for plan in entity_plans)
    for i, (plan, state) in enumerate(zip(entity_plans, states, strict=True)):
        batch = _Batch(plan, frame, state, frauds[i] if frauds else None)
        for entry in plan.entries:
            width = len(entry_names(entry))
            batch.compute(entry, out[:, column : column + width])
            column += width
        after.append(batch.remembered() if learn else state)
    return out, tuple(after)


@dataclass(frozen=True)
class EntryArguments:
    """The kernel arguments of a history entry."""

    statistics: np.ndarray
    windows: np.ndarray
    table_size: int

    @classmethod
    def of(cls, entry: History, plan: EntityPlan) -> EntryArguments:
        return cls(
            np.array([_CODES[statistic] for statistic in entry.statistics], dtype=np.int64),
            np.array(entry.lengths, dtype=np.int64),
            (1 << (2 * plan.capacity + 1).bit_length()) if entry.of else 1,
        )


class _Frame(NamedTuple):
    """What every plan replays; order: positions of the rows by time."""

    rows: pd.DataFrame
    times: np.ndarray
    order: np.ndarray
    is_fraud: np.ndarray
    ids: np.ndarray
    learn: bool
    moments: np.ndarray | None


class _Batch:
    """One plan over a whole frame: its rows and its state's events, grouped by entity and sorted by time."""

    def __init__(self, plan: EntityPlan, frame: _Frame, state: HistoryState, known_frauds: KnownFrauds | None) -> None:
        rows, times, order, _, ids, learn, _ = frame
        self._plan, self._rows, self._order, self._ids, self._learn = plan, rows, order, ids, learn
        codes, uniques = pd.factorize(rows[plan.column], use_na_sentinel=True)
        self._keys, positions = _with_keys(state.keys, np.asarray(uniques, dtype=object))
        # The last group takes the rows without the entity (a nullable column); they have no history.
        n, nobody = len(self._keys) + 1, len(self._keys)
        groups = np.append(positions, nobody)[codes][order]
        old = np.repeat(np.arange(len(state.keys)), np.diff(state.starts))
        learned = groups if learn else groups[:0]
        self._events = np.concatenate([state.events["time"], times[order][: len(learned)]])
        all_groups = np.concatenate([old, learned])
        starts, sorting = np.empty(n + 1, dtype=np.int64), np.empty(len(all_groups), dtype=np.int64)
        if learn and len(old) and len(learned) and times[order[0]] < state.events["time"].max():
            late = np.argsort(self._events, kind="stable")
            history_kernels.group_rows(all_groups[late], n, starts, sorting)
            sorting = late[sorting]
        else:
            history_kernels.group_rows(all_groups, n, starts, sorting)
        self._starts, self._sorting, self._state = starts, sorting, state
        self._events = self._events[sorting]
        if learn:
            self._stops = np.flatnonzero(sorting >= len(old))
            source = sorting[self._stops] - len(old)
        else:
            source = np.arange(len(groups))
            self._stops = np.empty(len(groups), dtype=np.int64)
            history_kernels.last_positions(self._events, groups, starts, times[order], self._stops)
        self._row_of = order[source]
        self._groups = groups[source]
        self._now = times[self._row_of]
        self._begins = np.maximum(starts[self._groups], self._stops - plan.capacity)
        self._begins[self._groups == nobody] = self._stops[self._groups == nobody]
        self._load_frauds(frame.is_fraud, times, groups, n, known_frauds)
        self._moments = _NO_TIMES if frame.moments is None else frame.moments[self._row_of]

    def _load_frauds(
        self, is_fraud: np.ndarray, times: np.ndarray, groups: np.ndarray, n: int, known_frauds: KnownFrauds | None
    ) -> None:
        state = self._state
        old = np.repeat(np.arange(len(state.keys)), np.diff(state.fraud_starts))
        is_new = is_fraud[self._order] & (groups != n - 1) & (self._learn and self._plan.keeps_frauds)
        new = np.flatnonzero(is_new)
        self._fraud_rows = self._order[new]
        fraud_times = np.concatenate([state.frauds["time"], times[self._fraud_rows]])
        fraud_groups = np.concatenate([old, groups[new]])
        self._fraud_sorting = np.lexsort((fraud_times, fraud_groups))
        self._frauds = fraud_times[self._fraud_sorting]
        self._fraud_starts = np.searchsorted(fraud_groups[self._fraud_sorting], np.arange(n + 1))
        self._counted = (self._frauds, self._fraud_starts, _NO_TIMES, _NO_TIMES)
        if known_frauds is None or not self._plan.keeps_frauds:
            return
        positions = pd.Index(self._keys).get_indexer(pd.Index(known_frauds.keys, dtype=object))
        known_frauds, positions = known_frauds.take(positions >= 0), positions[positions >= 0]
        n_always = len(fraud_times)
        fraud_times = np.concatenate([fraud_times, known_frauds.times])
        fraud_groups = np.concatenate([fraud_groups, positions])
        known_from = np.concatenate([np.full(n_always, _EARLIEST), known_frauds.known_from])
        known_until = np.concatenate([np.full(n_always, _LATEST), known_frauds.known_until])
        sorting = np.lexsort((fraud_times, fraud_groups))
        starts = np.searchsorted(fraud_groups[sorting], np.arange(n + 1))
        self._counted = (fraud_times[sorting], starts, known_from[sorting], known_until[sorting])

    def compute(self, entry: History, out: np.ndarray) -> None:
        """Write the entry's features, float64 (n_rows, width), in the order of the frame."""
        arguments = EntryArguments.of(entry, self._plan)
        columns = [(f"value {name}" if name else "") for name in (entry.value, *(entry.location or (None, None)))]
        value, latitude, longitude = (self._column(name, np.float32) for name in columns)
        other = self._column(f"hash {entry.of}" if entry.of else "", np.uint32)
        fraud_times, fraud_starts, known_from, known_until = self._counted

        def run(part: slice) -> None:
            history_kernels.replay_rows(
                self._begins[part], self._stops[part], self._groups[part], fraud_starts, self._events,
                value[0], other[0], latitude[0], longitude[0], fraud_times, known_from, known_until,
                _part(self._moments, part), self._now[part],
                _part(value[1], part), _part(other[1], part), _part(latitude[1], part), _part(longitude[1], part),
                self._row_of[part], arguments.statistics, arguments.windows, self._plan.delay, self._plan.memory,
                self._plan.capacity, arguments.table_size, out,
            )  # fmt: skip

        parts = [slice(start, start + _CHUNK) for start in range(0, len(self._row_of), _CHUNK)]
        if len(parts) < 2:
            run(slice(None))
            return
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            list(pool.map(run, parts))

    def _column(self, name: str, dtype: type) -> tuple[np.ndarray, np.ndarray]:
        """A stored column of the events, and of the rows in computation order; empty without a name."""
        if not name:
            return np.empty(0, dtype=dtype), np.empty(0, dtype=dtype)
        values = remembered_column(self._rows, name)
        events = np.concatenate([self._state.events[name], values[self._order] if self._learn else values[:0]])
        return events[self._sorting], values[self._row_of]

    def remembered(self) -> HistoryState:
        """The state after the rows: each entity's newest events that can still have an effect."""
        plan, n = self._plan, len(self._keys)
        ends = np.repeat(self._starts[1:], np.diff(self._starts))
        newest = int(self._events.max()) if len(self._events) else 0
        known = np.arange(len(ends)) < self._starts[n]  # the last group has no entity
        is_retained = (
            known & (np.arange(len(ends)) >= ends - plan.store_capacity) & (self._events >= newest - plan.memory)
        )
        events = np.empty(int(is_retained.sum()), dtype=plan.record)
        chosen = self._sorting[is_retained]
        is_old = chosen < len(self._state.events)
        events[is_old] = self._state.events[chosen[is_old]]
        rows = self._order[chosen[~is_old] - len(self._state.events)]
        events["time"] = self._events[is_retained]
        events["id"][~is_old] = self._ids[rows]
        for name in plan.record.names[2:] if plan.record.names else ():
            events[name][~is_old] = remembered_column(self._rows.iloc[rows], name)
        frauds = np.empty(len(self._fraud_sorting), dtype=FRAUD_RECORD)
        is_old = self._fraud_sorting < len(self._state.frauds)
        frauds["time"] = self._frauds
        frauds["id"][is_old] = self._state.frauds["id"][self._fraud_sorting[is_old]]
        frauds["id"][~is_old] = self._ids[self._fraud_rows[self._fraud_sorting[~is_old] - len(self._state.frauds)]]
        is_retained_fraud = frauds_that_matter(self._frauds, self._fraud_starts, plan, newest)
        per_entity = count_per_group(is_retained, self._starts)[:n]
        frauds_per_entity = count_per_group(is_retained_fraud, self._fraud_starts)[:n]
        alive = (per_entity > 0) | (frauds_per_entity > 0)
        return HistoryState(
            self._keys[alive], events, starts_of(per_entity[alive]), frauds[is_retained_fraud],
            starts_of(frauds_per_entity[alive]),
        )  # fmt: skip


def _part(values: np.ndarray, part: slice) -> np.ndarray:
    return values[part] if len(values) else values


def _with_keys(known: np.ndarray, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Append new keys; return all keys and the position of each of `keys`."""
    positions = pd.Index(known).get_indexer(pd.Index(keys, dtype=object)) if len(known) else np.full(len(keys), -1)
    positions, new = positions.astype(np.int64), positions < 0
    positions[new] = len(known) + np.arange(int(new.sum()))
    return np.concatenate([known, keys[new]]), positions
