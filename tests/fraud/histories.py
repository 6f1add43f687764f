"""What the tests of entity history share: a schema with every statistic, random rows, rows read one by one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from fraud.history.online import OnlineHistory
from fraud.history.records import microseconds_since_epoch
from fraud.history.stores.store import StateStore
from fraud.schema import Schema
from fraud.schema.columns import Column, History
from fraud.schema.validation import validate

SCHEMA = Schema(
    name="every statistic",
    columns=(
        Column(name="id", kind="id"),
        Column(name="time", kind="timestamp"),
        Column(name="card", kind="entity", nullable=True),
        Column(name="shop", kind="entity"),
        Column(name="amount", kind="numeric", nullable=True),
        Column(name="category", kind="categorical", nullable=True),
        Column(name="latitude", kind="numeric", nullable=True, minimum=-90, maximum=90),
        Column(name="longitude", kind="numeric", nullable=True, minimum=-180, maximum=180),
        Column(name="fraud", kind="label"),
    ),
    history=(
        History(
            entity="card",
            windows=("1h", "1d", "7d"),
            value="amount",
            statistics=("count", "sum", "mean", "std", "max", "ratio", "zscore"),
        ),
        History(entity="shop", windows=("1d", "7d"), statistics=("count", "risk", "frauds")),
        History(entity="card", windows=("1d", "7d"), of="category", statistics=("distinct", "first_seen")),
        History(
            entity="card",
            location=("latitude", "longitude"),
            statistics=("time_since_last", "distance_from_last", "speed_from_last"),
        ),
    ),
    history_events=12,
    label_delay_days=2,
)


def random_rows(rng: np.random.Generator, n: int, days: int = 30, *, fraud_rate: float = 0.2) -> pd.DataFrame:
    """Canonical rows in no order, with ties in time, missing values and missing cards."""
    hours = rng.integers(0, days * 24, n)
    frame = pd.DataFrame(
        {
            "id": [f"t{i}" for i in rng.permutation(n)],
            "time": pd.Timestamp("2026-01-01") + pd.to_timedelta(hours, unit="h"),
            "card": rng.choice(["ann", "bob", "çem", None], n, p=[0.5, 0.3, 0.15, 0.05]),
            "shop": rng.choice(["s1", "s2", "s3"], n),
            "amount": np.where(rng.random(n) < 0.1, np.nan, np.round(rng.gamma(1.0, 40.0, n), 2)),
            "category": rng.choice(["food", "fuel", "web", None], n, p=[0.5, 0.3, 0.1, 0.1]),
            "latitude": np.where(rng.random(n) < 0.1, np.nan, rng.uniform(-80, 80, n)),
            "longitude": rng.uniform(-180, 180, n),
            "fraud": (rng.random(n) < fraud_rate).astype(int),
        }
    )
    return validate(frame, SCHEMA).rows


def number(name: str, value: Any) -> float:
    """Read a numeric value as the engine does."""
    return np.nan if value is None else float(value)


def in_order(rows: pd.DataFrame, schema: Schema) -> Iterator[tuple[int, int, Mapping[str, object]]]:
    """Position, time in microseconds and {column: value} of each row, by time."""
    assert schema.timestamp is not None
    times = microseconds_since_epoch(rows[schema.timestamp.name])
    order = np.argsort(times, kind="stable")
    plain = rows.drop(columns=schema.timestamp.name).astype(object)
    records = plain.where(plain.notna(), None).iloc[order].to_dict("records")
    yield from zip(order.tolist(), times[order].tolist(), records, strict=True)


def one_by_one(rows: pd.DataFrame, schema: Schema, store: StateStore) -> np.ndarray:
    """The features that single requests get, each row remembered and each fraud learnt: float64 (n_rows, width)."""
    history = OnlineHistory(schema)
    out = np.empty((len(rows), history.width))
    label = schema.label.name if schema.label else ""
    for position, now, row in in_order(rows, schema):
        out[position] = history.exchange(history.visits(row, now, number), store)
        if row.get(label) == 1:
            history.learn_fraud(row, now, store)
    return out
