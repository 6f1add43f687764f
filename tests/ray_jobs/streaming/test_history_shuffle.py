"""History replayed in partitions on a real Ray is one replay over everything, to the last bit."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from fraud.history.definition import feature_names, plans
from fraud.history.replay import replay
from fraud.history.snapshots.replay_start import ReplayStart
from fraud.history.state import HistoryState, is_sound
from fraud.schema import Column, History, Schema, validate
from fraud.scoring import scored
from ray_jobs.streaming import history_shuffle
from ray_jobs.streaming.checked_stream import stream_settings, tables
from ray_jobs.streaming.history_shuffle import WithHistory, with_history

pytestmark = pytest.mark.ray

ROWS, BLOCKS = 24_000, 9
SCHEMA = Schema(
    name="mixed",
    columns=(
        Column(name="number", kind="id", description="id"),
        Column(name="at", kind="timestamp", description="when"),
        Column(name="card", kind="entity", description="who", nullable=True),
        Column(name="shop", kind="entity", description="where"),
        Column(name="goods", kind="categorical", description="what", nullable=True),
        Column(name="score", kind="numeric", description="how much; a name that the scored table renames"),
        Column(name="north", kind="numeric", description="latitude", nullable=True),
        Column(name="east", kind="numeric", description="longitude", nullable=True),
        Column(name="is_fraud", kind="label", description="label"),
    ),
    history=(
        History(
            entity="card",
            windows=("1h", "1d", "7d"),
            value="score",
            statistics=("count", "sum", "mean", "std", "max", "ratio", "zscore"),
        ),
        History(entity="shop", windows=("1d", "7d"), statistics=("risk", "frauds")),
        History(entity="card", windows=("7d",), of="shop", statistics=("distinct", "first_seen", "risk")),
        History(entity="card", location=("north", "east"), statistics=("time_since_last", "speed_from_last")),
        History(entity="goods", windows=("1h",), value="score", statistics=("zscore",)),
    ),
    history_events=20,
    label_delay_days=2,
)


def made(rows: int = ROWS, seed: int = 0) -> pd.DataFrame:
    """Rows in no order of time, with ties, missing entities, values and places, an entity of very many rows, labels."""
    rng = np.random.default_rng(seed)
    minutes = rng.integers(0, 60 * 24 * 20, rows) // 5 * 5
    card = pd.Series([f"card {i}" for i in rng.zipf(1.3, rows) % 900], dtype=object)
    card[rng.random(rows) < 0.1] = None
    frame = pd.DataFrame(
        {
            "number": [f"n{i}" for i in range(rows)],
            "at": pd.Timestamp("2026-01-01") + pd.to_timedelta(minutes, unit="min"),
            "card": card,
            "shop": [f"shop {i}" for i in rng.integers(0, 60, rows)],
            "goods": rng.choice(np.array(["fuel", "food", "book", None], dtype=object), rows),
            "score": rng.lognormal(3, 1, rows).round(2),
            "north": np.where(rng.random(rows) < 0.1, np.nan, rng.uniform(40, 50, rows)),
            "east": rng.uniform(0, 10, rows),
            "is_fraud": rng.choice([0, 1, np.nan], rows, p=[0.8, 0.1, 0.1]),
        }
    )
    found = validate(frame, SCHEMA)
    assert not len(found.quarantine)
    return found.rows


def shuffled(rows: pd.DataFrame, **options: object) -> tuple[WithHistory, pd.DataFrame]:
    """Rows through Ray in several blocks, and what comes back."""
    import ray

    named = rows.rename(columns={name: scored.name_of(name) for name in rows.columns})
    named.insert(0, scored.ROW, rows.index.to_numpy())
    table = pa.Table.from_pandas(named, preserve_index=False)
    size = -(-len(table) // BLOCKS)
    with stream_settings("the rows"):
        dataset = ray.data.from_arrow([table.slice(start, size) for start in range(0, len(table), size)])
        found = with_history(dataset, SCHEMA, **options)
        back = pa.concat_tables(tables(found.dataset)).to_pandas()
    return found, back


def by_entity(state: HistoryState) -> dict[str, tuple[bytes, bytes]]:
    """The records of each entity."""
    return {
        key: (
            state.events[state.starts[i] : state.starts[i + 1]].tobytes(),
            state.frauds[state.fraud_starts[i] : state.fraud_starts[i + 1]].tobytes(),
        )
        for i, key in enumerate(state.keys)
    }


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    return made()


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many splits, and partitions that are replayed in several pieces of time."""
    monkeypatch.setattr(history_shuffle, "SHARD_ROWS", 500)
    monkeypatch.setattr(history_shuffle, "REPLAY_ROWS", 1_300)


