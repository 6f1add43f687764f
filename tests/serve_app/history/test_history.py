"""A scored transaction is history for the next one; it outlives the replica; without its store a score still comes."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from fraud.errors import ConfigError
from fraud.history.definition import feature_names
from fraud.scoring import bundle
from fraud.settings import Settings
from serve_app.app import create_app
from serve_app.auth import ApiKeys
from serve_app.history.bootstrap import HistoryContext
from serve_app.history.live import LiveHistory
from serve_app.model.state import ServedModel, State, load_model

Requests = dict[str, Mapping[str, object]]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.from_environment({"FRAUD_ROOT": str(tmp_path)})


@pytest.fixture
def served(bundles: dict[str, Path], settings: Settings) -> ServedModel:
    return load_model(settings, folder=str(bundles["handbook"]))


def transaction(requests: Requests) -> dict[str, object]:
    """One that is newer than what the model was trained on."""
    return {**requests["handbook"], "TX_DATETIME": "2025-09-01T10:15:00"}


def client_of(model: ServedModel) -> TestClient:
    return TestClient(create_app(State(model), ApiKeys()))


def count(model: ServedModel, request: Mapping[str, object]) -> float:
    """How many transactions the engine sees of the request's customer in the last day."""
    names = list(model.engine.detector.features.names)
    raw = model.engine.encode_row(model.reader.parse(json.dumps(dict(request)).encode()))
    return float(raw[names.index("count by CUSTOMER_ID (1d)")])


def test_a_scored_transaction_is_history_for_the_next(served: ServedModel, requests: Requests):
    client, first = client_of(served), transaction(requests)
    second = first | {"TRANSACTION_ID": 18, "TX_DATETIME": "2025-09-01T10:16:00"}
    assert count(served, second) == 0
    answer = client.post("/score", json=first).json()
    assert answer["warnings"] == [] and count(served, second) == 1
    assert client.post("/score", json=first).json() == answer, "a retry gets the same answer"
    assert count(served, second) == 1


def test_asking_what_if_leaves_no_trace(served: ServedModel, requests: Requests):
    client, first = client_of(served), transaction(requests)
    second = first | {"TRANSACTION_ID": 18, "TX_DATETIME": "2025-09-01T10:16:00"}
    assert client.post("/score?learn=false", json=first).status_code == 200
    assert count(served, second) == 0
    refused = client.post("/score?learn=maybe", json=first)
    assert refused.status_code == 422 and refused.json()["detail"][0]["field"] == "learn"
    client.post("/score", json=first | {"TX_AMOUNT": -1})
    assert count(served, second) == 0, "what is refused is not remembered"


def test_the_history_of_one_process_outlives_the_replica(
    bundles: dict[str, Path], settings: Settings, requests: Requests
):
    settings = replace(settings, history_url="memory")
    served = load_model(settings, folder=str(bundles["handbook"]))
    first = transaction(requests)
    second = first | {"TRANSACTION_ID": 18, "TX_DATETIME": "2025-09-01T10:16:00"}
    client_of(served).post("/score", json=first)
    assert served.history is not None
    served.history.close()
    again = load_model(settings, folder=str(bundles["handbook"]))
    assert count(again, second) == 1
    (path,) = (settings.state / "live").rglob("*.safetensors")
    path.write_bytes(b"damaged")
    assert count(load_model(settings, folder=str(bundles["handbook"])), second) == 0


def test_without_its_store_a_score_still_comes_and_says_so(
    bundles: dict[str, Path], settings: Settings, requests: Requests, models: dict[str, ServedModel]
):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"redis://:secret@127.0.0.1:{probe.getsockname()[1]}/0"
    model = load_model(replace(settings, history_url=url), folder=str(bundles["handbook"]))
    answer = client_of(model).post("/score", json=transaction(requests)).json()
    assert "live history does not answer" in answer["warnings"][0]
    alone = client_of(models["handbook"]).post("/score", json=transaction(requests)).json()
    assert answer["score"] == alone["score"] and alone["warnings"] == []


def test_two_replicas_in_memory_are_refused(bundles: dict[str, Path], settings: Settings):
    detector, settings = bundle.load(bundles["handbook"]).detector, replace(settings, history_url="memory")
    LiveHistory(detector, HistoryContext.from_environment(settings, {}, replicas=1)).close()
    with pytest.raises(ConfigError, match=r"memory with 2 replicas.*FRAUD_HISTORY_URL=node"):
        LiveHistory(detector, HistoryContext.from_environment(settings, {}, replicas=2))


def test_a_schema_without_history_keeps_none(bundles: dict[str, Path], settings: Settings):
    detector = bundle.load(bundles["transactions"]).detector
    live = LiveHistory(detector, HistoryContext.from_environment(settings, {}, replicas=2))
    live.close()
    assert live.store is None and not feature_names(detector.schema) and not settings.state.exists()


def test_settings_refuse_a_wrong_store_without_showing_it():
    with pytest.raises(ConfigError, match="FRAUD_HISTORY_URL") as caught:
        Settings.from_environment({"FRAUD_HISTORY_URL": "http://:secret@host"})
    assert "secret" not in str(caught.value)
    with pytest.raises(ConfigError, match="FRAUD_HISTORY_TIMEOUT_MS='soon'"):
        Settings.from_environment({"FRAUD_HISTORY_TIMEOUT_MS": "soon"})
    assert "secret" not in repr(Settings.from_environment({"FRAUD_HISTORY_URL": "redis://:secret@host"}))
