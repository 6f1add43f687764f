"""Labels reach the live history within seconds of their ingestion: late, reversed, unknown, twice, future, too old."""

from __future__ import annotations

import datetime as dt
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
from starlette.testclient import TestClient

from fraud.errors import ConfigError
from fraud.history.definition import plans
from fraud.history.label_feed import LabelFeed, LabelFollower
from fraud.history.stores.memory import MemoryStore
from fraud.history.stores.node import NodeStore
from fraud.history.stores.store import Visit
from fraud.labels.store import LabelStore
from fraud.schema import Schema
from fraud.scoring import bundle
from fraud.settings import Settings
from fraud.settings.serving import LabelFeedSettings
from serve_app.history.bootstrap import HistoryContext
from serve_app.history.label_process import _described
from serve_app.model.state import ServedModel
from serve_app.replica import Replica
from tests.fraud.histories import SCHEMA
from tests.fraud.history.test_redis import Server, running  # noqa: F401 - a fixture
from tests.serve_app.history.test_live_history import leave_snapshot, redis_server, url  # noqa: F401 - fixtures
from tests.serve_app.test_replica import running as replica_running

pytestmark = pytest.mark.slow  # processes of their own, Redis among them

Requests = dict[str, Mapping[str, object]]
NOON = dt.datetime(2025, 9, 1, 12)
DAY, MICROSECONDS = dt.timedelta(days=1), 86_400_000_000


def ingest(state: Path, name: str, *labels: tuple[str, bool], known_at: dt.datetime | None = None) -> None:
    """As `ray_jobs.labels ingest` does: a file of its own."""
    now = dt.datetime.now(dt.UTC)
    moment = np.datetime64((known_at or now).replace(tzinfo=None), "us")
    frame = pd.DataFrame(labels, columns=["id", "is_fraud"]).assign(known_at=moment, source="analyst")
    LabelStore(str(state / "labels")).add(frame, name, ingested_at=now)


def frauds(model: ServedModel, requests: Requests, terminal: str = "new") -> float:
    """The share of frauds that the engine sees at a terminal ten days later."""
    names = list(model.engine.detector.features.names)
    (index,) = [i for i, name in enumerate(names) if name.startswith("risk by TERMINAL_ID (30d")]
    row = {**requests["handbook"], "TRANSACTION_ID": "asks", "TERMINAL_ID": terminal}
    return float(model.engine.encode_row({**row, "TX_DATETIME": (NOON + 10 * DAY).isoformat()})[index])


def within_5_s(is_so: Callable[[], bool], seconds: float = 5.0) -> bool:
    ends = time.monotonic() + seconds
    while not is_so() and time.monotonic() < ends:
        time.sleep(0.05)
    return is_so()


@contextmanager
def served(
    bundles: dict[str, Path], state: Path, store: str, *, leads: bool = True
) -> Iterator[tuple[Replica, TestClient]]:
    """A replica; where it leads, once the process has started that follows the labels."""
    environment = {"FRAUD_HISTORY_URL": store, "FRAUD_HISTORY_TIMEOUT_MS": "5000", "FRAUD_LABELS_POLL_S": "0.2"}
    with replica_running(bundles["handbook"], state, **environment) as (replica, client):
        assert not leads or within_5_s(lambda: "\nfraud_labels_unmatched " in client.get("/metrics").text, 30.0)
        yield replica, client


def transaction(requests: Requests, number: int, **values: object) -> dict[str, object]:
    row = {**requests["handbook"], "TRANSACTION_ID": number, "TERMINAL_ID": "new", "TX_DATETIME": NOON.isoformat()}
    return row | values


