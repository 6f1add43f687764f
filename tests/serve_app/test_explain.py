"""POST /explain: the answer of /score, every column's contribution, and no trace; what is recorded of an answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from starlette.testclient import TestClient

from fraud.detectors.features import raw_features
from fraud.history.stores.memory import MemoryStore
from fraud.settings import Settings
from serve_app.app import create_app
from serve_app.auth import ApiKeys
from serve_app.metrics.counters import Metrics
from serve_app.model.state import ServedModel, State, load_model
from serve_app.request.models import Explanation
from serve_app.scoring import Recorder

Models = dict[str, ServedModel]
Clients = dict[str, TestClient]
Requests = dict[str, Mapping[str, object]]
NAMES = ("transactions", "handbook", "mixed")


@pytest.mark.parametrize("name", NAMES)
def test_the_columns_add_up_to_the_evidence(models: Models, clients: Clients, requests: Requests, name: str):
    explanation = clients[name].post("/explain", json=dict(requests[name])).json()
    Explanation.model_validate(explanation)
    columns = explanation.pop("columns")
    assert {column["column"] for column in columns} == set(models[name].engine.explained_columns)
    contributions = [column["contribution"] for column in columns]
    assert contributions == sorted(contributions, reverse=True)
    evidence, typical = explanation.pop("evidence"), explanation.pop("typical_evidence")
    assert sum(contributions) == pytest.approx(evidence - typical)
    alone = clients[name].post("/score", json=dict(requests[name])).json()
    assert explanation == alone
    assert columns[: len(alone["reasons"])] == alone["reasons"]
    raw = models[name].engine.encode_row(models[name].reader.parse(json.dumps(dict(requests[name])).encode()))
    assert models[name].engine.evidence(raw[None])[0, -1] == pytest.approx(evidence, abs=1e-3)


def test_a_column_that_speaks_for_the_transaction_is_listed(client: TestClient, requests: Requests):
    explanation = client.post("/explain", json={**requests["transactions"], "country_mismatch": 0, "amount": 30}).json()
    assert min(column["contribution"] for column in explanation["columns"]) <= 0
    assert all(column["text"] for column in explanation["columns"])


def test_it_leaves_no_trace_and_refuses_as_score_does(bundles: dict[str, Path], requests: Requests, tmp_path: Path):
    settings = Settings.from_environment({"FRAUD_ROOT": str(tmp_path), "FRAUD_HISTORY_URL": "memory"})
    model = load_model(settings, folder=str(bundles["handbook"]))
    client = TestClient(create_app(State(model), ApiKeys()))
    row = {**requests["handbook"], "TX_DATETIME": "2025-09-01T10:15:00"}
    store = model.engine.store
    assert isinstance(store, MemoryStore)
    before = [len(state.events) for state in store.states()]
    first = client.post("/explain", json=row).json()
    assert client.post("/explain", json={**row, "TRANSACTION_ID": 18}).json()["score"] == first["score"]
    assert [len(state.events) for state in store.states()] == before
    client.post("/score", json=row)
    assert [len(state.events) for state in store.states()] != before
    wrong = {**row, "TX_AMOUNT": "1"}
    assert client.post("/explain", json=wrong).json() == client.post("/score", json=wrong).json()


class Listening(Recorder):
    """Notes what it is given."""

    def __init__(self, state: State) -> None:
        super().__init__(state, Metrics())
        self.answers: list[dict[str, Any]] = []

    def record(self, request: dict[str, Any], model: ServedModel, transaction: Any, answer: dict[str, Any]) -> None:
        super().record(request, model, transaction, answer)
        self.answers.append(answer)


def test_every_answer_but_a_what_if_is_recorded_whoever_gave_it(models: Models, requests: Requests):
    state = State(models["transactions"])
    recorder, row = Listening(state), dict(requests["transactions"])
    client = TestClient(create_app(state, ApiKeys(), recorder=recorder))
    answers = [client.post("/score", json=row).json()]
    state.challenger, state.canary_share = replace(models["transactions"], version="8"), 1.0
    answers.append(client.post("/score", json=row).json())
    state.canary_share = 0.0
    answers.append(client.post("/score", json=row, headers={"X-Deadline-Ms": "0"}).json())
    assert [answer["model_version"] for answer in answers] == ["7", "8", "7"]
    assert (answers[2]["fallback"], answers[2]["score"]) == ("review", None)
    assert json.loads(json.dumps(recorder.answers)) == answers
    client.post("/explain", json=row)
    client.post("/score?learn=false", json=row)
    client.post("/score", json={**row, "amount": -1})
    assert len(recorder.answers) == 3


def test_the_paths_are_answered_below_a_prefix(models: Models, requests: Requests):
    client = TestClient(create_app(State(models["transactions"]), ApiKeys()), root_path="/fraud")
    for path in ("/score", "/explain"):
        assert client.post(f"/fraud{path}", json=dict(requests["transactions"])).status_code == 200
    assert client.post("/fraud/score/batch", json=[dict(requests["transactions"])]).json()["scored"] == 1
    document = client.get("/fraud/openapi.json").json()
    assert set(document["paths"]["/score/batch"]["post"]["requestBody"]["content"]) == {"application/json"}
    assert "columns" in document["components"]["schemas"]["Explanation"]["properties"]


def test_a_missing_time_has_the_same_calendar_in_a_table_as_alone(models: Models, requests: Requests):
    engine = models["mixed"].engine
    row = {**dict.fromkeys(column.name for column in engine.schema.inputs), **requests["mixed"], "seconds": None}
    rows = pd.DataFrame({name: pd.Series([value], dtype=object) for name, value in row.items()})
    rows["seconds"] = rows["seconds"].astype("datetime64[us]")
    for name in ("_score", "model_config", "is_new"):
        rows[name] = rows[name].astype(float)
    features = raw_features(rows, engine.schema, engine.detector.features.categories, np.empty((1, 0)))[0]
    np.testing.assert_array_equal(features, engine.encode_row(row))
