"""How a live history begins, is handed over, and comes back after a loss; with the node's store and a real Redis."""

from __future__ import annotations

import datetime as dt
import logging
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from starlette.testclient import TestClient

from fraud.data.simulation import cards
from fraud.errors import ConfigError
from fraud.history.definition import plans
from fraud.history.snapshots.days import Snapshots
from fraud.history.state import HistoryState
from fraud.history.stores.store import Visit
from fraud.schema import validate
from fraud.scoring import bundle
from fraud.scoring.detector import Detector
from fraud.settings import Settings
from serve_app.history.bootstrap import HistoryContext
from serve_app.history.live import BEHIND, LiveHistory
from serve_app.replica import Replica
from tests.fraud.history.test_redis import Server, running  # noqa: F401 - a fixture
from tests.serve_app.test_replica import running as replica_running

pytestmark = pytest.mark.slow  # processes of their own, Redis among them

Requests = dict[str, Mapping[str, object]]
FRAUDS = 148


@pytest.fixture
def redis_server(running: Server) -> Server:  # noqa: F811
    if running.process is None:
        running.start()
    running.client().flushall()
    running.client().config_set("maxmemory", 0)
    running.client().config_set("maxmemory-policy", "noeviction")
    return running


@pytest.fixture(params=["memory", "node", "redis"])
def url(request: pytest.FixtureRequest) -> str:
    """FRAUD_HISTORY_URL, of each kind."""
    return request.param if request.param != "redis" else request.getfixturevalue("redis_server").url


@pytest.fixture
def detector(bundles: dict[str, Path]) -> Detector:
    return bundle.load(bundles["handbook"]).detector


def settings_of(state: Path, url: str) -> Settings:
    return Settings.from_environment(
        {"FRAUD_STATE": str(state), "FRAUD_HISTORY_URL": url, "FRAUD_HISTORY_TIMEOUT_MS": "5000"}
    )


def opened(detector: Detector, state: Path, url: str) -> LiveHistory:
    return LiveHistory(detector, HistoryContext.from_environment(settings_of(state, url), {}))