def test_a_label_reaches_the_history_in_seconds_and_a_reversal_takes_it_out(
    bundles: dict[str, Path],
    requests: Requests,
    tmp_path: Path,
    url: str,  # noqa: F811
):
    with served(bundles, tmp_path, url) as (replica, client):
        client.post("/score", json=transaction(requests, 900))
        assert frauds(replica.state.model, requests) == 0
        ingest(tmp_path, "first", ("900", True))
        assert within_5_s(lambda: frauds(replica.state.model, requests) == 0.5)
        ingest(tmp_path, "again", ("900", True))
        time.sleep(0.6)
        assert frauds(replica.state.model, requests) == 0.5, "twice is as once"
        ingest(tmp_path, "reversed", ("900", False))
        assert within_5_s(lambda: frauds(replica.state.model, requests) == 0)
        ingest(tmp_path, "older", ("900", True), known_at=dt.datetime(2025, 9, 2))
        time.sleep(0.6)
        assert frauds(replica.state.model, requests) == 0, "the newest holds, in whatever order they come"
        page = client.get("/metrics").text
    assert "fraud_labels_applied_total" in page and "fraud_labels_unmatched 0" in page
    kinds = ('bucket{le="5.0"}', "count")
    in_time, count = (re.search(rf"fraud_label_lag_seconds_{kind} (\S+)", page) for kind in kinds)
    assert in_time and count and 2 <= float(in_time[1]) == float(count[1]) <= 3
    assert "fraud_label_newest_applied_timestamp_seconds" in page


def test_a_label_waits_for_its_transaction_also_over_a_restart(
    bundles: dict[str, Path],
    requests: Requests,
    tmp_path: Path,
    url: str,  # noqa: F811
):
    with served(bundles, tmp_path, url) as (replica, client):
        ingest(tmp_path, "early", ("901", True), ("902", True))
        assert within_5_s(lambda: "fraud_labels_unmatched 2" in client.get("/metrics").text)
        client.post("/score", json=transaction(requests, 901))
        assert within_5_s(lambda: frauds(replica.state.model, requests) == 0.5)
    with served(bundles, tmp_path, url) as (replica, client):
        assert frauds(replica.state.model, requests) == 0.5 or url == "memory"
        client.post("/score", json=transaction(requests, 902, TERMINAL_ID="other"))
        assert within_5_s(lambda: frauds(replica.state.model, requests, "other") == 0.5)
        assert within_5_s(lambda: frauds(replica.state.model, requests) == 0.5)


def test_a_label_of_a_snapshots_transaction_is_applied(bundles: dict[str, Path], requests: Requests, tmp_path: Path):
    detector = bundle.load(bundles["handbook"]).detector
    settings = Settings.from_environment({"FRAUD_STATE": str(tmp_path)})
    _, snapshots = leave_snapshot(settings, detector)
    rows = snapshots.find([str(i) for i in range(3000)])
    i = [plan.column for plan in plans(detector.schema)].index("TERMINAL_ID")
    with served(bundles, tmp_path, "node") as (replica, _):
        store = replica.state.model.engine.store
        assert store is not None
        rows = rows[[not store.peek([Visit(i, key, b"")])[0].frauds for key in rows["TERMINAL_ID"]]]
        row = rows.sort_values("time").iloc[-1]
        visit = Visit(i, row["TERMINAL_ID"], b"")
        ingest(tmp_path, "late", (row["id"], True))
        assert within_5_s(lambda: len(store.peek([visit])[0].frauds) == 12)
        time_us = int(np.datetime64(row["time"], "us").astype(np.int64))
        assert store.peek([visit])[0].frauds[:8] == time_us.to_bytes(8, "little", signed=True)


def test_an_emptied_history_gets_all_labels_again(bundles: dict[str, Path], requests: Requests, tmp_path: Path):
    with served(bundles, tmp_path, "node") as (replica, client):
        client.post("/score", json=transaction(requests, 900))
        ingest(tmp_path, "first", ("900", True))
        assert within_5_s(lambda: frauds(replica.state.model, requests) == 0.5)
        store, history = replica.state.model.engine.store, replica.state.model.history
        assert store is not None and history is not None
        for path in (tmp_path / "live").rglob("*.mdb"):
            path.unlink()
        history.maintain()
        assert within_5_s(lambda: frauds(replica.state.model, requests) == 0.5)


