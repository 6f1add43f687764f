"""Entity history: what is normal for this customer, and how risky this terminal has been, at the moment of a row.

Each entry of the schema's `history` keeps exponentially decayed statistics per entity (Welford-style sums with a
half-life), so that one row costs O(1) time and state. Features of a row use only what was known before it: earlier
rows, and labels older than the schema's label delay (point-in-time correct; Fraud Detection Handbook, ch. 3.4,
computes the windowed form).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from fraud import history_kernels
from fraud.errors import DataError
from fraud.schema import History, Schema

STATISTICS = {
    "zscore": history_kernels.ZSCORE,
    "log_ratio": history_kernels.LOG_RATIO,
    "count": history_kernels.COUNT,
    "risk": history_kernels.RISK,
}
_MICROSECONDS_A_DAY = 86_400e6


@dataclass(frozen=True)
class HistoryState:
    """What one history entry remembers. Arrays only.

    keys: str (n_entities,); statistics: float64 (n_entities, 7), see history_kernels; totals: float64 (5,);
    pending_days: float64 (n_pending,) day (since 1970) on which a label becomes known, ascending;
    pending_entities: int64 (n_pending,) row of `statistics`; pending_labels: float64 (n_pending,) 1 fraud, 0
    legitimate.
    """

    keys: np.ndarray
    statistics: np.ndarray
    totals: np.ndarray
    pending_days: np.ndarray
    pending_entities: np.ndarray
    pending_labels: np.ndarray

    @property
    def last_day(self) -> float:
        """Day since 1970 of the newest row that was learnt; -inf before the first."""
        return float(self.statistics[:, history_kernels.SEEN].max()) if len(self.keys) else -np.inf

    @classmethod
    def empty(cls) -> HistoryState:
        """Make a state that has seen nothing."""
        return cls(
            keys=np.empty(0, dtype=object),
            statistics=np.zeros((0, history_kernels.N_STATE)),
            totals=np.zeros(5),
            pending_days=np.empty(0),
            pending_entities=np.empty(0, dtype=np.int64),
            pending_labels=np.empty(0),
        )


def feature_names(schema: Schema) -> list[str]:
    """Names of the history features, in the column order of `replay`'s array."""
    return [_name(entry, statistic) for entry in schema.history for statistic in entry.statistics]


def feature_columns(schema: Schema) -> list[str]:
    """For each history feature the column a reader would blame: the value's, or the entity's for count and risk."""
    return [
        entry.value if statistic in ("zscore", "log_ratio") and entry.value else entry.entity
        for entry in schema.history
        for statistic in entry.statistics
    ]


def replay(
    rows: pd.DataFrame, schema: Schema, states: tuple[HistoryState, ...] = (), *, learn: bool = True
) -> tuple[np.ndarray, tuple[HistoryState, ...]]:
    """Compute the history features of every row, in time order, starting from `states`.

    rows: canonical frame (fraud.schema.validate), any order. learn: count each row, after reading it, into its entity's
    history; False reads the states as they stand (labels already pending still mature).
    Returns float64 (n_rows, n_history_features) in the order of `rows`, and the states after the last row.
    Raises DataError if the schema declares history but names no timestamp.
    """
    if not schema.history:
        return np.empty((len(rows), 0)), ()
    if schema.timestamp is None:
        raise DataError(
            f"schema {schema.name!r} declares history but no column of kind timestamp: add one or drop history"
        )
    days = days_since_epoch(rows[schema.timestamp.name])
    order = np.argsort(days, kind="stable")
    labels = rows[schema.label.name].to_numpy() if schema.label and schema.label.name in rows else None
    states = states or tuple(HistoryState.empty() for _ in schema.history)
    blocks, after = [], []
    for entry, state in zip(schema.history, states, strict=True):
        values = rows[entry.value].to_numpy(dtype=np.float64)[order] if entry.value else np.zeros(len(rows))
        known = labels[order] if labels is not None and learn and "risk" in entry.statistics else None
        features, state = _replay_entry(
            entry, state, days[order], rows[entry.entity].to_numpy(dtype=object)[order], values, known,
            schema.label_delay_days, learn,
        )  # fmt: skip
        block = np.empty_like(features)
        block[order] = features
        blocks.append(block[:, [STATISTICS[name] for name in entry.statistics]])
        after.append(state)
    return np.concatenate(blocks, axis=1), tuple(after)


def days_since_epoch(times: pd.Series) -> np.ndarray:
    """Convert canonical timestamps to float64 days since 1970, shape (n_rows,)."""
    return times.to_numpy(dtype="datetime64[us]").astype(np.int64) / _MICROSECONDS_A_DAY


def _name(entry: History, statistic: str) -> str:
    what = f"{entry.value} " if statistic in ("zscore", "log_ratio") else ""
    return f"{what}{statistic} by {entry.entity} ({entry.half_life_days:g} d)"


def _replay_entry(
    entry: History,
    state: HistoryState,
    days: np.ndarray,
    keys: np.ndarray,
    values: np.ndarray,
    labels: np.ndarray | None,
    delay_days: float,
    learn: bool,
) -> tuple[np.ndarray, HistoryState]:
    codes, uniques = pd.factorize(keys, use_na_sentinel=True)
    state, positions = _with_keys(state, np.asarray(uniques, dtype=object))
    # Rows without the entity (a nullable entity column) share one throw-away row at the end.
    statistics = np.vstack([state.statistics, np.zeros((1, history_kernels.N_STATE))])
    entities = np.where(codes >= 0, positions[codes] if len(positions) else -1, len(statistics) - 1).astype(np.int64)
    pending_days, pending_entities, pending_labels = state.pending_days, state.pending_entities, state.pending_labels
    if labels is not None:
        labelled = (labels >= 0) & (codes >= 0)
        pending_days = np.concatenate([pending_days, days[labelled] + delay_days])
        pending_entities = np.concatenate([pending_entities, entities[labelled]])
        pending_labels = np.concatenate([pending_labels, labels[labelled].astype(np.float64)])
        by_day = np.argsort(pending_days, kind="stable")
        pending_days, pending_entities, pending_labels = (
            pending_days[by_day], pending_entities[by_day], pending_labels[by_day],
        )  # fmt: skip
    totals = state.totals.copy()
    out = np.empty((len(days), 4))
    used = history_kernels.replay_history(
        statistics, totals, days, entities, values, entry.half_life_days,
        pending_days, pending_entities, pending_labels, learn, out,
    )  # fmt: skip
    if np.isnan(values).any():
        out[np.isnan(values), : history_kernels.COUNT] = np.nan
    return out, replace(
        state,
        statistics=statistics[:-1],
        totals=totals,
        pending_days=pending_days[used:],
        pending_entities=pending_entities[used:],
        pending_labels=pending_labels[used:],
    )


def _with_keys(state: HistoryState, keys: np.ndarray) -> tuple[HistoryState, np.ndarray]:
    """Give every key of `keys` a row in the state; return the grown state and the row of each key."""
    positions = (
        pd.Index(state.keys).get_indexer(pd.Index(keys, dtype=object)) if len(state.keys) else np.full(len(keys), -1)
    )
    new = positions < 0
    positions = positions.astype(np.int64)
    positions[new] = len(state.keys) + np.arange(int(new.sum()))
    grown = np.vstack([state.statistics, np.zeros((int(new.sum()), history_kernels.N_STATE))])
    return replace(state, keys=np.concatenate([state.keys, keys[new]]), statistics=grown), positions
