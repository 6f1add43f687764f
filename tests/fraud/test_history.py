"""Entity history: point-in-time correct, equal to a plain rewriting of its formulas, and resumable."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from fraud.errors import SchemaError
from fraud.history import HistoryState, feature_columns, feature_names, replay
from fraud.history_kernels import NORM_PRIOR, RISK_PRIOR
from fraud.schema import Column, History, Schema
from fraud.validation import validate

SCHEMA = Schema(
    name="history",
    columns=(
        Column(name="time", kind="timestamp"),
        Column(name="card", kind="entity", nullable=True),
        Column(name="amount", kind="numeric", nullable=True),
        Column(name="fraud", kind="label"),
    ),
    history=(
        History(entity="card", value="amount", half_life_days=10, statistics=("zscore", "log_ratio", "count", "risk")),
    ),
    label_delay_days=7,
)


def rows(rng: np.random.Generator, n: int, cards: int = 5, days: int = 40) -> pd.DataFrame:
    seconds = np.sort(rng.integers(0, days * 86_400, n))
    return validate(
        pd.DataFrame(
            {
                "time": pd.Timestamp("2026-01-01") + pd.to_timedelta(seconds, unit="s"),
                "card": rng.integers(0, cards, n).astype(str),
                "amount": rng.gamma(2.0, 20.0, n),
                "fraud": (rng.random(n) < 0.1).astype(int),
            }
        ),
        SCHEMA,
    ).rows


def by_hand(frame: pd.DataFrame, i: int) -> list[float]:
    """Features of row i, recomputed from all rows before it without any running state."""
    half_life, now = 10.0, frame["time"].iloc[i]
    before = frame.iloc[:i]
    mine = before[before["card"] == frame["card"].iloc[i]]
    age = (now - mine["time"]).dt.total_seconds() / 86_400
    weight = 0.5 ** (age / half_life)
    everyone_mean = before["amount"].mean() if i else 0.0
    everyone_square = (before["amount"] ** 2).mean() if i else 1.0
    total = weight.sum()
    mean = ((weight * mine["amount"]).sum() + NORM_PRIOR * everyone_mean) / (total + NORM_PRIOR)
    square = ((weight * mine["amount"] ** 2).sum() + NORM_PRIOR * everyone_square) / (total + NORM_PRIOR)
    spread = max(np.sqrt(max(square - mean**2, 1e-12)), 1e-3 * abs(mean))
    amount = frame["amount"].iloc[i]
    known = before[before["time"] + pd.Timedelta(days=7) <= now]
    base = known["fraud"].mean() if len(known) else 0.0
    my_known = known[known["card"] == frame["card"].iloc[i]]
    kept = 0.5 ** (((now - my_known["time"]).dt.total_seconds() / 86_400 - 7) / half_life)
    risk = ((kept * my_known["fraud"]).sum() + RISK_PRIOR * base) / (kept.sum() + RISK_PRIOR)
    return [(amount - mean) / spread, np.log1p(amount) - np.log1p(mean), total, risk]


def test_features_equal_a_plain_recomputation(rng: np.random.Generator) -> None:
    frame = rows(rng, 300)
    features, _ = replay(frame, SCHEMA)
    for i in [0, 1, 2, 50, 120, 200, 299]:
        np.testing.assert_allclose(features[i], by_hand(frame, i), rtol=1e-8, atol=1e-10)
    assert features[-50:, 3].max() > 0  # matured labels were seen at all


def test_nothing_from_the_future_is_used(rng: np.random.Generator) -> None:
    frame = rows(rng, 400)
    features, _ = replay(frame, SCHEMA)
    changed = frame.copy()
    changed.loc[changed.index[200:], "amount"] *= 100
    # Labels of the last week before row 200 are not known at row 200 either.
    late = changed["time"] > changed["time"].iloc[200] - pd.Timedelta(days=7)
    changed.loc[late, "fraud"] = 1
    after, _ = replay(changed, SCHEMA)
    np.testing.assert_array_equal(features[:200], after[:200])
    assert not np.array_equal(features[200:], after[200:])


def test_stopping_and_going_on_changes_nothing(rng: np.random.Generator) -> None:
    frame = rows(rng, 500)
    whole, _ = replay(frame, SCHEMA)
    first, states = replay(frame.iloc[:210], SCHEMA)
    second, _ = replay(frame.iloc[210:], SCHEMA, states)
    np.testing.assert_allclose(np.vstack([first, second]), whole, rtol=1e-12)


def test_order_of_the_frame_does_not_matter(rng: np.random.Generator) -> None:
    frame = rows(rng, 200).drop_duplicates("time")
    shuffled = frame.sample(frac=1, random_state=0)
    features, _ = replay(frame, SCHEMA)
    again, _ = replay(shuffled, SCHEMA)
    np.testing.assert_allclose(again[np.argsort(shuffled.index.to_numpy(), kind="stable")], features, rtol=1e-12)


def test_reading_without_learning_leaves_the_norm_alone(rng: np.random.Generator) -> None:
    frame = rows(rng, 300)
    _, states = replay(frame.iloc[:200], SCHEMA)
    _, after = replay(frame.iloc[200:], SCHEMA, states, learn=False)
    np.testing.assert_array_equal(after[0].statistics[: len(states[0].keys), :4], states[0].statistics[:, :4])


def test_missing_amount_and_missing_card() -> None:
    frame = validate(
        pd.DataFrame(
            {
                "time": pd.to_datetime(["2026-01-01", "2026-01-02", "2026-01-03", "2026-01-04"]),
                "card": ["a", "a", None, "a"],
                "amount": [10.0, None, 5.0, 30.0],
                "fraud": [0, 0, 0, 0],
            }
        ),
        SCHEMA,
    ).rows
    features, states = replay(frame, SCHEMA)
    assert np.isnan(features[1, :2]).all()  # no amount, no comparison
    assert np.isfinite(features[[0, 2, 3]]).all()
    assert features[3, 2] == pytest.approx(0.5**0.3)  # the row without an amount was not counted
    assert list(states[0].keys) == ["a"]


def test_an_unknown_entity_is_compared_with_everybody(rng: np.random.Generator) -> None:
    frame = rows(rng, 300)
    _, states = replay(frame, SCHEMA)
    new = frame.tail(1).assign(card="never seen")
    features, _ = replay(new, SCHEMA, states)
    assert features[0, 2] == 0
    assert np.isfinite(features).all()


def test_names_say_what_and_for_how_long() -> None:
    assert feature_names(SCHEMA)[0] == "amount zscore by card (10 d)"
    assert feature_columns(SCHEMA) == ["amount", "amount", "card", "card"]
    assert HistoryState.empty().statistics.shape == (0, 7)


def test_history_needs_a_timestamp() -> None:
    with pytest.raises(SchemaError, match="timestamp"):
        Schema(
            name="x",
            columns=(Column(name="card", kind="entity"),),
            history=(History(entity="card", statistics=("count",)),),
        )