def test_one_of_two_replicas_follows_and_the_other_takes_over(
    bundles: dict[str, Path], requests: Requests, tmp_path: Path
):
    with ExitStack() as ends_last, ExitStack() as ends_first:
        leader, _ = ends_first.enter_context(served(bundles, tmp_path, "node"))
        other, client = ends_last.enter_context(served(bundles, tmp_path, "node", leads=False))
        client.post("/score", json=transaction(requests, 900))
        ingest(tmp_path, "first", ("900", True))
        assert within_5_s(lambda: frauds(other.state.model, requests) == 0.5)
        assert frauds(leader.state.model, requests) == 0.5
        # A caller may ask either of them.
        assert within_5_s(lambda: client.get("/readyz").json()["history"]["newest_label"] is not None, 30.0)
        ends_first.close()
        client.post("/score", json=transaction(requests, 901, TERMINAL_ID="other"))
        ingest(tmp_path, "second", ("901", True))
        # The other starts a process of its own.
        assert within_5_s(lambda: frauds(other.state.model, requests, "other") == 0.5, 30.0)


class Known:
    """Transactions by id, as Snapshots.find gives them: of shop s1, one a second."""

    def __init__(self, n: int, first: dt.datetime) -> None:
        times = pd.Timestamp(first).as_unit("us") + pd.to_timedelta(np.arange(n), unit="s")
        self.rows = pd.DataFrame({"id": [f"t{i}" for i in range(n)], "time": times, "shop": "s1"})

    def find(self, ids: list[str]) -> pd.DataFrame:
        return self.rows[self.rows["id"].isin(ids)].reset_index(drop=True)


def follower_of(store: MemoryStore | NodeStore, state: Path, known: Known) -> tuple[LabelFollower, LabelFeed]:
    feed = LabelFeed(LabelStore(str(state / "labels")))
    return LabelFollower(store, SCHEMA, feed, known.find), feed  # type: ignore[arg-type]


def shop_frauds(store: MemoryStore | NodeStore, shop: str = "s1") -> int:
    return len(store.peek([Visit(1, shop, b"")])[0].frauds) // 12


