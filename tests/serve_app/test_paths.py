"""The table of paths is what the app serves, asks keys for, answers before the router, counts and traces."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping

import pytest
from starlette.routing import Route
from starlette.testclient import TestClient

from serve_app.app import create_app
from serve_app.auth import ApiKeys
from serve_app.http.access_log import AccessLog
from serve_app.http.guard import Guard
from serve_app.metrics.counters import Metrics
from serve_app.model.state import ServedModel, State
from serve_app.paths import HOT, PATHS, VERSION, Path, name_of
from tests.serve_app.http.test_guard import KEYS, call, counted, scope_of


def test_the_apps_routes_are_the_table(models: dict[str, ServedModel]):
    app = create_app(State(models["transactions"]), ApiKeys())
    routes = [route for route in app.routes if isinstance(route, Route)]
    assert len(routes) == len(app.routes)
    assert {(route.path, method) for route in routes for method in route.methods or ()} == {
        *((path.path, path.method) for path in PATHS),
        *((path.path, "HEAD") for path in PATHS if path.method == "GET"),
    }
    (guard,) = [middleware for middleware in app.user_middleware if middleware.cls is Guard]
    assert set(guard.kwargs["handlers"]) == HOT


@pytest.mark.parametrize("version", ["", VERSION])
@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.path)
def test_a_path_asks_for_a_key_where_the_table_says_so(models: dict[str, ServedModel], path: Path, version: str):
    app = create_app(State(models["transactions"]), KEYS)
    status = asyncio.run(call(app, scope_of(version + path.path, path.method))).status
    assert (status == 401) == path.needs_key and status != 404


def test_a_path_below_the_version_answers_as_the_path_and_has_its_name(
    models: dict[str, ServedModel], requests: dict[str, Mapping[str, object]], caplog: pytest.LogCaptureFixture
):
    metrics = Metrics()
    app = create_app(State(models["transactions"]), ApiKeys(), metrics=metrics, access_log=AccessLog(1.0))
    client, body = TestClient(app), dict(requests["transactions"])
    with caplog.at_level(logging.INFO, "serve_app.access"):
        for path in ("/score", "/explain"):
            assert client.post(VERSION + path, json=body).json() == client.post(path, json=body).json()
        assert client.get("/v1/model").json() == client.get("/model").json()
        assert [client.get(path).status_code for path in ("/v1", "/v1/", "/v1/v1/model", "/v2/model")] == [404] * 4
    assert counted(metrics, "fraud_requests") == {
        ("/score", "200"): 2, ("/explain", "200"): 2, ("/model", "200"): 2, ("other", "404"): 4,
    }  # fmt: skip
    logged = [json.loads(record.getMessage())["path"] for record in caplog.records]
    assert logged == ["/score"] * 2 + ["/explain"] * 2 + ["/model"] * 2 + ["other"] * 4


def test_the_version_stands_behind_the_prefix_of_serve(models: dict[str, ServedModel]):
    client = TestClient(create_app(State(models["transactions"]), ApiKeys()), root_path="/prefix")
    for path in ("/prefix/openapi.json", "/prefix/v1/openapi.json"):
        assert client.get(path).json()["servers"] == [{"url": "/prefix/v1"}, {"url": "/prefix"}], path
    assert client.get("/prefix/v1/model").status_code == 200


def test_what_answers_get_answers_head_without_a_body(models: dict[str, ServedModel]):
    client = TestClient(create_app(State(models["transactions"]), ApiKeys()))
    for path in (path.path for path in PATHS if path.method == "GET"):
        reply = client.head(path)
        assert (reply.status_code, reply.content) == (200, b""), path


def test_every_path_has_its_own_name_in_counts_and_traces():
    assert {name_of(path.path) for path in PATHS} == {path.path for path in PATHS}
    assert name_of("/score/4929") == name_of("") == "other"
