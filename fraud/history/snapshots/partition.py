"""Partition entity history by entity, so that each plan can be replayed in parallel.

A partition holds the rows of some entities of one plan, with the columns that the plan reads. Replaying all partitions
gives bit-identical features to one replay of everything. ray_jobs.streaming.history_shuffle runs it on Ray.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from fraud.history.definition import EntityPlan
from fraud.history.state import HistoryState, count_per_group, frauds_that_matter, positions_of, starts_of
from fraud.schema import Schema


def cut(schema: Schema, plan: EntityPlan) -> Schema:
    """The schema of one plan's partitions: only the columns that its replay reads, and only its history."""
    needed = {plan.column, *plan.values, *plan.others}
    roles = ("timestamp", "id", "label")
    columns = tuple(column for column in schema.columns if column.name in needed or column.kind in roles)
    return replace(schema, columns=columns, history=plan.entries, ignore=())


def partition_of(entities: pd.Series | np.ndarray, rows: np.ndarray, n_partitions: int) -> np.ndarray:
    """Partition of every row, int64 (n_rows,), by a hash of its entity that is stable across nodes.

    rows: int64 (n_rows,) row numbers; they distribute the rows without an entity, which have no history.
    """
    keys = np.asarray(entities, dtype=object)
    by_hash = (pd.util.hash_array(keys, categorize=True) % np.uint64(n_partitions)).astype(np.int64)
    return np.where(pd.isna(keys), rows % n_partitions, by_hash)


def split(state: HistoryState, n_partitions: int) -> list[HistoryState]:
    """The state of each partition's entities."""
    partitions = partition_of(state.keys, np.zeros(len(state.keys), dtype=np.int64), n_partitions)
    return [_of_entities(state, np.flatnonzero(partitions == p)) for p in range(n_partitions)]


def join(states: Sequence[HistoryState], plan: EntityPlan, newest: int) -> HistoryState:
    """Join the partitions' states; drop what can no longer have an effect at `newest`, as a single replay does.

    newest: time of the newest row of all partitions, microseconds since 1970. A partition knows only its own.
    """
    events = np.concatenate([state.events for state in states])
    frauds = np.concatenate([state.frauds for state in states])
    starts = starts_of(np.concatenate([np.diff(state.starts) for state in states]))
    fraud_starts = starts_of(np.concatenate([np.diff(state.fraud_starts) for state in states]))
    is_retained = events["time"] >= newest - plan.memory
    is_retained_fraud = frauds_that_matter(frauds["time"], fraud_starts, plan, newest)
    per_entity, frauds_per_entity = (
        count_per_group(is_retained, starts),
        count_per_group(is_retained_fraud, fraud_starts),
    )
    alive = (per_entity > 0) | (frauds_per_entity > 0)
    keys = np.concatenate([state.keys for state in states])[alive]
    return HistoryState(
        keys,
        events[is_retained],
        starts_of(per_entity[alive]),
        frauds[is_retained_fraud],
        starts_of(frauds_per_entity[alive]),
    )


def _of_entities(state: HistoryState, chosen: np.ndarray) -> HistoryState:
    counts, fraud_counts = np.diff(state.starts)[chosen], np.diff(state.fraud_starts)[chosen]
    return HistoryState(
        state.keys[chosen],
        state.events[positions_of(state.starts[chosen], counts)],
        starts_of(counts),
        state.frauds[positions_of(state.fraud_starts[chosen], fraud_counts)],
        starts_of(fraud_counts),
    )