def test_a_label_of_the_future_waits_until_it_is_known(tmp_path: Path):
    store = MemoryStore(plans(SCHEMA))
    follower, feed = follower_of(store, tmp_path, Known(5, NOON))
    now = int(np.datetime64(NOON + DAY, "us").astype(np.int64))
    ingest(tmp_path, "tomorrow", ("t1", True), known_at=NOON + 2 * DAY)
    feed.refresh(0)
    assert follower.follow(now=now).applied == 0 and shop_frauds(store) == 0
    assert follower.follow(now=now + MICROSECONDS // 2).applied == 0
    assert follower.follow(now=now + MICROSECONDS + 1).applied == 1 and shop_frauds(store) == 1
    assert follower.follow(now=now + 2 * MICROSECONDS).applied == 0, "once"


def test_a_label_of_a_transaction_older_than_the_memory_is_dropped_and_counted(tmp_path: Path):
    store = MemoryStore(plans(SCHEMA))
    store.exchange([Visit(1, "s1", int(np.datetime64(NOON + 60 * DAY, "us").astype(np.int64)).to_bytes(8, "little")
                          + bytes(plans(SCHEMA)[1].record.itemsize - 8))])  # fmt: skip
    follower, feed = follower_of(store, tmp_path, Known(5, NOON))
    ingest(tmp_path, "late", ("t1", True), ("unknown", True))
    feed.refresh(0)
    applied = follower.follow()
    assert (applied.applied, applied.too_old, applied.unmatched) == (0, 1, 1) and shop_frauds(store) == 0


def test_a_changed_file_is_applied_again_and_another_follower_goes_on(tmp_path: Path):
    store, known = MemoryStore(plans(SCHEMA)), Known(50, dt.datetime.now() - DAY)
    first, feed = follower_of(store, tmp_path, known)
    ingest(tmp_path, "a", ("t1", True), ("t2", True), ("new", True))
    feed.refresh(0)
    assert first.follow().applied == 2 and first.follow().applied == 0
    ingest(tmp_path, "a", ("t1", True), ("t2", False))
    ingest(tmp_path, "b", ("t3", True))
    second, feed = follower_of(store, tmp_path, known)
    feed.refresh(0)
    assert second.pending == set() and second.follow().applied == 3 and second.pending == {"new"}
    assert shop_frauds(store) == 2
    known.rows.loc[10, "id"] = "new"
    ingest(tmp_path, "c", ("new", True))
    feed.refresh(0)
    assert second.follow(arrived=["new"]).applied == 1 and second.pending == set() and shop_frauds(store) == 3


def test_a_hundred_thousand_labels_are_applied_without_blocking_requests(tmp_path: Path):
    n = 100_000
    schema = replace(SCHEMA, history_events=50)
    store = NodeStore(tmp_path / "live", plans(schema))
    known = Known(n, dt.datetime.now() - 2 * DAY)
    known.rows["shop"] = [f"shop {i % 997}" for i in range(n)]
    feed = LabelFeed(LabelStore(str(tmp_path / "labels")))
    follower = LabelFollower(store, schema, feed, known.find)  # type: ignore[arg-type]
    ingest(tmp_path, "many", *((f"t{i}", i % 2 == 0) for i in range(n)))
    feed.refresh(0)
    applied = follower.follow()
    assert applied.applied == n and applied.unmatched == 0
    assert sum(shop_frauds(store, f"shop {i}") > 0 for i in range(997)) == 997
    assert follower.follow().applied == 0
    store.close()


def test_files_that_hold_no_labels_are_named_and_hinder_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    store = MemoryStore(plans(SCHEMA))
    follower, feed = follower_of(store, tmp_path, Known(5, dt.datetime.now()))
    (tmp_path / "labels").mkdir()
    pd.DataFrame({"x": [1]}).to_parquet(tmp_path / "labels" / "other.parquet")
    (tmp_path / "labels" / "broken.parquet").write_bytes(b"PAR1")
    frame = pd.DataFrame({"id": ["t1"], "is_fraud": True, "known_at": np.datetime64("now", "us"), "source": "a"})
    frame.assign(ingested_at=np.datetime64("now", "us")).to_parquet(tmp_path / "labels" / "good.parquet")
    for _ in range(2):
        feed.refresh(0)
        follower.follow()
    assert shop_frauds(store) == 1
    assert caplog.text.count("other.parquet") == 1 and caplog.text.count("broken.parquet") >= 1


@pytest.mark.parametrize("text", ["soon", "-1", "0.01", "nan"])
def test_a_wrong_interval_is_refused(text: str):
    with pytest.raises(ConfigError, match="FRAUD_LABELS_POLL_S"):
        LabelFeedSettings.from_environment({"FRAUD_LABELS_POLL_S": text})
    assert (
        LabelFeedSettings.from_environment({}).poll_s == 1
        and LabelFeedSettings.from_environment({"FRAUD_LABELS_POLL_S": "0"}).poll_s == 0
    )


def test_a_process_that_follows_is_started_again_and_ends_with_its_replica(
    bundles: dict[str, Path], requests: Requests, tmp_path: Path
):
    def followers() -> list[psutil.Process]:
        children = psutil.Process().children()
        return [child for child in children if "serve_app.history.label_process" in child.cmdline()]

    with served(bundles, tmp_path, "node") as (replica, client):
        (process,) = followers()
        process.kill()
        client.post("/score", json=transaction(requests, 900))
        ingest(tmp_path, "first", ("900", True))
        assert within_5_s(lambda: frauds(replica.state.model, requests) == 0.5, 30.0)
    assert followers() == []
    code = "import sys; from serve_app.history.label_process import main; sys.exit(main())"
    settings = HistoryContext.from_environment(Settings.from_environment({"FRAUD_STATE": str(tmp_path)}), {})
    task = json.dumps(_described(Schema.load("handbook"), settings, 0.1)) + "\n"
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdin is not None and child.stdout is not None
    child.stdin.write(task)
    child.stdin.flush()
    assert '"unmatched": 0' in child.stdout.readline()
    child.stdin.close()  # as when the replica is killed
    assert child.wait(10) == 0
