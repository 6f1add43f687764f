"""The documented examples are valid: for the shipped schemas and for one that was guessed from a stranger's file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from starlette.testclient import TestClient

from fraud.schema.columns import Column
from serve_app.app import create_app
from serve_app.auth import ApiKeys
from serve_app.model.state import ServedModel, State
from serve_app.request.examples import example_of

NAMES = ("transactions", "handbook", "mixed", "guessed")


@pytest.fixture(scope="module")
def served(models: dict[str, ServedModel], guessed: ServedModel) -> dict[str, ServedModel]:
    """{name: model}."""
    return {**models, "guessed": guessed}


def examples(document: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Every (path, body) of the document's requests."""
    for path, methods in document["paths"].items():
        for operation in methods.values():
            for content in operation.get("requestBody", {}).get("content", {}).values():
                yield path, content["example"]


@pytest.mark.parametrize("name", NAMES)
def test_every_documented_example_is_scored(served: dict[str, ServedModel], name: str):
    client = TestClient(create_app(State(served[name]), ApiKeys()))
    document = client.get("/openapi.json").json()
    sent = list(examples(document))
    assert {path for path, _ in sent} == {"/score", "/score/batch", "/explain"}
    for path, body in sent:
        reply = client.post(path, json=body)
        assert reply.status_code == 200, reply.text
        assert reply.json().get("rejected", 0) == 0
    fields = document["components"]["schemas"]["Transaction"]["properties"]
    assert {field: schema["examples"][0] for field, schema in fields.items()} == sent[0][1]


def test_the_document_publishes_no_guess_of_a_schema(guessed: ServedModel):
    document = TestClient(create_app(State(guessed), ApiKeys())).get("/openapi.json").json()
    assert "Guessed" in guessed.engine.schema.description
    assert "Guessed" not in json.dumps(document)
    fields = document["components"]["schemas"]["Transaction"]["properties"]
    assert fields["amount"]["description"] == "Send a number of at least 0."


def test_an_example_that_may_no_longer_be_sent_is_replaced(models: dict[str, ServedModel]):
    detector = models["handbook"].engine.detector
    old = tuple(
        replace(column, example="1994-01-01T00:00:00") if column.kind == "timestamp" else column
        for column in detector.schema.columns
    )
    example = example_of(replace(detector, schema=replace(detector.schema, columns=old)))
    assert str(example["TX_DATETIME"]) > "2018" and example["TX_AMOUNT"] == 57.16


def test_a_time_of_decades_ago_is_refused_unless_the_schema_wants_it(served: dict[str, ServedModel]):
    model = served["handbook"]
    client = TestClient(create_app(State(model), ApiKeys()))
    for time in ("1970-01-01T00:00:00", "1996-05-01T00:00:00", "2099-01-01T00:00:00"):
        reply = client.post("/score", json={**model.example, "TX_DATETIME": time})
        (entry,) = reply.json()["detail"]
        assert (reply.status_code, entry["type"], entry["field"]) == (422, "out_of_range", "TX_DATETIME")
        assert entry["remedy"].startswith("correct the time")
    from serve_app.request.fields import check_of

    archive = Column(name="t", kind="timestamp", oldest="1990-01-01")
    assert check_of(archive)("1996-05-01T00:00:00")
