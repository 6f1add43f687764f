"""Every statistic equals a recomputation from all earlier rows, and nothing else is ever used."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from fraud.errors import SchemaError
from fraud.history.definition import feature_columns, feature_names, feature_transforms, hashed
from fraud.history.kernels import EARTH_RADIUS_KM, SPREAD_PRIOR
from fraud.history.replay import replay
from fraud.schema import Schema
from fraud.schema.columns import Column, History
from tests.fraud.histories import SCHEMA, random_rows

HOUR, DAY = pd.Timedelta(hours=1), pd.Timedelta(days=1)
DELAY = 2 * DAY
MEMORY = {"card": 7 * DAY, "shop": 9 * DAY}


def before(rows: pd.DataFrame, i: int, entity: str, capacity: int) -> pd.DataFrame:
    """The newest `capacity` rows of row i's entity that came before it; rows are in order of arrival."""
    key = rows[entity].iloc[i]
    if pd.isna(key):
        return rows.iloc[:0]
    return rows.iloc[:i][(rows[entity].iloc[:i] == key).to_numpy()].tail(capacity)


def spread(known: np.ndarray) -> float:
    return float(((known - known.mean()) ** 2).sum())


def distance(a: pd.Series, b: pd.Series) -> float:
    """By the spherical law of cosines, which is not what the kernel uses."""
    one, two = (
        np.radians(np.array([point["latitude"], point["longitude"]], dtype=np.float32).astype(np.float64))
        for point in (a, b)
    )
    cosine = math.sin(one[0]) * math.sin(two[0]) + math.cos(one[0]) * math.cos(two[0]) * math.cos(one[1] - two[1])
    return EARTH_RADIUS_KM * math.acos(max(-1.0, min(1.0, cosine)))


def by_hand(rows: pd.DataFrame, i: int, capacity: int) -> dict[str, float]:
    """Row i's features by name, recomputed from the rows before it. rows: in order of time."""
    row, now, features = rows.iloc[i], rows["time"].iloc[i], {}
    amount = float(np.float32(row["amount"]))
    mine = before(rows, i, "card", capacity)
    times, categories = mine["time"].to_numpy(), mine["category"].to_numpy(dtype=object)
    amounts = mine["amount"].to_numpy(dtype=np.float32).astype(np.float64)
    for window, length in {"1h": HOUR, "1d": DAY, "7d": 7 * DAY}.items():
        inside = times >= (now - length).to_datetime64()
        known = amounts[inside & ~np.isnan(amounts)]
        mean = known.mean() if len(known) else 0.0
        features[f"count by card ({window})"] = inside.sum()
        features[f"amount sum by card ({window})"] = known.sum()
        features[f"amount mean by card ({window})"] = mean
        features[f"amount std by card ({window})"] = known.std(ddof=1) if len(known) > 1 else 0.0
        features[f"amount max by card ({window})"] = known.max() if len(known) else 0.0
        features[f"amount ratio by card ({window})"] = amount / mean if mean else amount * 0.0 + 1.0
        if len(known):
            deviation = math.sqrt((spread(known) + SPREAD_PRIOR * mean**2) / (len(known) + SPREAD_PRIOR))
            features[f"amount zscore by card ({window})"] = (amount - mean) / max(deviation, 1e-9)
        else:
            features[f"amount zscore by card ({window})"] = amount * 0.0
        if window != "1h":
            seen = {category for category in categories[inside] if pd.notna(category)}
            features[f"category distinct by card ({window})"] = len(seen)
            features[f"category first_seen by card ({window})"] = float(
                pd.notna(row["category"]) and row["category"] not in seen
            )
    last = mine.iloc[-1] if len(mine) and mine["time"].iloc[-1] >= now - MEMORY["card"] else None
    age = MEMORY["card"] if last is None else now - last["time"]
    far = 0.0 if last is None else distance(row, last)
    far = 0.0 if math.isnan(far) else far
    features["time_since_last by card"] = age.total_seconds()
    features["distance_from_last by card"] = far
    features["speed_from_last by card"] = far / max(age.total_seconds() / 3600, 1 / 60)
    old = before(rows, i, "shop", len(rows))
    times, is_fraud = old["time"].to_numpy(), (old["fraud"] == 1).to_numpy(dtype=bool)
    known_since = (now - DELAY).to_datetime64()
    frauds, theirs = times[is_fraud & (times < known_since)][-capacity:], times[-capacity:]
    for window, length in {"1d": DAY, "7d": 7 * DAY}.items():
        begin = (now - DELAY - length).to_datetime64()
        n_frauds = int((frauds >= begin).sum())
        inside = (theirs >= begin) & (theirs < known_since)
        features[f"count by shop ({window})"] = (theirs >= (now - length).to_datetime64()).sum()
        features[f"frauds by shop ({window})"] = n_frauds
        features[f"risk by shop ({window})"] = n_frauds / (max(inside.sum(), n_frauds) + 1)
    return features


