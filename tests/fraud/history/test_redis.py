"""A real redis-server on loopback: replicas share one history, a restart keeps it, an outage is answered without it."""

from __future__ import annotations

import logging
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import redis

from fraud.data.simulation import cards
from fraud.errors import ConfigError, StoreError
from fraud.history.definition import feature_names, plans
from fraud.history.online import OnlineHistory
from fraud.history.replay import replay
from fraud.history.stores.redis import RedisStore
from fraud.schema import Schema
from fraud.schema.validation import validate
from fraud.scoring.engine import Engine
from tests.fraud.conftest import Fitted
from tests.fraud.histories import SCHEMA, number, one_by_one, random_rows
from tests.fraud.history.test_node import assert_late_records_join
from tests.fraud.history.test_stores import DAY, HOUR, NOW, row

PASSWORD = "never-in-a-log"


class Server:
    """A redis-server of our own, without persistence."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.folder = folder
        self.url = f"redis://:{PASSWORD}@127.0.0.1:{self.port}/0"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [
            "redis-server", "--bind", "127.0.0.1", "--port", str(self.port), "--requirepass", PASSWORD,
            "--save", "", "--appendonly", "no", "--dir", str(self.folder),
        ]  # fmt: skip
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        for _ in range(200):
            try:
                self.client().ping()
                return
            except redis.ConnectionError:
                time.sleep(0.05)
        raise RuntimeError("redis-server did not start")

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(10)
            self.process = None

    def client(self) -> redis.Redis:
        return redis.Redis.from_url(self.url)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed (Debian: apt-get install redis-server)")
    server = Server(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def server(running: Server) -> Server:
    if running.process is None:
        running.start()
    running.client().flushall()
    return running


def opened(server: Server, schema: Schema = SCHEMA, **options: object) -> RedisStore:
    return RedisStore(server.url, plans(schema), timeout_ms=5000, **options)  # type: ignore[arg-type]


def test_rows_one_by_one_get_the_features_of_a_batch(server: Server, rng: np.random.Generator) -> None:
    rows = random_rows(rng, 1000, days=90)
    expected, _ = replay(rows, SCHEMA)
    np.testing.assert_array_equal(one_by_one(rows, SCHEMA, opened(server)), expected)


def test_cards_row_by_row_equal_the_batch_over_seeding_and_a_new_connection(server: Server) -> None:
    schema = Schema.load("handbook")
    rows = validate(cards(4_500, seed=3), schema).rows.sort_values("TX_DATETIME", kind="stable")
    expected, _ = replay(rows, schema)
    _, states = replay(rows.iloc[:1500], schema)
    first, second = opened(server, schema), opened(server, schema)
    assert first.seed(states) == sum(len(state.keys) for state in states)
    assert second.seed(states) == 0, "one replica seeds"
    features = [one_by_one(rows.iloc[1500:3000], schema, first), one_by_one(rows.iloc[3000:], schema, second)]
    np.testing.assert_array_equal(np.vstack(features), expected[1500:])


def test_replicas_that_start_together_seed_each_entity_once(
    server: Server, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fraud.history.stores.redis._SEED_ENTITIES", 7)
    rows = random_rows(rng, 3000).assign(card=[f"card {i % 500}" for i in range(3000)])
    _, states = replay(rows, SCHEMA)
    entered = []
    threads = [threading.Thread(target=lambda: entered.append(opened(server).seed(states))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(entered) == sum(len(state.keys) for state in states)
    client = server.client()
    events = sum(client.llen(key) for key in client.scan_iter("*:e:*"))
    assert events == sum(len(state.events) for state in states)
    assert sum(client.zcard(key) for key in client.scan_iter("*:f:*")) == sum(len(s.frauds) for s in states)


def test_two_replicas_at_once_lose_and_double_nothing(server: Server) -> None:
    schema = replace(SCHEMA, history_events=2000)
    history, entity_plans = OnlineHistory(schema), plans(schema)

    def replica(n: int) -> None:
        store = opened(server, schema)
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
    (events, _), (theirs, _) = opened(server, schema).peek(history.visits(row("new"), NOW, number))
    ids = np.frombuffer(events, dtype=entity_plans[0].record)["id"]
    assert len(ids) == 600 == len(set(ids.tolist())) == len(theirs) // entity_plans[1].record.itemsize


def test_late_rows_and_late_records_are_inserted_by_time(server: Server, rng: np.random.Generator) -> None:
    assert_late_records_join(opened(server), rng)
    history, store = OnlineHistory(SCHEMA), opened(server, namespace="late")
    for minutes in (5, 1, 3, 9, 2):
        history.exchange(history.visits(row(f"{minutes}"), NOW + minutes, number), store)
    (events, _), _ = store.peek(history.visits(row("asks"), NOW, number))
    assert (np.frombuffer(events, plans(SCHEMA)[0].record)["time"] - NOW).tolist() == [1, 2, 3, 5, 9]


def test_logs_are_trimmed_and_expire(server: Server) -> None:
    history, store = OnlineHistory(SCHEMA), opened(server)
    for i in range(50):
        history.exchange(history.visits(row(f"t{i}"), NOW + i, number), store)
        history.learn_fraud(row(f"t{i}"), NOW + i, store)
    client, plan = server.client(), plans(SCHEMA)[0]
    (key,) = client.scan_iter(f"fraud:{plan.fingerprint}:e:ann")
    assert client.llen(key) == plan.store_capacity
    lives = [client.ttl(name) for name in client.scan_iter("fraud:*:[ef]:*")]
    assert len(lives) == 3 and all(8 * 86_400 - 60 < life <= 10 * 86_400 for life in lives)


def test_frauds_and_retractions_are_shared(server: Server) -> None:
    history, one, two = OnlineHistory(SCHEMA), opened(server), opened(server)
    frauds = feature_names(SCHEMA).index("frauds by shop (7d)")
    for _ in range(2):
        history.learn_fraud(row("a"), NOW, one)
    later = history.visits(row("b"), NOW + 2 * DAY + HOUR, number)
    assert history.read(later, two)[frauds] == 1
    history.learn_fraud(row("a"), NOW, two, is_fraud=False)
    assert history.read(later, one)[frauds] == 0


def test_models_of_another_name_do_not_mix(server: Server) -> None:
    history = OnlineHistory(SCHEMA)
    visits = history.visits(row("a"), NOW, number)
    history.exchange(visits, opened(server))
    assert opened(server, namespace="other").peek(visits)[0].events == b""
    assert opened(server).peek(visits)[0].events == visits[0].record


def test_an_outage_is_answered_with_the_models_own_history_and_ends(
    server: Server, card_detector: Fitted, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    detector = card_detector.detector
    store = RedisStore(server.url, plans(detector.schema), timeout_ms=2000)
    engine, alone = Engine(detector, store=store), Engine(detector)
    request = card_detector.rows.iloc[-1].to_dict() | {"TRANSACTION_ID": "new", "TX_DATETIME": "2025-06-01T12:00:00"}
    assert engine.score_row(request).is_history_live
    server.stop()
    with caplog.at_level(logging.WARNING):
        answers = [engine.score_row(request) for _ in range(5)]
    assert all(not answer.is_history_live for answer in answers)
    assert {answer.score for answer in answers} == {alone.score_row(request).score}
    messages = [record.message for record in caplog.records if "Redis" in record.message]
    assert len(messages) == 1 and f"127.0.0.1:{server.port}" in messages[0] and PASSWORD not in caplog.text
    with pytest.raises(StoreError):
        engine.learn_fraud(request)
    server.start()
    monkeypatch.setattr(store, "_closed_until", 0.0)  # as after a second
    assert engine.score_row(request).is_history_live


def test_a_redis_that_hangs_is_not_waited_for() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        store = RedisStore(f"redis://127.0.0.1:{silent.getsockname()[1]}", plans(SCHEMA), timeout_ms=30)
        history = OnlineHistory(SCHEMA)
        visits = history.visits(row("a"), NOW, number)
        with pytest.raises(StoreError, match="Timeout"):
            history.exchange(visits, store)
        with pytest.raises(StoreError, match="a moment ago"):
            history.exchange(visits, store)


def test_errors_about_password_and_url_do_not_show_them(server: Server) -> None:
    wrong = RedisStore(server.url.replace(PASSWORD, "secret-guess"), plans(SCHEMA))
    with pytest.raises(StoreError) as caught:
        wrong.ping()
    assert "127.0.0.1" in str(caught.value) and "secret-guess" not in str(caught.value)
    with pytest.raises(ConfigError) as refused:
        RedisStore("http://:secret-guess@127.0.0.1", plans(SCHEMA))
    assert "FRAUD_HISTORY_URL" in str(refused.value) and "secret-guess" not in str(refused.value)
