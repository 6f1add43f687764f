"""Rows one by one get the features of a batch, exactly; late, repeated, idle and forgotten rows do as documented."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fraud.data import tables
from fraud.data.simulation import cards
from fraud.errors import StoreError
from fraud.history.definition import EntityPlan, feature_names, plans
from fraud.history.online import OnlineHistory
from fraud.history.records import microseconds_since_epoch
from fraud.history.replay import replay
from fraud.history.stores.memory import MemoryStore
from fraud.history.stores.store import Snapshot, Visit
from fraud.schema import Schema
from fraud.schema.validation import validate
from fraud.settings import Settings
from tests.fraud.histories import SCHEMA, number, one_by_one, random_rows

HOUR, DAY = 3_600_000_000, 86_400_000_000
NOW = 1_700_000_000_000_000


def row(name: str, **values: object) -> dict[str, object]:
    return {"id": name, "card": "ann", "shop": "s1", "amount": 10.0, "category": "food"} | values


class Desk:
    """One store with its reader; `see` sends a row and names the features."""

    def __init__(self, schema: Schema = SCHEMA, store: MemoryStore | None = None) -> None:
        self.schema = schema
        self.store = store or MemoryStore(plans(schema))
        self.history = OnlineHistory(schema)

    def see(self, name: str, now: int, **values: object) -> dict[str, float]:
        request = row(name, **values)
        features = self.history.exchange(self.history.visits(request, now, number), self.store)
        return dict(zip(feature_names(self.schema), features.tolist(), strict=True))

    def events(self, plan: int = 0) -> int:
        return len(self.store.states()[plan].events)


@pytest.fixture
def desk() -> Desk:
    return Desk()


def copied(store: MemoryStore, entity_plans: tuple[EntityPlan, ...], path: Path) -> MemoryStore:
    store.save(path)
    return MemoryStore.load(path, entity_plans)


@pytest.mark.parametrize("capacity", [1, 12, 300])
def test_rows_one_by_one_get_the_features_of_a_batch(rng: np.random.Generator, capacity: int) -> None:
    schema = replace(SCHEMA, history_events=capacity)
    rows = random_rows(rng, 1500, days=120)
    expected, _ = replay(rows, schema)
    np.testing.assert_array_equal(one_by_one(rows, schema, MemoryStore(plans(schema))), expected)


@pytest.mark.slow
def test_a_month_of_cards_row_by_row_equals_the_batch(tmp_path: Path) -> None:
    """200,000 transactions, with a restart in the middle."""
    schema = Schema.load("handbook")
    rows = validate(cards(200_000, seed=3), schema).rows.sort_values("TX_DATETIME", kind="stable")
    expected, _ = replay(rows, schema)
    store = MemoryStore(plans(schema))
    first = one_by_one(rows.iloc[:100_000], schema, store)
    second = one_by_one(rows.iloc[100_000:], schema, copied(store, plans(schema), tmp_path / "saved"))
    np.testing.assert_array_equal(np.vstack([first, second]), expected)


@pytest.mark.slow
def test_the_published_transactions_row_by_row_equal_the_batch() -> None:
    files = sorted(Settings.from_environment().shared_data.glob("handbook*.parquet"))
    if not files:
        pytest.skip("no handbook*.parquet in FRAUD_SHARED_DATA")
    schema = Schema.load("handbook")
    rows = validate(next(tables.iter_frames(str(files[0]), 200_000)), schema).rows
    expected, _ = replay(rows, schema)
    np.testing.assert_array_equal(one_by_one(rows, schema, MemoryStore(plans(schema))), expected)


def test_a_restart_and_the_models_own_history_change_nothing(rng: np.random.Generator, tmp_path: Path) -> None:
    rows = random_rows(rng, 900, days=60).sort_values("time", kind="stable")
    expected, _ = replay(rows, SCHEMA)
    entity_plans = plans(SCHEMA)
    _, states = replay(rows.iloc[:300], SCHEMA)
    store = MemoryStore(entity_plans, states)
    middle = one_by_one(rows.iloc[300:600], SCHEMA, store)
    store = copied(store, entity_plans, tmp_path / "saved")
    end = one_by_one(rows.iloc[600:], SCHEMA, store)
    np.testing.assert_array_equal(np.vstack([middle, end]), expected[300:])


def test_the_snapshot_reads_as_a_batch_that_learns_nothing(rng: np.random.Generator) -> None:
    rows = random_rows(rng, 400).sort_values("time", kind="stable")
    _, states = replay(rows.iloc[:300], SCHEMA)
    newer = rows.iloc[300:]
    expected, _ = replay(newer, SCHEMA, states, learn=False)
    history, snapshot = OnlineHistory(SCHEMA), Snapshot(states)
    times = microseconds_since_epoch(newer["time"])
    plain = newer.astype(object).where(newer.notna(), None)
    for i, request in enumerate(plain.to_dict("records")):
        now = int(times[i])
        np.testing.assert_array_equal(history.read(history.visits(request, now, number), snapshot), expected[i])


def test_a_late_row_reads_its_own_past_and_joins_it(desk: Desk) -> None:
    desk.see("a", NOW, amount=10.0)
    desk.see("c", NOW + 2 * HOUR, amount=99.0)
    late = desk.see("b", NOW + HOUR, amount=20.0)
    assert (late["count by card (1d)"], late["amount sum by card (1d)"]) == (1, 10)
    after = desk.see("d", NOW + 3 * HOUR)
    assert (after["count by card (1d)"], after["amount sum by card (1d)"]) == (3, 129)
    assert after["time_since_last by card"] == 3600


def test_a_retry_gets_the_same_answer_and_counts_once(desk: Desk) -> None:
    desk.see("a", NOW)
    first = desk.see("b", NOW + HOUR, amount=30.0)
    desk.see("c", NOW + HOUR, amount=50.0)  # at the same time, but after it
    assert desk.see("b", NOW + HOUR, amount=30.0) == first
    assert desk.see("b", NOW + HOUR, amount=30.0) == first
    assert desk.events() == 3
    assert desk.see("d", NOW + 2 * HOUR)["count by card (1d)"] == 3


def test_rows_without_an_id_are_never_taken_for_repeats(desk: Desk) -> None:
    for _ in range(3):
        features = desk.see("x", NOW, id=None)
    assert features["count by card (1d)"] == 2


def test_a_missing_card_has_no_history_and_leaves_none(desk: Desk) -> None:
    desk.see("a", NOW)
    features = desk.see("b", NOW + HOUR, card=None)
    assert features["count by card (7d)"] == 0 and features["count by shop (7d)"] == 1
    assert (desk.events(0), desk.events(1)) == (1, 2)


def test_only_the_newest_events_are_stored(desk: Desk) -> None:
    for i in range(200):
        features = desk.see(f"t{i}", NOW + i)
    assert features["count by card (7d)"] == SCHEMA.history_events
    assert desk.events() == plans(SCHEMA)[0].store_capacity == SCHEMA.history_events + 8


def test_old_events_and_idle_cards_vanish(desk: Desk) -> None:
    for i in range(5):
        desk.see(f"t{i}", NOW + i)
        desk.see(f"idle{i}", NOW + i, card=f"idle {i}")
    desk.see("u", NOW + 8 * DAY)
    assert len(desk.store.states()[0].events) == 6, "its own old events are gone, idle cards get one memory of grace"
    desk.see("v", NOW + 16 * DAY)
    assert desk.store.states()[0].keys.tolist() == ["ann"]
    assert desk.store.n_entities == 2 and desk.store.n_bytes < 200


def test_a_fraud_counts_once_its_delay_is_over_and_once_only(desk: Desk) -> None:
    desk.see("a", NOW)
    for _ in range(3):
        desk.history.learn_fraud(row("a"), NOW, desk.store)
    assert desk.see("b", NOW + 2 * DAY)["frauds by shop (7d)"] == 0
    features = desk.see("c", NOW + 2 * DAY + 1)
    assert features["frauds by shop (7d)"] == 1 and features["risk by shop (7d)"] == 0.5
    assert desk.see("d", NOW + 10 * DAY)["frauds by shop (7d)"] == 0, "out of the window"
    desk.history.learn_fraud(row("a"), NOW, desk.store, is_fraud=False)
    assert desk.see("e", NOW + 2 * DAY + 2)["frauds by shop (7d)"] == 0


def test_a_row_from_the_future_is_answered_but_not_remembered(desk: Desk) -> None:
    desk.see("a", NOW)
    for i in range(50):
        desk.see(f"f{i}", NOW + 200 * 365 * DAY)
    assert desk.events() == 1
    assert desk.see("b", NOW + HOUR)["count by card (1d)"] == 1


def test_concurrent_requests_lose_and_double_nothing() -> None:
    desk = Desk(replace(SCHEMA, history_events=2000))
    threads = [
        threading.Thread(target=lambda n=n: [desk.see(f"{n} {i}", NOW + i, card=f"card {i % 3}") for i in range(300)])
        for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    state = desk.store.states()[0]
    assert len(state.events) == 1200 == len(set(state.events["id"].tolist()))


def test_disordered_and_doubled_records_read_as_sorted_single_ones(rng: np.random.Generator) -> None:
    """What two replicas may leave in Redis."""

    class Shuffled(MemoryStore):
        def exchange(self, visits: list[Visit]) -> list:  # type: ignore[override, type-arg]
            results = []
            for visit, remembered in zip(visits, super().exchange(visits), strict=True):
                width = len(visit.record)
                records = [remembered.events[k : k + width] for k in range(0, len(remembered.events), width)]
                doubled = [*records, *records[: len(records) // 2]]
                results.append(remembered._replace(events=b"".join(rng.permutation(np.array(doubled, dtype=object)))))
            return results

    rows = random_rows(rng, 500).drop_duplicates("time")
    expected, _ = replay(rows, SCHEMA)
    np.testing.assert_array_equal(one_by_one(rows, SCHEMA, Shuffled(plans(SCHEMA))), expected)


def test_a_newer_models_history_joins_the_saved_one(rng: np.random.Generator, tmp_path: Path) -> None:
    rows = random_rows(rng, 600, days=20).sort_values("time", kind="stable")
    rows["time"] += pd.to_timedelta(np.arange(600), unit="s")  # no ties across the cut
    expected, _ = replay(rows, SCHEMA)
    store = MemoryStore(plans(SCHEMA))
    one_by_one(rows.iloc[:200], SCHEMA, store)
    store.save(tmp_path / "saved")
    _, trained_on = replay(rows.iloc[:400], SCHEMA)  # the replica was down meanwhile, and a model was trained
    store = MemoryStore.load(tmp_path / "saved", plans(SCHEMA), trained_on)
    np.testing.assert_array_equal(one_by_one(rows.iloc[400:], SCHEMA, store), expected[400:])


def test_a_changed_plan_begins_with_the_models_history(rng: np.random.Generator, tmp_path: Path) -> None:
    rows = random_rows(rng, 100)
    store = MemoryStore(plans(SCHEMA))
    one_by_one(rows, SCHEMA, store)
    store.save(tmp_path / "saved")
    other = replace(SCHEMA, history_events=33)
    _, states = replay(rows.head(3), other)
    loaded = MemoryStore.load(tmp_path / "saved", plans(other), states).states()
    assert [len(state.events) for state in loaded] == [len(state.events) for state in states]


@pytest.mark.parametrize("spoil", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b[:-8] + b"\xff" * 8])
def test_a_damaged_file_is_refused_by_name(desk: Desk, tmp_path: Path, spoil: Callable[[bytes], bytes]) -> None:
    desk.see("a", NOW)
    desk.see("b", NOW + 1)
    path = tmp_path / "saved"
    desk.store.save(path)
    assert path.stat().st_mode & 0o077 == 0, "for our own eyes only"
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(StoreError, match="saved"):
        MemoryStore.load(path, plans(SCHEMA))
    assert [p.name for p in tmp_path.iterdir()] == ["saved"], "no draft is left behind"


def test_plans_share_a_state_exactly_when_they_remember_the_same() -> None:
    prints = [plan.fingerprint for plan in plans(SCHEMA)]
    assert len(set(prints)) == 2
    fewer = replace(SCHEMA, history=tuple(h for h in SCHEMA.history if h.of is None))
    assert [plan.fingerprint for plan in plans(fewer)] != prints
    reordered = replace(SCHEMA, history=(replace(SCHEMA.history[0], statistics=("mean",)), *SCHEMA.history[1:]))
    assert [plan.fingerprint for plan in plans(reordered)] == prints
    assert pd.Series(prints).str.fullmatch("[0-9a-f]{12}").all()