def check(rows: pd.DataFrame, schema: Schema = SCHEMA) -> np.ndarray:
    features, _ = replay(rows, schema)
    ordered = rows.sort_values("time", kind="stable")
    names = feature_names(schema)
    at = {row: i for i, row in enumerate(rows.index)}
    for i, row in enumerate(ordered.index):
        expected = by_hand(ordered, i, schema.history_events)
        np.testing.assert_allclose(
            features[at[row]], [expected[name] for name in names], rtol=1e-7, atol=1e-6, err_msg=f"row {row}"
        )
    return features


@pytest.mark.parametrize("capacity", [1, 5, 12, 1000])
def test_features_equal_a_plain_recomputation(rng: np.random.Generator, capacity: int) -> None:
    features = check(random_rows(rng, 400), replace(SCHEMA, history_events=capacity))
    assert capacity == 1 or np.nanmax(np.abs(features), axis=0).min() > 0, "every feature is something at least once"


@settings(max_examples=10, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 40), st.integers(1, 15))
def test_features_equal_a_plain_recomputation_on_any_rows(seed: int, n: int, days: int, capacity: int) -> None:
    check(random_rows(np.random.default_rng(seed), n, days), replace(SCHEMA, history_events=capacity))


def test_large_amounts_do_not_cancel() -> None:
    amounts = [1e6 + i % 3 for i in range(50)]
    times = pd.date_range("2026-01-01", periods=50, freq="h")
    frame = random_rows(np.random.default_rng(0), 50).assign(time=times, card="ann", amount=amounts)
    check(frame, replace(SCHEMA, history_events=200))


def test_nothing_from_the_future_is_used(rng: np.random.Generator) -> None:
    rows = random_rows(rng, 400).sort_values("time", kind="stable")
    features, _ = replay(rows, SCHEMA)
    changed = rows.copy()
    changed.loc[changed.index[200:], "amount"] *= 100
    # Labels of the last days before row 200 are not known at row 200 either, nor is its own.
    changed.loc[changed["time"] >= changed["time"].iloc[200] - DELAY, "fraud"] = 1
    after, _ = replay(changed, SCHEMA)
    np.testing.assert_array_equal(features[:200], after[:200])
    assert not np.array_equal(features[200:], after[200:])


def test_without_a_delay_a_row_does_not_see_its_own_label(rng: np.random.Generator) -> None:
    schema, rows = replace(SCHEMA, label_delay_days=0.0), random_rows(rng, 100)
    risk = feature_names(schema).index("risk by shop (7d)")
    ordered = rows.sort_values("time", kind="stable").reset_index(drop=True)
    for i in (20, 60, 99):
        flipped = ordered.assign(fraud=ordered["fraud"].where(ordered.index != i, 1 - ordered["fraud"]))
        assert replay(ordered, schema)[0][i, risk] == replay(flipped, schema)[0][i, risk]


@pytest.mark.parametrize("capacity", [2, 12])
@pytest.mark.parametrize("parts", [2, 7])
def test_stopping_and_going_on_changes_nothing(rng: np.random.Generator, parts: int, capacity: int) -> None:
    schema = replace(SCHEMA, history_events=capacity)
    rows = random_rows(rng, 600, fraud_rate=0.5).sort_values("time", kind="stable")
    at_once, _ = replay(rows, schema)
    states, stacked = (), []
    for part in np.array_split(np.arange(len(rows)), parts):
        features, states = replay(rows.iloc[part], schema, states)
        stacked.append(features)
    np.testing.assert_array_equal(np.vstack(stacked), at_once)
    assert all(len(state.events) <= len(state.keys) * (capacity + 8) for state in states)


