"""The HTTP interface, without Ray: answers equal the engine's, mistakes have their status, nothing crashes or leaks."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from fraud.errors import BundleError, RegistryError
from fraud.registry.promotion import LiveThreshold
from fraud.schema import Schema, validate
from fraud.scoring import bundle
from fraud.settings import Settings
from fraud.thresholds.selection import Threshold
from serve_app.app import create_app
from serve_app.auth import ApiKeys
from serve_app.batch.endpoint import ARROW, NDJSON
from serve_app.model.state import ServedModel, State, load_model
from serve_app.openapi import STREAMS_KEY
from serve_app.paths import PATHS
from serve_app.request.models import Answer, ModelInfo, Problems

Models = dict[str, ServedModel]
Clients = dict[str, TestClient]
Requests = dict[str, Mapping[str, object]]
NAMES = ("transactions", "handbook", "mixed")
JSON_TYPE = {"Content-Type": "application/json"}
ROOT = Path(__file__).resolve().parents[2]


def file_scores(model: ServedModel, rows: list[dict[str, object]]) -> pd.DataFrame:
    """What the engine says of the same transactions read as a table, each on its own."""
    schema = model.engine.schema
    names = [column.name for column in schema.inputs]
    frame = pd.DataFrame({name: pd.Series([row.get(name) for row in rows], dtype=object) for name in names})
    checked = validate(frame, schema)
    assert checked.quarantine.empty
    return model.engine.score_frame(checked.rows, learn_history=False)


@pytest.mark.parametrize("name", NAMES)
def test_a_score_equals_the_engines_on_the_validated_row(
    models: Models, clients: Clients, requests: Requests, name: str
):
    reply = clients[name].post("/score", json=dict(requests[name]))
    assert reply.status_code == 200, reply.text
    answer = reply.json()
    Answer.model_validate(answer)
    expected = file_scores(models[name], [dict(requests[name])]).iloc[0]
    for column in models[name].engine.score_names:
        assert answer[column] == expected[column]
    assert ("head_score" in answer) is (models[name].engine.detector.head is not None)
    assert answer["is_fraud"] is bool(expected["is_fraud"])
    assert answer["threshold"] == models[name].engine.threshold.value
    assert answer["model_version"] == "7"


def test_one_that_is_not_flagged_comes_with_reasons_where_they_are_asked_for(models: Models, requests: Requests):
    model, body = models["transactions"], dict(requests["transactions"])
    lenient = model.with_threshold(LiveThreshold(value=0.999, by="risk", reason="test", time="2026-01-01T00:00:00Z"))
    usual, always = (
        TestClient(create_app(State(lenient), ApiKeys(), with_reasons=is_always)) for is_always in (False, True)
    )
    without, with_reasons = usual.post("/score", json=body).json(), usual.post("/score?reasons=true", json=body).json()
    assert not with_reasons["is_fraud"] and with_reasons["reasons"]
    assert without == {**with_reasons, "reasons": []}
    assert always.post("/score", json=body).json() == with_reasons
    assert always.post("/score?reasons=false", json=body).json() == without
    assert usual.post("/score?reasons=perhaps", json=body).status_code == 422


def test_the_suspicious_seed_request_comes_with_reasons(client: TestClient, requests: Requests):
    answer = client.post("/score", json=dict(requests["transactions"])).json()
    calm = client.post(
        "/score", json={"amount": 30, "hour": 14, "distance": 2, "device_score": 0.05, "country_mismatch": 0}
    ).json()
    assert answer["score"] > calm["score"]
    assert 1 <= len(answer["reasons"]) <= 3
    contributions = [reason["contribution"] for reason in answer["reasons"]]
    assert contributions == sorted(contributions, reverse=True) and contributions[-1] > 0
    by_column = {reason["column"]: reason for reason in answer["reasons"]}
    assert by_column["device_score"]["value"] == 0.92
    assert by_column["device_score"]["text"].startswith("device_score 0.92 is above the usual 0.0")
    assert by_column["device_score"]["typical"] < 0.5


def test_the_id_comes_back_where_the_schema_has_one(clients: Clients, requests: Requests):
    assert clients["handbook"].post("/score", json=dict(requests["handbook"])).json()["id"] == "17"
    assert clients["mixed"].post("/score", json=dict(requests["mixed"])).json()["id"] is None
    assert "id" not in clients["transactions"].post("/score", json=dict(requests["transactions"])).json()


@given(
    st.fixed_dictionaries(
        {
            "amount": st.floats(0, 1e6) | st.integers(0, 10**6),
            "hour": st.integers(0, 23),
            "distance": st.floats(0, 1e15),
            "device_score": st.floats(0, 1),
            "country_mismatch": st.sampled_from([0, 1, True, False]),
        }
    )
)
@hypothesis_settings(max_examples=40, deadline=None)
def test_any_valid_transaction_scores_as_in_a_file(models: Models, client: TestClient, row: dict[str, object]):
    reply = client.post("/score", json=row)
    assert reply.status_code == 200, reply.text
    assert reply.json()["score"] == file_scores(models["transactions"], [row])["score"].iloc[0]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(), max_size=12), inner, max_size=4)
    ),
    max_leaves=8,
)


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
@hypothesis_settings(max_examples=100, deadline=None)
def test_any_json_gets_an_answer_and_never_a_5xx(
    clients: Clients, models: Models, requests: Requests, name: str, data: Any
):
    fields = [column.name for column in models[name].engine.schema.columns]
    changed = data.draw(st.dictionaries(st.sampled_from(fields) | st.text(max_size=12), JSON, max_size=4))
    body = data.draw(st.sampled_from([{**requests[name], **changed}, changed]) | JSON)
    reply = clients[name].post("/score", content=json.dumps(body), headers=JSON_TYPE)
    assert reply.status_code in (200, 422), reply.text
    (Answer if reply.status_code == 200 else Problems).model_validate(reply.json())


@given(st.binary(max_size=200))
@hypothesis_settings(max_examples=100, deadline=None)
def test_any_bytes_get_a_422(client: TestClient, body: bytes):
    reply = client.post("/score", content=body, headers=JSON_TYPE)
    assert reply.status_code == 422
    assert Problems.model_validate(reply.json()).detail[0].remedy


def one_problem(reply: Any, status: int) -> dict[str, Any]:
    assert reply.status_code == status
    assert reply.headers["content-type"] == "application/json"
    (entry,) = reply.json()["detail"]
    assert entry["remedy"]
    return entry


def test_a_body_too_large_is_a_413_declared_or_not(client: TestClient):
    padded = b'{"amount": 1' + b" " * 70_000 + b"}"
    assert one_problem(client.post("/score", content=padded, headers=JSON_TYPE), 413)["type"] == "body_too_large"
    pieces = (b" " * 1000 for _ in range(100))  # chunked: no Content-Length
    assert one_problem(client.post("/score", content=pieces, headers=JSON_TYPE), 413)["type"] == "body_too_large"


@pytest.mark.parametrize(
    "content_type", [None, "text/plain", "application/x-www-form-urlencoded", "application/jsonx", "json"]
)
def test_another_content_type_is_a_415(client: TestClient, requests: Requests, content_type: str | None):
    headers = {} if content_type is None else {"Content-Type": content_type}
    body = json.dumps(dict(requests["transactions"])).encode()
    entry = one_problem(client.post("/score", content=body, headers=headers), 415)
    assert "Content-Type: application/json" in entry["remedy"]


def test_json_by_other_names_is_read_and_compression_is_not(client: TestClient, requests: Requests):
    body = json.dumps(dict(requests["transactions"])).encode()
    for content_type in ("application/json; charset=utf-8", "Application/JSON", "application/vnd.bank+json"):
        assert client.post("/score", content=body, headers={"Content-Type": content_type}).status_code == 200
    entry = one_problem(client.post("/score", content=body, headers={**JSON_TYPE, "Content-Encoding": "gzip"}), 415)
    assert entry["field"] == "Content-Encoding"


def test_unknown_paths_and_methods_answer_in_the_same_shape(client: TestClient):
    assert one_problem(client.get("/nothing"), 404)["type"] == "not_found"
    assert one_problem(client.get("/score"), 405)["type"] == "method_not_allowed"


def test_health_and_readiness(client: TestClient, models: Models):
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json() == {"status": "ready"}
    broken = replace(models["transactions"], engine=Unable(models["transactions"].engine))
    reply = TestClient(create_app(State(broken), ApiKeys())).get("/readyz")
    assert reply.status_code == 503


class Unable:
    """An engine whose scores are no numbers."""

    def __init__(self, engine: Any) -> None:
        self.detector, self.schema, self.threshold = engine.detector, engine.schema, engine.threshold

    def score_raw(self, raw: Any) -> Any:
        return raw * float("nan")

    def score_and_explain(self, transaction: dict[str, object], top: int, **how: bool) -> Any:
        raise ValueError(f"no score for {transaction}")


def test_a_failure_of_ours_is_a_500_that_tells_and_logs_no_data(
    models: Models, requests: Requests, caplog: pytest.LogCaptureFixture
):
    broken = replace(models["transactions"], engine=Unable(models["transactions"].engine))
    client = TestClient(create_app(State(broken), ApiKeys()))
    with caplog.at_level(logging.DEBUG):
        reply = client.post("/score", json={**requests["transactions"], "amount": 123456.5})
    assert one_problem(reply, 500)["type"] == "internal_error"
    assert "ValueError" in caplog.text and "score_and_explain" in caplog.text
    assert "123456.5" not in caplog.text + reply.text


def test_no_request_is_logged(client: TestClient, requests: Requests, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.DEBUG):
        client.post("/score", json={**requests["transactions"], "amount": 4242.25})
        client.post("/score", json={**requests["transactions"], "amount": "4242.25"})
    assert "4242" not in caplog.text


@pytest.mark.parametrize("name", NAMES)
def test_the_model_describes_itself(clients: Clients, models: Models, schemas: dict[str, Schema], name: str):
    described = clients[name].get("/model").json()
    ModelInfo.model_validate(described)
    assert described["model_version"] == "7"
    assert described["bundle_sha256"] == models[name].sha256
    assert Schema.from_dict(described["data_schema"]) == schemas[name]
    assert Threshold.from_dict(described["threshold"]) == models[name].engine.threshold
    assert described["threshold"]["window"]["rows"] > 0
    assert described["metrics"]["joined"]["alert_rate"] >= 0
    assert described["created"] and described["windows"] and described["libraries"]["numpy"]


def test_numbers_that_json_lacks_become_null(models: Models):
    odd = replace(
        models["transactions"], manifest={"metrics": {"joined": {"roc_auc": float("nan"), "worst": [float("inf")]}}}
    )
    described = TestClient(create_app(State(odd), ApiKeys())).get("/model").json()
    assert described["metrics"] == {"joined": {"roc_auc": None, "worst": [None]}}
    assert described["created"] is None


def test_a_new_model_answers_the_next_request(models: Models, requests: Requests):
    state = State(models["transactions"])
    client = TestClient(create_app(state, ApiKeys()))
    assert client.post("/score", json=dict(requests["transactions"])).json()["model_version"] == "7"
    state.model = replace(models["handbook"], version="8")
    assert client.post("/score", json=dict(requests["transactions"])).status_code == 422
    assert client.post("/score", json=dict(requests["handbook"])).json()["model_version"] == "8"
    assert "TX_AMOUNT" in client.get("/openapi.json").json()["components"]["schemas"]["Transaction"]["properties"]


def test_openapi_types_the_request(clients: Clients, requests: Requests):
    document = clients["transactions"].get("/openapi.json").json()
    operation = document["paths"]["/score"]["post"]
    content = operation["requestBody"]["content"]["application/json"]
    assert content["example"] == dict(requests["transactions"])
    transaction = document["components"]["schemas"][content["schema"]["$ref"].split("/")[-1]]
    assert transaction["additionalProperties"] is False
    assert transaction["required"] == list(dict(requests["transactions"]))
    assert transaction["properties"]["device_score"] == {
        "type": "number", "minimum": 0, "maximum": 1, "examples": [0.92],
        "description": "Risk of the device, 0 (well known) to 1 (never seen or known to be bad).",
    }  # fmt: skip
    assert transaction["properties"]["hour"]["type"] == "integer"
    assert {"200", "401", "413", "415", "422", "503"} <= set(operation["responses"])
    assert "ValidationError" not in json.dumps(document)
    assert "securitySchemes" not in document["components"]


def test_openapi_of_every_kind_of_column(clients: Clients):
    mixed = clients["mixed"].get("/openapi.json").json()["components"]["schemas"]["Transaction"]
    assert mixed["required"] == ["seconds", "class", "_score"]
    assert mixed["properties"]["class"]["enum"] == ["atm", "shop", "web"]
    assert mixed["properties"]["is_new"]["type"] == ["boolean", "integer", "null"]
    assert (mixed["properties"]["is_new"]["minimum"], mixed["properties"]["is_new"]["maximum"]) == (0, 1)
    assert mixed["properties"]["reference"]["type"] == ["string", "integer", "null"]
    assert mixed["properties"]["seconds"]["type"] == "number"
    handbook = clients["handbook"].get("/openapi.json").json()["components"]["schemas"]["Transaction"]
    assert handbook["properties"]["TX_DATETIME"]["format"] == "date-time"
    assert "TX_FRAUD" not in handbook["properties"]


def test_openapi_tells_what_guard_and_batches_answer(clients: Clients):
    paths = clients["handbook"].get("/openapi.json").json()["paths"]
    batch = paths["/score/batch"]["post"]
    assert set(batch["responses"]["200"]["content"]) == {"application/json"}
    assert set(batch[STREAMS_KEY]) == {NDJSON, ARROW}
    for path in ("/score", "/model", "/metrics"):
        (operation,) = paths[path].values()
        for status in ("401", "422", "429", "503"):
            assert list(operation["responses"][status]["content"]) == ["application/json"], (path, status)
    assert "401" not in paths["/healthz"]["get"]["responses"]


def test_the_document_declares_what_clients_send_and_names_their_functions(client: TestClient):
    document = client.get("/openapi.json").json()
    operations = {each["operationId"]: each for path in document["paths"].values() for each in path.values()}
    assert set(operations) == {"score", "score_batch", "explain", "model", "health", "ready", "metrics"}
    names = {name: [each["name"] for each in each_of.get("parameters", [])] for name, each_of in operations.items()}
    assert names["score"] == ["learn", "reasons", "X-Deadline-Ms"] and names["score_batch"] == ["learn", "reasons"]
    for path in PATHS:
        if operation := document["paths"].get(path.path, {}).get(path.method.lower()):
            queries = [each["name"] for each in operation.get("parameters", []) if each["in"] == "query"]
            assert queries == list(path.query or ()), path
    assert {tag["name"] for tag in document["tags"]} == {tag for each in operations.values() for tag in each["tags"]}
    assert [server["url"] for server in document["servers"]] == ["/v1", "/"]


@pytest.mark.parametrize("name", ["transactions", "handbook"])
def test_an_answer_says_where_its_time_went(bundles: dict[str, Path], requests: Requests, tmp_path: Path, name: str):
    settings = Settings.from_environment({"FRAUD_ROOT": str(tmp_path)})
    client = TestClient(create_app(State(load_model(settings, folder=str(bundles[name]))), ApiKeys()))
    body = dict(requests[name])

    def spent(reply: Any) -> dict[str, float]:
        parts = [part.split(";dur=") for part in reply.headers["server-timing"].split(", ")]
        return {part: float(milliseconds) for part, milliseconds in parts}

    score = spent(client.post("/score", json=body))
    assert list(score) == (["engine", "history", "total"] if name == "handbook" else ["engine", "total"])
    assert 0 < score.get("history", 1e-9) <= score["engine"] <= score["total"]
    for reply in (client.post("/explain", json=body), client.post("/v1/score/batch", json=[body, body])):
        assert 0 < spent(reply)["engine"] <= spent(reply)["total"]
    assert spent(client.post("/score", json=body, headers={"X-Deadline-Ms": "0"})).keys() == {"total"}
    assert "server-timing" not in client.get("/model").headers


def test_a_model_is_loaded_from_a_folder_below_the_root(bundles: dict[str, Path]):
    folder = bundles["mixed"]
    settings = replace(Settings.from_environment(), root=folder.parent)
    model = load_model(settings, folder="mixed")
    assert model.version == f"bundle-{model.sha256[:12]}"
    assert model.sha256 == bundle.load(folder).sha256
    with pytest.raises(BundleError, match="holds no manifest"):
        load_model(settings, folder="nowhere")


def test_the_champion_comes_from_the_registry(bundles: dict[str, Path]):
    from fraud.registry import runs, versions

    settings = Settings.from_environment()
    with pytest.raises(RegistryError, match="champion"):
        load_model(settings)
    run = runs.start_run(settings, "test")
    registered = versions.register(settings, run, bundles["transactions"])
    model = load_model(settings)
    assert (model.version, model.sha256, model.name) == ("1", registered.sha256, settings.model_name)


def test_a_replica_with_a_bundle_loads_nothing_heavy(bundles: dict[str, Path]):
    code = f"""
import sys
from fraud.settings import Settings
from serve_app.app import create_app
from serve_app.auth import ApiKeys
from serve_app.model.state import State, load_model
model = load_model(Settings.from_environment(), folder={str(bundles["transactions"])!r})
model.answer(model.reader.parse(b'{{"amount": 1, "hour": 1, "distance": 1, "device_score": 0, "country_mismatch": 0}}'))
create_app(State(model), ApiKeys()).openapi()
heavy = ("torch", "sklearn", "matplotlib", "mlflow", "evidently", "ray")
sys.stdout.write(" ".join(name for name in heavy if name in sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