def test_partitions_give_one_replays_features_and_states(ray_session: None, rows: pd.DataFrame, small_pieces: None):
    expected, after = replay(rows, SCHEMA)
    assert not rows["at"].is_monotonic_increasing and rows["at"].duplicated().any() and rows["card"].isna().any()
    found, back = shuffled(rows, partitions=7)
    assert found.n_partitions == 7 and found.oldest == rows["at"].min().value // 1_000
    assert back[scored.ROW].tolist() == rows.index.tolist(), "rows come back in their order"
    np.testing.assert_array_equal(back[feature_names(SCHEMA)].to_numpy(), expected)
    assert back["given_score"].tolist() == rows["score"].tolist()
    for state, wanted, plan in zip(found.states(), after, plans(SCHEMA), strict=True):
        assert is_sound(state, plan)
        assert by_entity(state) == by_entity(wanted), "also what is forgotten follows the newest row of all"


def test_a_state_is_gone_on_from(ray_session: None, rows: pd.DataFrame, small_pieces: None):
    """Half of the rows by time first; the other half of theirs finds what each partition's entities left."""
    in_time = rows.sort_values("at", kind="stable")
    _, before = replay(in_time.iloc[: ROWS // 2], SCHEMA)
    later = in_time.iloc[ROWS // 2 :].sort_index()
    expected, after = replay(later, SCHEMA, before)
    asked = []

    def begin(oldest: int) -> ReplayStart:
        asked.append(oldest)
        return ReplayStart(states=before)

    found, back = shuffled(later, partitions=4, begin=begin)
    np.testing.assert_array_equal(back[feature_names(SCHEMA)].to_numpy(), expected)
    assert asked == [later["at"].min().value // 1_000]
    assert [by_entity(state) for state in found.states()] == [by_entity(state) for state in after]


def test_a_day_has_the_features_of_all_rows_before_it(ray_session: None, rows: pd.DataFrame):
    expected, _ = replay(rows, SCHEMA)
    day = pd.Timestamp("2026-01-14")
    wanted = (rows["at"].dt.normalize() == day).to_numpy()
    found, back = shuffled(rows, date=day.date())
    assert found.n_partitions == 1, "so few rows need no partitions"
    notes = back.pop("_note").dropna()
    back = back[back[scored.ROW].notna()]
    others = [sum(json.loads(note)["outside"].values()) for note in notes]
    assert sum(others) == (~wanted).sum()
    assert back[scored.ROW].tolist() == rows.index[wanted].tolist()
    np.testing.assert_array_equal(back[feature_names(SCHEMA)].to_numpy(), expected[wanted])


def test_an_id_and_a_label_are_not_needed(ray_session: None, rows: pd.DataFrame):
    bare = replace(
        SCHEMA,
        columns=tuple(column for column in SCHEMA.columns if column.kind not in ("id", "label")),
        history=(SCHEMA.history[0],),
    )
    few = rows.head(2_000).drop(columns=["number", "is_fraud"])
    expected, _ = replay(few, bare)
    import ray

    named = few.rename(columns=scored.name_of).assign(row=few.index)
    found = with_history(ray.data.from_pandas(named), bare, partitions=3)
    back = found.dataset.to_pandas().sort_values(scored.ROW)
    np.testing.assert_array_equal(back[feature_names(bare)].to_numpy(), expected)