def test_order_of_the_frame_does_not_matter(rng: np.random.Generator) -> None:
    rows = random_rows(rng, 200).drop_duplicates("time")
    shuffled = rows.sample(frac=1, random_state=0)
    features = pd.DataFrame(replay(rows, SCHEMA)[0], index=rows.index)
    again = pd.DataFrame(replay(shuffled, SCHEMA)[0], index=shuffled.index)
    pd.testing.assert_frame_equal(again.loc[rows.index], features)


def test_many_chunks_on_threads_equal_one(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = random_rows(rng, 500)
    expected, _ = replay(rows, SCHEMA)
    monkeypatch.setattr("fraud.history.replay._CHUNK", 37)
    np.testing.assert_array_equal(replay(rows, SCHEMA)[0], expected)


def test_reading_without_learning_sees_the_states_alone(rng: np.random.Generator) -> None:
    rows = random_rows(rng, 300).sort_values("time", kind="stable")
    _, states = replay(rows.iloc[:200], SCHEMA)
    features, after = replay(rows.iloc[200:], SCHEMA, states, learn=False)
    assert after is not None and all(a is b for a, b in zip(after, states, strict=True))
    for i in (0, 50, 99):
        alone, _ = replay(rows.iloc[[200 + i]], SCHEMA, states)
        np.testing.assert_array_equal(features[i], alone[0])


def test_late_rows_are_inserted_by_time_into_a_state(rng: np.random.Generator) -> None:
    """Rows older than the state's newest read what was before them, and are read by those after them."""
    schema = replace(SCHEMA, history_events=500)
    rows = random_rows(rng, 200, days=6, fraud_rate=0.0).drop_duplicates("time").sort_values("time", kind="stable")
    late = rows.index.isin(rows.index[50:150:3])
    expected = pd.DataFrame(replay(rows, schema)[0], index=rows.index)
    _, states = replay(rows[~late], schema)
    features, after = replay(rows[late], schema, states)
    np.testing.assert_array_equal(features, expected[late].to_numpy())
    _, complete = replay(rows, schema)
    for ours, theirs in zip(after, complete, strict=True):
        ours_by_key, theirs_by_key = (
            {key: s.events[s.starts[i] : s.starts[i + 1]].tobytes() for i, key in enumerate(s.keys)}
            for s in (ours, theirs)
        )
        assert ours_by_key == theirs_by_key


def test_what_can_no_longer_matter_is_forgotten(rng: np.random.Generator) -> None:
    rows = random_rows(rng, 300)
    _, states = replay(rows, SCHEMA)
    later = rows.tail(1).assign(time=rows["time"].max() + 60 * DAY, card="new", shop="new", fraud=0)
    _, after = replay(later, SCHEMA, states)
    assert [list(state.keys) for state in after] == [["new"], ["new"]]
    assert [len(state.frauds) for state in after] == [0, 0]


def test_a_missing_card_has_no_history_and_leaves_none(rng: np.random.Generator) -> None:
    rows = random_rows(rng, 100).assign(card=None)
    features, states = replay(rows, SCHEMA)
    assert (features[:, feature_names(SCHEMA).index("count by card (7d)")] == 0).all()
    assert len(states[0].keys) == 0 and len(states[1].keys) == 3


def test_names_contain_statistic_and_window() -> None:
    names = feature_names(SCHEMA)
    assert names[0] == "count by card (1h)" and names[3] == "amount sum by card (1h)"
    assert len(names) == len(set(names)) == len(feature_columns(SCHEMA)) == len(feature_transforms(SCHEMA)) == 34
    blamed = dict(zip(names, feature_columns(SCHEMA), strict=True))
    assert blamed["amount zscore by card (7d)"] == "amount" and blamed["risk by shop (1d)"] == "shop"
    assert blamed["category first_seen by card (1d)"] == "category"


def test_texts_hash_alike_in_batches_and_alone(rng: np.random.Generator) -> None:
    rows = random_rows(rng, 50, days=3)
    _, states = replay(rows, replace(SCHEMA, history_events=1000))
    assert set(states[0].events["id"].tolist()) == {
        hashed(i) for i, c in zip(rows["id"], rows["card"], strict=True) if pd.notna(c)
    }
    assert hashed(None) == hashed(np.nan) == 0 != hashed("")


def test_history_needs_a_timestamp() -> None:
    with pytest.raises(SchemaError, match="timestamp"):
        Schema(
            name="x",
            columns=(Column(name="card", kind="entity"), Column(name="amount", kind="numeric")),
            history=(History(entity="card", windows=("1d",), statistics=("count",)),),
        )
