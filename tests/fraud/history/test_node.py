"""One LMDB file that processes share: the features of a batch, no lost event, killed writers, full disks, damage."""

from __future__ import annotations

import logging
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fraud.data.simulation import cards
from fraud.errors import StoreError
from fraud.history.definition import feature_names, plans
from fraud.history.online import OnlineHistory
from fraud.history.replay import replay
from fraud.history.state import HistoryState
from fraud.history.stores.environment import Environment
from fraud.history.stores.memory import MemoryStore
from fraud.history.stores.node import NodeStore
from fraud.history.stores.store import LiveStore, Visit
from fraud.schema import Schema
from fraud.schema.validation import validate
from tests.fraud.histories import SCHEMA, number, one_by_one, random_rows
from tests.fraud.history.test_stores import DAY, HOUR, NOW, row

# Another replica: enters transactions t0, t1, ... of its own until it is killed, and says so once it has begun.
WRITER = """
import sys
from pathlib import Path
from fraud.history.definition import plans
from fraud.history.online import OnlineHistory
from fraud.history.stores.node import NodeStore
from tests.fraud.histories import SCHEMA, number
from tests.fraud.history.test_stores import NOW, row
folder, name, n = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
store, history = NodeStore(folder, plans(SCHEMA)), OnlineHistory(SCHEMA)
for i in range(n):
    history.exchange(history.visits(row(f"{name} {i}", card=f"card {i % 7}"), NOW + i, number), store)
    if i == 20:
        print("begun", flush=True)
"""


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[list[NodeStore]]:
    opened: list[NodeStore] = []
    yield opened
    for store in opened:
        store.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "live"


def opened(folder: Path, stores: list[NodeStore], schema: Schema = SCHEMA) -> NodeStore:
    stores.append(NodeStore(folder, plans(schema)))
    return stores[-1]


def writer(folder: Path, name: str, n: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(folder), name, str(n)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(Path.cwd())}
    )


def seen(store: NodeStore, **values: object) -> dict[str, float]:
    """The features of a row that is not remembered."""
    history = OnlineHistory(SCHEMA)
    features = history.read(history.visits(row("asks", **values), NOW + HOUR, number), store)
    return dict(zip(feature_names(SCHEMA), features.tolist(), strict=True))


def test_rows_one_by_one_get_the_features_of_a_batch(folder: Path, stores: list[NodeStore], rng: np.random.Generator):
    rows = random_rows(rng, 1500, days=90)
    expected, _ = replay(rows, SCHEMA)
    np.testing.assert_array_equal(one_by_one(rows, SCHEMA, opened(folder, stores)), expected)


def test_cards_row_by_row_equal_the_batch_over_seeding_and_a_restart(folder: Path, stores: list[NodeStore]):
    schema = Schema.load("handbook")
    rows = validate(cards(4_500, seed=3), schema).rows.sort_values("TX_DATETIME", kind="stable")
    expected, _ = replay(rows, schema)
    _, states = replay(rows.iloc[:1500], schema)
    first = opened(folder, stores, schema)
    assert first.seed(states) == sum(len(state.keys) for state in states)
    assert first.seed(states) == 0, "twice is as once"
    features = one_by_one(rows.iloc[1500:3000], schema, first)
    first.close()
    second = opened(folder, stores, schema)
    features = np.vstack([features, one_by_one(rows.iloc[3000:], schema, second)])
    np.testing.assert_array_equal(features, expected[1500:])
    assert (folder / "data.mdb").stat().st_mode & 0o077 == 0, "for our own eyes only"


def assert_late_records_join(store: LiveStore, rng: np.random.Generator) -> None:
    """Live rows come first, what was before them later: as after an emptied store is begun anew."""
    rows = random_rows(rng, 600, days=20).sort_values("time", kind="stable").drop_duplicates("time")
    n = len(rows) // 2
    _, complete = replay(rows, SCHEMA)
    _, earlier = replay(rows.iloc[: n + 20], SCHEMA)  # 20 of them are in both
    one_by_one(rows.iloc[n:], SCHEMA, store)
    store.seed(earlier)
    for plan, state in enumerate(complete):
        for i, key in enumerate(state.keys.tolist()):
            events, frauds = store.peek([Visit(plan, key, b"")])[0]
            capacity = plans(SCHEMA)[plan].capacity * state.events.itemsize
            expected = state.events[state.starts[i] : state.starts[i + 1]].tobytes()
            assert events[-capacity:] == expected[-capacity:]
            known = state.frauds[state.fraud_starts[i] : state.fraud_starts[i + 1]].tobytes()
            assert frauds.endswith(known) or not plans(SCHEMA)[plan].keeps_frauds


