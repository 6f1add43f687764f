"""One whole replica without Serve: what a request leaves behind, and what the parts do to one another's requests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pyarrow.dataset as ds
import pytest
from starlette.testclient import TestClient

from fraud.errors import ConfigError
from fraud.scoring import bundle
from serve_app.model.state import ServedModel
from serve_app.replica import Replica


@contextmanager
def running(folder: Path, state: Path, **environment: str) -> Iterator[tuple[Replica, TestClient]]:
    variables = {"FRAUD_MODE": "dev", "FRAUD_STATE": str(state), "FRAUD_BUNDLE": str(folder), **environment}
    replica = Replica(variables)
    try:
        with TestClient(replica.app()) as client:
            yield replica, client
    finally:
        replica.close()


def decisions(state: Path) -> list[dict]:
    return ds.dataset(state / "decisions", partitioning="hive", exclude_invalid_files=True).to_table().to_pylist()


@pytest.fixture
def body(requests: dict[str, Mapping[str, object]]) -> dict[str, object]:
    return dict(requests["transactions"])


def test_a_decision_is_answered_counted_and_kept(bundles: dict[str, Path], body: dict[str, object], tmp_path: Path):
    with running(bundles["transactions"], tmp_path) as (_, client):
        answer = client.post("/score", json=body, headers={"X-Request-ID": "payment-1"})
        assert answer.status_code == 200 and answer.headers["X-Request-ID"] == "payment-1"
        assert client.post("/score?learn=false", json=body).status_code == 200
        assert client.post("/explain", json=body).status_code == 200
        rows = client.post("/score/batch", json=[body, {**body, "unknown": 1}], headers={"X-Request-ID": "batch-1"})
        assert (rows.json()["scored"], rows.json()["rejected"]) == (1, 1)
        counted = client.get("/metrics").text
    assert 'fraud_requests_total{path="/score",status="200"} 2' in counted
    entries = {row["request_id"]: row for row in decisions(tmp_path)}
    assert set(entries) == {"payment-1", "batch-1"}, "what-ifs are no decisions"
    logged, content = entries["payment-1"], answer.json()
    assert (logged["score"], logged["is_fraud"], logged["version"]) == (
        content["score"], content["is_fraud"], content["model_version"],
    )  # fmt: skip
    assert logged["role"] == "champion" and logged["shadow_outcome"] is None
    assert {name: logged["inputs"][name] for name in body} == body


def test_a_challenger_watches_and_takes_its_share(bundles: dict[str, Path], body: dict[str, object], tmp_path: Path):
    with running(bundles["transactions"], tmp_path) as (replica, client):
        state = replica.state
        state.challenger = state.model.with_threshold(None)
        state.shadow = True
        client.post("/score", json=body, headers={"X-Request-ID": "watched"})
        state.canary_share = 1.0
        client.post("/score", json=body, headers={"X-Request-ID": "taken"})
        state.canary_share, state.shadow = 0.0, False
        client.post("/score", json=body, headers={"X-Request-ID": "alone"})
    rows = {row["request_id"]: row for row in decisions(tmp_path)}
    outcomes = {name: (row["role"], row["shadow_outcome"]) for name, row in rows.items()}
    assert outcomes == {"watched": ("champion", "scored"), "taken": ("canary", None), "alone": ("champion", None)}
    assert rows["watched"]["shadow_score"] == pytest.approx(rows["watched"]["score"])


def test_past_the_deadline_the_set_decision_is_given_and_kept(
    bundles: dict[str, Path], body: dict[str, object], tmp_path: Path
):
    settings = {"FRAUD_DEADLINE_MS": "0.001", "FRAUD_FALLBACK": "decline"}
    with running(bundles["transactions"], tmp_path, **settings) as (_, client):
        answer = client.post("/score", json=body)
        wrong = client.post("/score", json={**body, "unknown": 1})
    assert answer.status_code == 200 and wrong.status_code == 422
    assert (answer.json()["fallback"], answer.json()["score"], answer.json()["is_fraud"]) == ("decline", None, True)
    (row,) = decisions(tmp_path)
    assert row["fallback"] == "decline" and row["score"] is None


def test_a_key_is_named_in_what_is_kept(bundles: dict[str, Path], body: dict[str, object], tmp_path: Path):
    from serve_app.auth import new_key

    key, digest = new_key()
    (tmp_path / "keys").write_text(f"{digest} gateway rate=1 burst=2\n")
    settings = {"FRAUD_MODE": "production", "FRAUD_API_KEY_FILE": str(tmp_path / "keys")}
    with running(bundles["transactions"], tmp_path, **settings) as (_, client):
        assert client.post("/score", json=body).status_code == 401
        codes = [client.post("/score", json=body, headers={"X-API-Key": key}).status_code for _ in range(4)]
        assert client.get("/metrics").status_code == 401 and client.get("/healthz").status_code == 200
    assert codes[:2] == [200, 200] and set(codes[2:]) <= {200, 429} and 429 in codes
    assert {row["key_name"] for row in decisions(tmp_path)} == {"gateway"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("FRAUD_RATE_LIMIT", "many"), ("FRAUD_BATCH_ROWS", "0"), ("FRAUD_ACCESS_LOG_SAMPLE", "2"),
        ("FRAUD_DECISIONS_QUEUE", "x"), ("FRAUD_SHADOW_QUEUE", "x"), ("FRAUD_MODEL_POLL_S", "x"),
        ("FRAUD_FALLBACK", "perhaps"),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_said_before_anything_is_loaded(name: str, value: str, tmp_path: Path):
    with pytest.raises(ConfigError, match=name):
        Replica({"FRAUD_MODE": "dev", "FRAUD_BUNDLE": str(tmp_path / "none"), name: value})


@pytest.mark.parametrize("store", ["node", "memory"])
def test_a_challenger_that_remembers_otherwise_sees_what_the_champion_decides_and_the_reverse(
    bundles: dict[str, Path], requests: dict[str, Mapping[str, object]], tmp_path: Path, store: str
):
    detector = bundle.load(bundles["handbook"]).detector
    more = replace(detector, schema=replace(detector.schema, history_events=detector.schema.history_events + 5))
    first = {**requests["handbook"], "TX_DATETIME": "2025-09-01T10:00:00", "CUSTOMER_ID": "new"}
    with running(bundles["handbook"], tmp_path, FRAUD_HISTORY_URL=store) as (replica, client):
        state = replica.state
        assert state.model.history is not None
        loaded = replace(bundle.load(bundles["handbook"]), detector=more)
        history = state.model.history.successor(more)
        state.challenger = ServedModel.from_bundle(loaded, name="fraud-detector", version="8", history=history)
        state.shadow = True

        def seen(model: ServedModel) -> float:
            names = list(model.engine.detector.features.names)
            row = {**first, "TRANSACTION_ID": "asks", "TX_DATETIME": "2025-09-01T10:30:00"}
            return float(model.engine.encode_row(row)[names.index("count by CUSTOMER_ID (1d)")])

        client.post("/score", json=first)
        client.post("/score", json=first)  # a retry
        batch = [first | {"TRANSACTION_ID": 30 + i, "TX_DATETIME": f"2025-09-01T10:0{i}:00"} for i in range(1, 4)]
        assert client.post("/score/batch", json=batch).json()["scored"] == 3
        assert (seen(state.model), seen(state.challenger)) == (4, 4)
        state.canary_share = 1.0
        taken = client.post("/score", json=first | {"TRANSACTION_ID": 40, "TX_DATETIME": "2025-09-01T10:10:00"})
        assert taken.json()["model_version"] == "8"
        assert (seen(state.model), seen(state.challenger)) == (5, 5)
