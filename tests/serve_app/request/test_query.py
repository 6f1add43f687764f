"""Query parameters: what a path does not know is refused, so that a misspelt parameter is not ignored."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from starlette.testclient import TestClient

from serve_app.paths import PATHS

BY_QUERY = {True: [path for path in PATHS if path.query is not None], False: [p for p in PATHS if p.query is None]}


def test_a_misspelt_parameter_is_refused_with_the_known_ones(client: TestClient, requests: dict[str, Mapping]):
    reply = client.post("/v1/score?lern=false&x=1&learn=false", json=dict(requests["transactions"]))
    assert reply.status_code == 422
    lern, x = reply.json()["detail"]
    assert (lern["type"], lern["loc"], lern["field"]) == ("extra_forbidden", ["query", "lern"], "lern")
    assert lern["remedy"] == "did you mean 'learn'?; the query parameters are learn and reasons"
    assert x["remedy"] == "the query parameters are learn and reasons"


@pytest.mark.parametrize("path", BY_QUERY[True], ids=lambda path: path.path)
def test_every_path_refuses_what_it_does_not_know(client: TestClient, path):
    for query in ("surplus=1", "surplus", "%FF=%FF"):
        reply = client.request(path.method, f"{path.path}?{query}", json={})
        assert reply.status_code == 422, query
        (entry,) = reply.json()["detail"]
        assert entry["type"] == "extra_forbidden" and entry["loc"][0] == "query"
        if not path.query:
            assert entry["remedy"] == "this path takes no query parameters"


@pytest.mark.parametrize("path", BY_QUERY[False], ids=lambda path: path.path)
def test_a_health_check_with_a_parameter_is_answered(client: TestClient, path):
    assert client.get(f"{path.path}?probe=1").status_code == 200


def test_a_parameter_given_twice_is_refused(client: TestClient, requests: dict[str, Mapping]):
    reply = client.post("/score?learn=false&learn=true", json=dict(requests["transactions"]))
    assert reply.status_code == 422 and reply.json()["detail"][0]["type"] == "repeated_field"


def test_thousands_of_parameters_make_a_short_answer(client: TestClient, requests: dict[str, Mapping]):
    query = "&".join(f"p{i}" for i in range(5000))
    reply = client.post(f"/score?{query}", json=dict(requests["transactions"]))
    assert reply.status_code == 422 and len(reply.json()["detail"]) == 20
