"""This version starts on the state that 0.1.0 left, and everything in it is as it was (record_0_1.txt made it)."""

from __future__ import annotations

import datetime as dt
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from deploy.local import backup
from fraud.history.snapshots.days import Snapshots
from fraud.labels.store import LabelStore
from fraud.registry import changes, versions
from fraud.registry.models import schema_of
from fraud.scoring import decided
from fraud.settings import Settings
from serve_app.decisions.lookup import look_up
from serve_app.decisions.maintenance import DecisionFolder
from serve_app.decisions.settings import read_settings
from serve_app.replica import Replica

pytestmark = pytest.mark.slow
ARCHIVE = Path(__file__).with_name("state-0.1.0.tar.gz")


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    root = tmp_path_factory.mktemp("upgraded")
    backup.restore(ARCHIVE, root / "var")
    return Settings.from_environment({"FRAUD_ROOT": str(root), "FRAUD_MODE": "dev"})


@pytest.fixture(scope="module")
def asked(settings: Settings) -> dict[str, list[dict[str, object]]]:
    """The requests to 0.1.0 and its answers."""
    return dict(json.loads((settings.state / "asked.json").read_text()))


@pytest.fixture(scope="module")
def client(settings: Settings) -> Iterator[TestClient]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("FRAUD_", "MLFLOW_TRACK"))}
    replica = Replica({**inherited, "FRAUD_ROOT": str(settings.root), "FRAUD_MODE": "dev"})
    with TestClient(replica.app()) as started:
        yield started
    replica.close()


def test_the_champion_and_how_it_became_one_are_known(settings: Settings):
    state = versions.registry_state(settings)
    assert state.champion is not None and state.champion.number == 2
    assert changes.history(state.tags, 2)[-1].reason == "recorded for the upgrade test"


def test_the_same_requests_get_the_same_answers_with_the_live_history_of_before(
    client: TestClient, asked: dict[str, list[dict[str, object]]]
):
    assert client.get("/readyz").status_code == 200
    assert client.get("/model").json()["model_version"] == "2"
    for row, before in zip(asked["rows"], asked["answers"], strict=True):
        answer = client.post("/score?learn=false", json=row).json()
        assert {name: answer.get(name) for name in before} == before


def test_decisions_labels_and_snapshots_are_read_and_written_on(
    settings: Settings, client: TestClient, asked: dict[str, list[dict[str, object]]]
):
    schema, decisions = schema_of(None, settings), read_settings(settings, {})
    ids = [str(row["TRANSACTION_ID"]) for row in asked["rows"]]
    assert sorted(decided.read(str(decisions.url), schema)["id"]) == sorted(ids)
    labels = LabelStore(str(settings.state / "labels")).read()
    assert dict(zip(labels["id"], labels["is_fraud"], strict=True)) == {ids[n]: n % 2 for n in range(6)}
    snapshots = Snapshots.open(settings, schema)
    day = snapshots.newest_day()
    assert day is not None and all(len(state.keys) for state in snapshots.states(day, None))
    answer = client.post("/score", json={**asked["rows"][-1], "TRANSACTION_ID": 999_999})
    assert answer.status_code == 200
    DecisionFolder(str(decisions.url)).merge(now=dt.datetime.now(dt.UTC), fewest=1)
    assert [row["inputs"]["TRANSACTION_ID"] for row in look_up(decisions, ids[0], "TRANSACTION_ID")] == [ids[0]]
