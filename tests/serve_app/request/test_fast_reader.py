"""The quick way to read a request and the careful one: the same answer to every body, to the byte."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from fraud.schema import Schema
from serve_app.app import create_app
from serve_app.auth import ApiKeys
from serve_app.model.state import ServedModel, State
from serve_app.request.reader import FastReader, TransactionReader

Requests = dict[str, Mapping[str, object]]
Schemas = dict[str, Schema]
Clients = dict[str, TestClient]
NAMES = ("transactions", "handbook", "mixed")
JSON_TYPE = {"Content-Type": "application/json"}
# What a caller might write for one value, right for some columns and wrong for others.
LITERALS = st.sampled_from(
    [
        "0", "-0", "-0.0", "1", "1.0", "1e0", "1E+2", "0.1", "3.0000000000000001", "23", "24", "1e400", "-1e300", "NaN",
        "Infinity", "01", "1.", "+1", "true", "false", "null", "[]", "{}", '""', '" "', '"a"', '"3"', '"17.0"', '"web"',
        '" web "', '"we:b"', '"{,}"', '"\\u00e9"', '"é"', '"a\\"b"', '"\\ud800"', '"2018-09-01"',
        '"2018-09-01T10:15:00Z"',
        '"2018-09-01T10:15:00.123456789+05:30"', '"2018-02-30"', '"1899-12-31"', "9007199254740993", "9" * 39, "9" * 40,
        "9" * 41, "-" + "9" * 39, "-" + "9" * 40, "9" * 5000, "18446744073709551616", '"\x01"', '"\x7f"', "1 2", "'a'",
    ]
)  # fmt: skip
NUMBERS = st.floats().map(repr) | st.integers().map(str) | st.floats(-6, 6).map(repr) | st.integers(-6, 30).map(str)
TEXTS = st.text(st.characters(exclude_categories=()), max_size=8)
VALUES = LITERALS | NUMBERS | TEXTS.map(json.dumps) | st.text(max_size=5).map(lambda text: f'"{text}"')
BREAKS = st.sampled_from([b"", b" ", b"\x00", b"}", b"{", b",", b'"', b"\\", b"\xff", b"\xef\xbb\xbf", b"//", b"\x0b"])


@st.composite
def bodies(draw: Any, schema: Schema, request: Mapping[str, object]) -> bytes:
    """A body near a good one: some values changed, fields left out, repeated, misspelt, and sometimes broken bytes."""
    names = [column.name for column in schema.columns]
    pairs = [(name, json.dumps(value)) for name, value in request.items() if draw(st.integers(0, 15)) != 0]
    names_drawn = st.sampled_from(names) if draw(st.booleans()) else st.sampled_from(list(request))
    pairs = [(name, draw(VALUES) if draw(st.integers(0, 7)) == 0 else text) for name, text in pairs]
    if draw(st.booleans()):
        pairs.append((draw(names_drawn | st.sampled_from(["x", "", "left_out", "Amount"])), draw(VALUES)))
    pairs = draw(st.permutations(pairs))
    colon, comma = draw(st.sampled_from([(": ", ", "), (":", ","), (" :\t", "\n,\r\n")]))
    text = "{" + comma.join(f"{json.dumps(name)}{colon}{value}" for name, value in pairs) + "}"
    body = text.encode("utf-8", "surrogatepass")
    if draw(st.integers(0, 7)) == 0:
        position = draw(st.integers(0, len(body)))
        body = body[:position] + draw(BREAKS) + body[position + draw(st.integers(0, 2)) :]
    return body


@pytest.fixture(scope="module")
def careful(models: dict[str, ServedModel]) -> Clients:
    """Clients of the same models without the quick way."""
    clients = {}
    for name, model in models.items():
        reader = TransactionReader(model.engine.schema)
        reader.parse = reader.parse_carefully  # type: ignore[method-assign]
        clients[name] = TestClient(create_app(State(replace(model, reader=reader)), ApiKeys()))
    return clients


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
@hypothesis_settings(max_examples=340, deadline=None, suppress_health_check=list(HealthCheck))
def test_both_ways_answer_every_body_alike(
    models: dict[str, ServedModel], clients: Clients, careful: Clients, requests: Requests, name: str, data: Any
):
    body = data.draw(bodies(models[name].engine.schema, requests[name]))
    quick, slow = (each[name].post("/score", content=body, headers=JSON_TYPE) for each in (clients, careful))
    assert (quick.status_code, quick.content) == (slow.status_code, slow.content)


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
@hypothesis_settings(max_examples=340, deadline=None, suppress_health_check=list(HealthCheck))
def test_what_the_quick_way_reads_the_careful_one_reads_alike(
    schemas: Schemas, requests: Requests, name: str, data: Any
):
    body = data.draw(bodies(schemas[name], requests[name]))
    read = READERS.setdefault(name, FastReader(schemas[name])).read(body)
    if read is not None:
        careful = CAREFUL.setdefault(name, TransactionReader(schemas[name])).parse_carefully(body)
        assert repr(read) == repr(careful)


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
@hypothesis_settings(max_examples=340, deadline=None, suppress_health_check=list(HealthCheck))
def test_what_is_read_together_the_careful_one_reads_alike(schemas: Schemas, requests: Requests, name: str, data: Any):
    drawn = [data.draw(bodies(schemas[name], requests[name])) for _ in range(data.draw(st.integers(1, 3)))]
    columns = READERS.setdefault(name, FastReader(schemas[name])).read_many(drawn)
    if columns is not None:
        careful = CAREFUL.setdefault(name, TransactionReader(schemas[name]))
        together = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        assert repr(together) == repr([careful.parse_carefully(body) for body in drawn])


READERS: dict[str, FastReader] = {}
CAREFUL: dict[str, TransactionReader] = {}


@pytest.mark.parametrize("name", NAMES)
def test_a_plain_request_takes_the_quick_way(schemas: Schemas, requests: Requests, name: str):
    reader = FastReader(schemas[name])
    assert reader.read(json.dumps(dict(requests[name])).encode()) is not None


@pytest.mark.parametrize(
    "body",
    [
        b'{"amount":1,"hour":3,"distance":12,"device_score":0.92,"country_mismatch":1,"amount":1}',
        b'{"amount":1,"amount":1,"hour":3,"distance":12,"device_score":0.92,"country_mismatch":1}',
        b'{"amount":1,"\\u0061mount":2,"hour":3,"distance":12,"device_score":0.92,"country_mismatch":1}',
    ],
)
def test_a_repeated_field_is_still_refused(client: TestClient, body: bytes):
    reply = client.post("/score", content=body, headers=JSON_TYPE)
    assert reply.status_code == 422 and reply.json()["detail"][0]["type"] == "repeated_field"


def test_a_repeated_text_or_null_is_seen_too(schemas: Schemas):
    reader = FastReader(schemas["mixed"])
    good = b'{"seconds":1,"class":"web","_score":1,"is_new":null'
    assert reader.read(good + b"}") is not None
    for more in (
        b',"class":"web"',
        b',"class":""',
        b',"is_new":null',
        b',"is_new":1',
        b',"reference":"a","reference":1',
    ):
        assert reader.read(good + more + b"}") is None


def test_a_column_whose_name_json_must_escape_is_read_carefully():
    schema = Schema.from_dict({"name": "odd", "columns": [{"name": 'a"b', "kind": "numeric"}]})
    assert FastReader(schema).read(b'{"a\\"b": 1}') is None
    assert TransactionReader(schema).parse(b'{"a\\"b": 1}') == {'a"b': 1.0}


def test_many_are_read_together_as_each_alone_or_not_at_all(models: dict[str, ServedModel]):
    reader = models["handbook"].reader
    row = b'{"TRANSACTION_ID":"a}","TX_DATETIME":"2018-09-01","CUSTOMER_ID":5,"TERMINAL_ID":"3","TX_AMOUNT":57.1}'
    other = row.replace(b'"a}"', b"17").replace(b"57.1", b"3")
    columns = reader.parse_many([row, other, row])
    assert columns is not None
    together = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    assert together == [reader.parse(body) for body in (row, other, row)]
    assert reader.parse_many([]) is None
    cut = row.index(b',"TX_AMOUNT"')
    for bodies in (
        [row, row.replace(b"57.1", b"-1")],  # one is wrong
        [row, row.replace(b'"3"', b'"\\u0033"')],  # unusual
        [row, row + b"," + row],  # two in one body
        [row[:cut], row[cut + 1 :], row + b"," + row],  # one in two bodies and two in one: three all the same
        [row.replace(b'"a}"', b'"a}'), row[: row.index(b"a}")] + b'"' + row[row.index(b"a}") :], row + b"," + row],
        [row, row.replace(b"57.1}", b'57.1,"TX_AMOUNT":57.1}')],  # a field twice
        [row, b" " + row + b" "],
        [row, row.replace(b'"a}"', b'"' + b"a" * reader.limit + b'"')],
    ):
        assert reader.parse_many(bodies) is None, bodies