def with_frauds(detector: Detector, n: int) -> Detector:
    """The detector of a later training, which knows more frauds of the terminals."""
    i = next(i for i, plan in enumerate(plans(detector.schema)) if plan.keeps_frauds)
    state = detector.history[i]
    last = state.last_time
    assert last is not None
    frauds = np.zeros(n, dtype=state.frauds.dtype)
    frauds["time"], frauds["id"] = last - np.arange(n)[::-1] * 1_000_000, 1 + np.arange(n)
    starts = np.minimum(np.arange(len(state.keys) + 1) * -(-n // len(state.keys)), n)
    histories = list(detector.history)
    histories[i] = replace(state, frauds=frauds, fraud_starts=starts.astype(np.int64))
    return replace(detector, history=tuple(histories))


def n_frauds(history: LiveHistory) -> int:
    assert history.store is not None
    i = next(i for i, plan in enumerate(history.plans) if plan.keeps_frauds)
    keys = history._detector.history[i].keys.tolist()
    return sum(len(frauds) // 12 for _, frauds in history.store.peek([Visit(i, key, b"") for key in keys]))


def test_a_successors_frauds_are_handed_over_at_a_swap_and_at_a_restart(detector: Detector, tmp_path: Path, url: str):
    before = with_frauds(detector, 0)
    first = opened(before, tmp_path, url)
    assert n_frauds(first) == 0
    later = first.successor(with_frauds(detector, FRAUDS))
    assert n_frauds(later) == FRAUDS
    assert later.store is first.store
    later.close()
    again = opened(with_frauds(detector, FRAUDS + 7), tmp_path, url)
    assert n_frauds(again) >= FRAUDS + 7, "a restart's marks of the model before do not swallow them"
    again.close()


def test_replicas_that_start_together_begin_once(detector: Detector, tmp_path: Path, redis_server: Server):
    for url in ("node", redis_server.url):
        histories = [opened(detector, tmp_path, url) for _ in range(3)]
        assert not any(history.is_behind for history in histories)
        peeked = [history.store.peek([Visit(0, detector.history[0].keys[0], b"")]) for history in histories]  # type: ignore[union-attr]
        assert peeked[0] == peeked[1] == peeked[2] and peeked[0][0].events
        for history in histories:
            history.close()


def leave_snapshot(settings: Settings, detector: Detector, n: int = 2000) -> tuple[dt.date, Snapshots]:
    """Daily snapshots of generated cards, up to the last day but one."""
    schema = detector.schema
    rows = validate(cards(n, seed=1), schema).rows
    snapshots = Snapshots.open(settings, schema)
    days = rows["TX_DATETIME"].dt.date
    for day in sorted(set(days))[:-1]:
        part = rows[days == day]
        snapshots.publish(day, [[snapshots.write_part(i, day, part)] for i in range(len(plans(schema)))], made_by="t")
    return sorted(set(days))[-2], snapshots


def test_it_begins_from_the_newest_snapshot_and_the_decisions_since(
    bundles: dict[str, Path], detector: Detector, requests: Requests, tmp_path: Path
):
    settings = settings_of(tmp_path, "node")
    day, snapshots = leave_snapshot(settings, detector)
    names = list(detector.features.names)
    last = dt.datetime.combine(day, dt.time()) + dt.timedelta(days=1, hours=2)
    state = snapshots.states(day)[0]
    customer = str(state.keys[int(np.argmax(np.diff(state.starts)))])
    row = {**requests["handbook"], "CUSTOMER_ID": customer, "TX_DATETIME": last.isoformat()}

    def asked(replica: Replica) -> float:
        raw = replica.state.model.engine.encode_row({**row, "TRANSACTION_ID": "asks"})
        return float(raw[names.index("count by CUSTOMER_ID (7d)")])

    with replica_running(bundles["handbook"], tmp_path) as (replica, client):
        began = client.get("/readyz").json()["history"]
        assert not began["is_behind"] and began["store"] == "node"
        assert {plan["began_from"] for plan in began["plans"]} == {"snapshots"}
        assert {plan["through"] for plan in began["plans"]} == {day.isoformat()}
        before = asked(replica)
        assert before > 0
        batch = [row | {"TRANSACTION_ID": 100 + i} for i in range(3)]
        client.post("/score", json=row)
        client.post("/score/batch", json=[row, *batch])  # the first is a retry
        assert asked(replica) == before + 4
    shutil.rmtree(tmp_path / "live")
    with replica_running(bundles["handbook"], tmp_path) as (replica, client):
        assert asked(replica) == before + 4, "from the snapshot and the decision log"
        assert {plan["decisions"] for plan in client.get("/readyz").json()["history"]["plans"]} == {4}
        assert "fraud_history_caught_up_total 4" in client.get("/metrics").text


def test_frauds_that_a_training_left_in_snapshots_reach_a_history_that_runs(detector: Detector, tmp_path: Path):
    """A bundle carries nobody's transactions: what its training knew of frauds comes from the snapshots."""
    settings, empty = settings_of(tmp_path, "node"), tuple(HistoryState.empty(plan) for plan in plans(detector.schema))
    carries_nothing = replace(detector, history=empty)
    day, snapshots = leave_snapshot(settings, detector)
    history = opened(carries_nothing, tmp_path, "node")
    rows = validate(cards(2000, seed=1), detector.schema).rows
    of_day = rows[rows["TX_DATETIME"].dt.date == day]
    terminal = Visit(1, str(of_day["TERMINAL_ID"].iloc[0]), b"")
    assert history.store is not None and not history.store.peek([terminal])[0].frauds
    assert snapshots.mark_frauds(day, of_day.iloc[:1]) == 1
    later = history.successor(carries_nothing)
    assert later.store is history.store and len(history.store.peek([terminal])[0].frauds) == 12
    later.close()


def test_without_snapshots_the_bundles_age_is_said(
    detector: Detector, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    with caplog.at_level(logging.WARNING):
        history = opened(detector, tmp_path, "node")
    described = history.describe()
    assert described is not None and described["plans"][0]["began_from"] == "bundle"
    assert "days ago" in described["plans"][0]["note"] and "ray_jobs.history build" in caplog.text
    history.close()
    environment = {"FRAUD_DECISIONS_OMIT": "CUSTOMER_ID"}
    settings = settings_of(tmp_path / "other", "node")
    with caplog.at_level(logging.WARNING):
        history = LiveHistory(detector, HistoryContext.from_environment(settings, environment))
    assert "hides CUSTOMER_ID" in caplog.text
    history.close()


def test_a_flushed_redis_is_noticed_said_and_filled_again(
    bundles: dict[str, Path], requests: Requests, tmp_path: Path, redis_server: Server
):
    row = {**requests["handbook"], "CUSTOMER_ID": "new", "TX_DATETIME": "2025-09-01T10:15:00"}
    environment = {"FRAUD_HISTORY_URL": redis_server.url, "FRAUD_HISTORY_TIMEOUT_MS": "5000"}
    with replica_running(bundles["handbook"], tmp_path, **environment) as (replica, client):
        names = list(replica.state.model.engine.detector.features.names)
        index = names.index("count by CUSTOMER_ID (1d)")
        later = {**row, "TRANSACTION_ID": "asks", "TX_DATETIME": "2025-09-01T10:30:00"}
        assert client.post("/score", json=row).json()["warnings"] == []
        time.sleep(0.3)  # the decision reaches the journal
        redis_server.client().flushall()
        ends = time.monotonic() + 10
        while replica.state.model.engine.encode_row(later)[index] != 1 and time.monotonic() < ends:
            time.sleep(0.1)
        assert replica.state.model.engine.encode_row(later)[index] == 1, "from the decision log's journal"
        assert len(list(redis_server.client().scan_iter("fraud-detector:*:e:*"))) > 10, "and the model's own history"
        while "fraud_history_losses_total 1" not in client.get("/metrics").text and time.monotonic() < ends:
            time.sleep(0.1)
        assert "fraud_history_losses_total 1" in client.get("/metrics").text


def test_answers_say_that_the_history_is_behind_until_it_is_filled(
    bundles: dict[str, Path], requests: Requests, tmp_path: Path
):
    row = {**requests["handbook"], "TX_DATETIME": "2025-09-01T10:15:00"}
    with replica_running(bundles["handbook"], tmp_path) as (replica, client):
        history = replica.state.model.history
        assert history is not None and history.store is not None
        other = opened(bundle.load(bundles["handbook"]).detector, tmp_path, "node")
        assert other.store is not None
        assert other.store.lease("begin", 60), "another replica begins, and takes its time"
        for plan in history.plans:
            history.store.put(f"begun {plan.fingerprint}", None)
        history.maintain()
        assert client.post("/score", json=row).json()["warnings"] == [BEHIND]
        assert client.post("/score/batch", json=[row]).json()["results"][0]["warnings"] == [BEHIND]
        assert client.get("/readyz").json()["history"]["is_behind"]
        other.store.release("begin")
        history.maintain()
        assert client.post("/score", json=row).json()["warnings"] == []
        assert not client.get("/readyz").json()["history"]["is_behind"]
        other.close()


def test_a_redis_that_restarts_empty_gets_its_history_again(
    bundles: dict[str, Path], requests: Requests, tmp_path: Path, redis_server: Server
):
    row = {**requests["handbook"], "CUSTOMER_ID": "new", "TX_DATETIME": "2025-09-01T10:15:00"}
    environment = {"FRAUD_HISTORY_URL": redis_server.url, "FRAUD_HISTORY_TIMEOUT_MS": "1000"}
    with replica_running(bundles["handbook"], tmp_path, **environment) as (replica, client):
        model = replica.state.model
        index = list(model.engine.detector.features.names).index("count by CUSTOMER_ID (1d)")
        later = {**row, "TRANSACTION_ID": "asks", "TX_DATETIME": "2025-09-01T10:30:00"}
        client.post("/score", json=row)
        redis_server.stop()
        during = client.post("/score", json=row | {"TRANSACTION_ID": 18})
        assert "live history does not answer" in during.json()["warnings"][0]
        time.sleep(0.3)
        redis_server.start()
        ends = time.monotonic() + 15
        while model.engine.encode_row(later)[index] != 2 and time.monotonic() < ends:
            time.sleep(0.2)
        assert model.engine.encode_row(later)[index] == 2, "what was scored during the outage is remembered, too"


def test_a_redis_that_may_evict_is_refused_with_the_remedy(detector: Detector, tmp_path: Path, redis_server: Server):
    client = redis_server.client()
    client.config_set("maxmemory-policy", "volatile-lru")
    opened(detector, tmp_path, redis_server.url).close()  # without a limit nothing is evicted
    client.config_set("maxmemory", 100 << 20)
    with pytest.raises(ConfigError, match="maxmemory-policy noeviction") as refused:
        opened(detector, tmp_path, redis_server.url)
    assert "never-in-a-log" not in str(refused.value)
    client.config_set("maxmemory-policy", "noeviction")
    opened(detector, tmp_path, redis_server.url).close()


def test_a_redis_that_does_not_say_its_policy_is_warned_of(
    detector: Detector, tmp_path: Path, redis_server: Server, caplog: pytest.LogCaptureFixture
):
    redis_server.client().execute_command(
        "ACL", "SETUSER", "app", "on", ">secret", "~*", "+@all", "-info", "-config"
    )  # fmt: skip
    url = f"redis://app:secret@127.0.0.1:{redis_server.port}/0"
    history = opened(detector, tmp_path, url)
    assert "maxmemory-policy of Redis" in caplog.text and not history.is_behind
    history.close()


def test_a_redis_that_goes_back_in_time_is_filled_again(detector: Detector, tmp_path: Path, redis_server: Server):
    history = opened(detector, tmp_path, redis_server.url)
    for _ in range(3):
        history.maintain()
    assert history.store is not None
    history.store.erase(0, str(detector.history[0].keys[0]))  # as in an older copy
    redis_server.client().set("fraud-detector:v:beat", "1")
    history.maintain()
    assert history.store.peek([Visit(0, str(detector.history[0].keys[0]), b"")])[0].events
    history.close()


@pytest.fixture
def two_replicas(bundles: dict[str, Path], tmp_path: Path, url: str) -> Iterator[list[TestClient]]:
    """Two replicas of one service; the second is another process in all but name."""
    if url == "memory":
        pytest.skip("memory is for one replica")
    environment = {"FRAUD_HISTORY_URL": url, "FRAUD_HISTORY_TIMEOUT_MS": "5000"}
    with (
        replica_running(bundles["handbook"], tmp_path, **environment) as (_, first),
        replica_running(bundles["handbook"], tmp_path, **environment) as (_, second),
    ):
        yield [first, second]


def test_equal_requests_to_two_replicas_get_equal_answers(two_replicas: list[TestClient], requests: Requests):
    rng = np.random.default_rng(0)
    answers: list[tuple[dict[str, object], dict[str, object]]] = []
    for i in range(150):
        moment = dt.datetime(2025, 9, 1, 10) + dt.timedelta(minutes=i)
        body = {
            **requests["handbook"], "TRANSACTION_ID": 1000 + i, "TX_DATETIME": moment.isoformat(),
            "CUSTOMER_ID": int(rng.integers(3)), "TX_AMOUNT": float(rng.uniform(5, 500)),
        }  # fmt: skip
        order = rng.permutation(2)
        first = two_replicas[order[0]].post("/score", json=body).json()
        assert two_replicas[order[1]].post("/score", json=body).json() == first, "a retry at the other replica"
        asked = [client.post("/explain", json=body | {"TRANSACTION_ID": 1}).json() for client in two_replicas]
        assert asked[0] == asked[1]
        answers.append((body, first))
    for body, first in answers[-20:]:
        assert two_replicas[0].post("/score", json=body).json() == first, "a late retry"


def test_a_retry_with_other_values_is_told(two_replicas: list[TestClient], requests: Requests):
    row = {**requests["handbook"], "CUSTOMER_ID": "new", "TX_DATETIME": "2025-09-01T10:15:00"}
    first, second = two_replicas
    answer = first.post("/score", json=row).json()
    assert second.post("/score", json=row).json() == answer and answer["warnings"] == []
    for changed in ({"TX_AMOUNT": 999.0}, {"TX_DATETIME": "2025-09-01T10:16:00"}):
        (warning,) = second.post("/score", json=row | changed).json()["warnings"]
        assert "seen before with another time or other values" in warning
        (result,) = first.post("/score/batch", json=[row | changed]).json()["results"]
        assert result["warnings"] == [warning]
    assert first.post("/score", json=row).json() == answer, "the first one is what is remembered"