def test_late_records_are_inserted_by_time_and_ids_count_once(
    folder: Path, stores: list[NodeStore], rng: np.random.Generator
):
    assert_late_records_join(opened(folder, stores), np.random.default_rng(1))
    assert_late_records_join(MemoryStore(plans(SCHEMA)), rng)


def test_processes_and_threads_at_once_lose_and_double_nothing(folder: Path, stores: list[NodeStore]):
    schema = replace(SCHEMA, history_events=2000)
    store, history = opened(folder, stores, schema), OnlineHistory(schema)

    def replica(n: int) -> None:
        for i in range(200):
            visits = history.visits(row(f"{n} {i}"), NOW + i, number)
            history.exchange(visits, store)
            if i % 10 == 0:
                history.exchange(visits, store)  # a client that retries

    threads = [threading.Thread(target=replica, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    events, _ = store.peek(history.visits(row("new"), NOW, number))[0]
    ids = np.frombuffer(events, dtype=plans(schema)[0].record)["id"]
    assert len(ids) == 600 == len(set(ids.tolist()))


def test_a_killed_writer_blocks_nobody_and_loses_nothing(folder: Path, stores: list[NodeStore]):
    store = opened(folder, stores)
    for round_ in range(3):
        process = writer(folder, f"round {round_}", 1_000_000)
        assert process.stdout is not None and process.stdout.readline() == "begun\n"
        time.sleep(0.05)  # in the middle of an exchange, more often than not
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        began = time.monotonic()
        assert seen(store, card="card 3")["count by card (1d)"] > 0, "what the other process entered"
        history = OnlineHistory(SCHEMA)
        history.exchange(history.visits(row(f"mine {round_}", card="mine"), NOW + round_, number), store)
        store.maintain()
        assert time.monotonic() - began < 5
    assert seen(store, card="mine")["count by card (1d)"] == 3


def test_replicas_of_two_processes_see_each_others_transactions(folder: Path, stores: list[NodeStore]):
    process = writer(folder, "theirs", 40)
    assert process.communicate(timeout=60)[0] == "begun\n" and process.returncode == 0
    store = opened(folder, stores)
    assert seen(store, card="card 3")["count by card (1d)"] == 6
    assert seen(store, shop="s1")["count by shop (1d)"] == SCHEMA.history_events


def test_frauds_are_entered_once_and_taken_out(folder: Path, stores: list[NodeStore]):
    store, history = opened(folder, stores), OnlineHistory(SCHEMA)
    frauds = feature_names(SCHEMA).index("frauds by shop (7d)")
    for _ in range(2):
        history.learn_fraud(row("a"), NOW, store)
    later = history.visits(row("b"), NOW + 2 * DAY + HOUR, number)
    assert history.read(later, store)[frauds] == 1
    history.learn_fraud(row("a"), NOW, store, is_fraud=False)
    assert history.read(later, store)[frauds] == 0


def test_a_successors_frauds_are_entered_each_once(folder: Path, stores: list[NodeStore], rng: np.random.Generator):
    _, known = replay(random_rows(rng, 300, days=5), SCHEMA)
    n_frauds = sum(len(state.frauds) for state in known)
    assert n_frauds > 20
    for store in (opened(folder, stores), MemoryStore(plans(SCHEMA))):
        store.enter_frauds([replace(state, frauds=state.frauds[:0], fraud_starts=state.starts * 0) for state in known])
        assert store.enter_frauds(known) == n_frauds
        assert store.enter_frauds(known) == 0


def test_long_and_odd_names_of_entities_have_their_own_history(folder: Path, stores: list[NodeStore]):
    store, history = opened(folder, stores), OnlineHistory(SCHEMA)
    names = ["é" * 300, "é" * 299 + "e", "\ud800", "\0", "a" * 5000]
    for name in names:
        history.exchange(history.visits(row(name, card=name), NOW, number), store)
    assert [seen(store, card=name)["count by card (1d)"] for name in names] == [1.0] * len(names)
    assert store.erase(0, names[0]) and not store.erase(0, names[0])
    assert seen(store, card=names[0])["count by card (1d)"] == 0 and seen(store, card=names[1])["count by card (1d)"]


def test_idle_entities_are_swept_in_small_steps(folder: Path, stores: list[NodeStore], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("fraud.history.stores.node._SWEPT", 10)
    store, history = opened(folder, stores), OnlineHistory(SCHEMA)
    for i in range(40):
        request = row(f"{i}", card=f"idle {i}", shop=f"idle {i}")
        history.exchange(history.visits(request, NOW, number), store)
        history.learn_fraud(request, NOW, store)
    history.exchange(history.visits(row("new"), NOW + 30 * DAY, number), store)

    def remembered() -> int:
        visits = [Visit(plan, f"idle {i}", b"") for i in range(40) for plan in (0, 1)]
        return sum(bool(records) for each in store.peek(visits) for records in each)

    assert remembered() == 120, "events of both plans, frauds of the shops"
    store.maintain()
    assert remembered() == 110, "a step is small"
    for _ in range(20):
        store.maintain()
    assert remembered() == 0 and any(store.peek([Visit(0, "ann", b"")])[0])


@pytest.mark.parametrize("spoil", ["cut", "noise", "other"])
def test_a_damaged_file_is_logged_renamed_and_replaced(
    folder: Path, stores: list[NodeStore], spoil: str, caplog: pytest.LogCaptureFixture
):
    store, history = opened(folder, stores), OnlineHistory(SCHEMA)
    for i in range(2000):
        history.exchange(history.visits(row(f"{i}", card=f"card {i}"), NOW, number), store)
    store.close()
    path = folder / "data.mdb"
    content = path.read_bytes()
    damage = {
        "cut": content[: len(content) // 2],
        "noise": content[:8192] + os.urandom(len(content) - 8192),
        "other": b"not a database" * 1000,
    }
    path.write_bytes(damage[spoil])
    (folder / "boot").write_text("before the power cut")
    with caplog.at_level(logging.ERROR):
        assert seen(opened(folder, stores), card="card 3")["count by card (1d)"] == 0
    assert "damaged" in caplog.text and len(list(folder.glob("damaged-*"))) == 1


def test_a_restarted_machine_goes_on_with_a_sound_file(folder: Path, stores: list[NodeStore]):
    store, history = opened(folder, stores), OnlineHistory(SCHEMA)
    history.exchange(history.visits(row("a"), NOW, number), store)
    store.close()
    (folder / "boot").write_text("before the power cut")
    assert seen(opened(folder, stores))["count by card (1d)"] == 1


def test_a_full_disk_is_an_error_and_the_store_goes_on_after_it(
    folder: Path, stores: list[NodeStore], caplog: pytest.LogCaptureFixture
):
    store, history = opened(folder, stores), OnlineHistory(SCHEMA)
    history.exchange(history.visits(row("before", card="first"), NOW, number), store)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, ((folder / "data.mdb").stat().st_size, limits[1]))
    try:
        with pytest.raises(StoreError, match="free space"):
            for i in range(5000):
                history.exchange(history.visits(row(f"{i}", card=f"card {i}"), NOW, number), store)
        assert seen(store, card="first")["count by card (1d)"] == 1, "reading goes on"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caplog.text.count("free space") == 1, "said once an outage"
    history.exchange(history.visits(row("after", card="first"), NOW, number), store)
    assert seen(store, card="first")["count by card (1d)"] == 2


def test_a_folder_that_cannot_be_used_is_an_error_with_a_remedy(tmp_path: Path, stores: list[NodeStore]):
    (tmp_path / "file").write_text("")
    store = opened(tmp_path / "file" / "live", stores)
    with pytest.raises(StoreError, match="local disk"):
        store.peek([Visit(0, "ann", b"")])
    with pytest.raises(StoreError, match="a moment ago"):
        store.peek([Visit(0, "ann", b"")])


def test_a_removed_file_and_a_step_back_in_time_are_noticed(folder: Path, stores: list[NodeStore]):
    store, history = opened(folder, stores), OnlineHistory(SCHEMA)
    history.exchange(history.visits(row("a"), NOW, number), store)
    store.put("begun", b"1")
    assert store.maintain() == [] and store.maintain() == []
    store.put("beat", (1).to_bytes(8, "little"))
    assert store.maintain() == ["went back in time"] and store.maintain() == []
    for path in folder.glob("*.mdb"):
        path.unlink()
    assert store.maintain() == ["was removed"] and store.get("begun") is None and store.newest is not None
    history.exchange(history.visits(row("b"), NOW, number), store)
    assert store.maintain() == [] and seen(store)["count by card (1d)"] == 1


def test_one_process_leads_until_it_ends(folder: Path, stores: list[NodeStore]):
    first, second = opened(folder, stores), opened(folder, stores)
    assert first.lease("labels", 10) and first.lease("labels", 10)
    assert not second.lease("labels", 10) and second.lease("other", 10)
    first.release("labels")
    assert second.lease("labels", 10)


def test_a_file_is_opened_once_a_process_and_closed_with_its_last_user(folder: Path):
    first, second = NodeStore(folder, plans(SCHEMA)), NodeStore(folder, plans(replace(SCHEMA, history_events=5)))
    assert first.newest is None and second.newest is None
    environment: Environment | None = first._environment
    assert environment is not None and environment is second._environment
    first.close()
    assert second.get("x") is None
    second.close()
    empty = [HistoryState.empty(plan) for plan in plans(SCHEMA)]
    third = NodeStore(folder, plans(SCHEMA))
    assert third.seed(empty) == 0
    third.close()
