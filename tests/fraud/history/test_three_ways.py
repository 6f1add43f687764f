"""Sixty days three ways at once: an oracle, daily snapshots, and requests one by one; every feature of every row equal.

Labels come late, are reversed, and reversed again; processes restart; in the middle a model with other windows follows,
whose history begins from the daily data.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fraud.history.label_feed import LabelFeed, LabelFollower
from fraud.history.online import OnlineHistory
from fraud.history.snapshots.build import build
from fraud.history.snapshots.days import Snapshots
from fraud.history.stores.memory import MemoryStore
from fraud.history.stores.node import NodeStore
from fraud.history.stores.redis import RedisStore
from fraud.history.stores.store import LiveStore
from fraud.labels.store import KNOWN_AT, LabelStore
from fraud.schema import Schema
from fraud.schema.zone import zone_of
from tests.fraud.histories import SCHEMA, in_order, number, random_rows
from tests.fraud.history.oracle import features_of_days
from tests.fraud.history.test_redis import Server, running  # noqa: F401 - a fixture
from tests.fraud.history.test_snapshots import days_of, leave, ledger_of, score_day

DAYS, RESTART_EVERY, NEW_MODEL_ON = 60, 13, 30
DAY_US = 86_400_000_000
LONGER = replace(
    SCHEMA,
    history=tuple(
        replace(entry, windows=("1d", "9d")) if "risk" in entry.statistics else entry for entry in SCHEMA.history
    ),
    history_events=20,
)


class Live:
    """Requests one by one against a store, told of labels each morning; `restart`: the process ends, another begins."""

    def __init__(self, kind: str, schema: Schema, folder: Path, url: str, labels: LabelStore) -> None:
        self._kind, self._folder, self._url, self._labels = kind, folder, url, labels
        self.schema, self._seen = schema, pd.DataFrame({"id": [], "time": [], "shop": []})
        self._open(schema)

    def _open(self, schema: Schema) -> None:
        self.snapshots = Snapshots(str(self._folder / "history"), schema)
        plans, saved = self.snapshots.plans, self._folder / "memory.safetensors"
        self.store: LiveStore
        if self._kind == "memory":
            self.store = MemoryStore.load(saved, plans) if saved.exists() else MemoryStore(plans)
        elif self._kind == "node":
            self.store = NodeStore(self._folder / "live", plans)
        else:
            self.store = RedisStore(self._url, plans, namespace=str(self._folder), timeout_ms=5000.0)
        self._online = OnlineHistory(schema)
        self._follower = LabelFollower(self.store, schema, LabelFeed(self._labels), self._find)

    def restart(self) -> None:
        if isinstance(self.store, MemoryStore):
            self.store.save(self._folder / "memory.safetensors")
        self.store.close()
        self._open(self.schema)

    def follow_model(self, schema: Schema, through: dt.date, ledger: pd.DataFrame) -> None:
        """Another model: its plans begin from the snapshots, as far as they are other plans."""
        before = {plan.fingerprint for plan in self.snapshots.plans}
        self.restart()
        self.schema = schema
        self._open(schema)
        new = [i for i, plan in enumerate(self.snapshots.plans) if plan.fingerprint not in before]
        self.store.seed(self.snapshots.states(through, ledger), new)

    def _find(self, ids: list[str]) -> pd.DataFrame:
        return self._seen[self._seen["id"].isin(ids)]

    def morning(self, moment: int) -> None:
        self._follower._feed.refresh(-(2**62))
        self._follower.follow(None, now=moment)

    def day(self, rows: pd.DataFrame) -> np.ndarray:
        out = np.empty((len(rows), self._online.width))
        for position, now, row in in_order(rows, self.schema):
            out[position] = self._online.exchange(self._online.visits(row, now, number), self.store)
        self._seen = pd.concat([self._seen, rows[["id", "time", "shop"]].astype({"id": str, "shop": str})])
        return out


@pytest.fixture(params=["memory", "node", "redis"])
def live(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Live]:
    url = ""
    if request.param == "redis":
        server: Server = request.getfixturevalue("running")
        if server.process is None:
            server.start()
        url = server.url
    made = Live(request.param, SCHEMA, tmp_path, url, LabelStore(str(tmp_path / "labels")))
    yield made
    made.store.close()


@pytest.mark.slow
def test_an_oracle_daily_batches_and_requests_agree_on_every_row(live: Live, tmp_path: Path) -> None:
    rng = np.random.default_rng(60)
    rows = random_rows(rng, 1800, days=DAYS).sort_values("time", kind="stable", ignore_index=True)
    rows = rows.astype({"time": "datetime64[us]"})
    ledger, days = ledger_of(rows, rng), days_of(rows, SCHEMA)
    expected = {schema: features_of_days(rows, schema, ledger) for schema in (SCHEMA, LONGER)}
    (tmp_path / "daily").mkdir()
    labels, zone = LabelStore(str(tmp_path / "labels")), zone_of(SCHEMA)
    for n, day in enumerate(np.unique(days)):
        today, of_day = day.astype(dt.date), rows[days == day]
        start = zone.start_of(today)
        known = ledger[KNOWN_AT].to_numpy(dtype="datetime64[us]").astype(np.int64)
        due = ledger[(known <= start) & (known > start - DAY_US)]
        if len(due):
            labels.add(due, f"{today}", ingested_at=dt.datetime.fromisoformat(str(today)))
        if n == NEW_MODEL_ON:
            yesterday = today - dt.timedelta(days=1)
            build(Snapshots(live.snapshots.url, LONGER), str(tmp_path / "daily"), yesterday)
            live.follow_model(LONGER, yesterday, ledger[known <= start])
        elif n % RESTART_EVERY == RESTART_EVERY - 1:
            live.restart()
        live.morning(start)
        schema = live.schema
        expected_day = expected[schema][days == day]
        if n:
            by_day = score_day(live.snapshots, today, of_day, labels.ledger())
            np.testing.assert_allclose(by_day, expected_day, rtol=1e-9, atol=1e-6, err_msg=f"daily batch, {today}")
        np.testing.assert_allclose(live.day(of_day), expected_day, rtol=1e-9, atol=1e-6, err_msg=f"live, {today}")
        leave(live.snapshots, today, of_day, n=1 + n % 3)
        of_day.drop(columns="fraud").to_parquet(tmp_path / "daily" / f"{today}.parquet", index=False)
    assert live.schema is LONGER and (expected[LONGER] != 0).any()
