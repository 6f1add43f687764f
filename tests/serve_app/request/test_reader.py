"""What a request may hold: a wrong value is refused with field and remedy, a right one reads as a file's would."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from fraud.schema import Column, Schema, validate
from serve_app.request.fields import check_of
from serve_app.request.problems import MOST_PROBLEMS, Rejected
from serve_app.request.reader import TransactionReader, parse_object

Requests = dict[str, Mapping[str, object]]
Schemas = dict[str, Schema]


def problems(reader: TransactionReader, body: object) -> list[dict[str, Any]]:
    """The problems of a body that must be refused."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    with pytest.raises(Rejected) as caught:
        reader.parse(raw)
    assert caught.value.status == 422
    return list(caught.value.problems)


def only_problem(reader: TransactionReader, body: object) -> dict[str, Any]:
    entries = problems(reader, body)
    assert len(entries) == 1
    return entries[0]


def test_the_seed_request_reads_unchanged(schemas: Schemas, requests: Requests):
    read = TransactionReader(schemas["transactions"]).parse(json.dumps(dict(requests["transactions"])).encode())
    assert read == {"amount": 220.0, "hour": 3.0, "distance": 12.0, "device_score": 0.92, "country_mismatch": 1.0}


@pytest.mark.parametrize(
    ("field", "literal", "kind", "remedy"),
    [
        ("amount", '"220"', "number_type", "without quotes"),
        ("amount", "true", "number_type", "from 0 to 1000000"),
        ("amount", "[1]", "number_type", "send a number"),
        ("amount", "null", "null_not_allowed", "send a number"),
        ("amount", "NaN", "finite_number", "send a number"),
        ("amount", "-Infinity", "finite_number", "send a number"),
        ("amount", "1e400", "finite_number", "from 0 to 1000000"),
        ("amount", "1e300", "out_of_range", "from 0 to 1000000"),
        ("amount", "9" * 5000, "finite_number", "from 0 to 1000000"),
        ("amount", "9" * 300, "out_of_range", "from 0 to 1000000"),
        ("amount", "-0.01", "out_of_range", "from 0 to 1000000"),
        ("distance", "-1", "out_of_range", "of at least 0"),
        ("hour", "3.5", "whole_number", "whole number from 0 to 23"),
        ("hour", "24", "out_of_range", "whole number from 0 to 23"),
        ("device_score", "1.0001", "out_of_range", "from 0 to 1"),
        ("country_mismatch", "2", "bool_type", "true or false"),
        ("country_mismatch", '"yes"', "bool_type", "true or false"),
    ],
)
def test_a_wrong_value_names_field_and_remedy(
    schemas: Schemas, requests: Requests, field: str, literal: str, kind: str, remedy: str
):
    body = json.dumps({**requests["transactions"], field: "HERE"}).replace('"HERE"', literal)
    entry = only_problem(TransactionReader(schemas["transactions"]), body.encode())
    assert (entry["field"], entry["loc"], entry["type"]) == (field, ["body", field], kind)
    assert remedy in entry["remedy"]
    assert entry["msg"].startswith(f"{field}: ")
    assert len(entry["msg"]) < 120


@pytest.mark.parametrize("literal", ["true", "false", "1", "0", "1.0", "0.0"])
def test_booleans(schemas: Schemas, requests: Requests, literal: str):
    body = json.dumps({**requests["transactions"], "country_mismatch": "HERE"}).replace('"HERE"', literal)
    read = TransactionReader(schemas["transactions"]).parse(body.encode())
    assert read["country_mismatch"] == float(json.loads(literal))


def test_every_wrong_field_is_named_at_once(schemas: Schemas):
    entries = problems(TransactionReader(schemas["transactions"]), {"amount": -1, "hour": "3", "distance": 2})
    assert {entry["field"]: entry["type"] for entry in entries} == {
        "amount": "out_of_range", "hour": "number_type", "device_score": "missing", "country_mismatch": "missing",
    }  # fmt: skip


def test_a_misspelt_field_is_recognised(schemas: Schemas, requests: Requests):
    body = dict(requests["transactions"])
    body["devise_score"] = body.pop("device_score")
    missing, extra = problems(TransactionReader(schemas["transactions"]), body)
    assert (missing["type"], missing["field"]) == ("missing", "device_score")
    assert "is it what you called 'devise_score'?" in missing["msg"]
    assert (extra["type"], extra["field"]) == ("extra_forbidden", "devise_score")
    assert extra["remedy"] == "did you mean 'device_score'?"


def test_label_and_ignored_columns_are_told_apart(schemas: Schemas, requests: Requests):
    reader = TransactionReader(schemas["mixed"])
    label = only_problem(reader, {**requests["mixed"], "is_fraud": 1})
    assert "label" in label["msg"] and label["remedy"] == "leave it out"
    ignored = only_problem(reader, {**requests["mixed"], "left_out": 1})
    assert "no use" in ignored["msg"] and ignored["remedy"] == "leave it out"
    alien = only_problem(reader, {**requests["mixed"], "zzzzzz": 1})
    assert alien["remedy"].startswith("the fields are reference, seconds")


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"", "json_invalid"),
        (b" \n", "json_invalid"),
        (b'{"amount": 1', "json_invalid"),
        (b'{"amount": 1}}', "json_invalid"),
        (b"{'amount': 1}", "json_invalid"),
        (b"\xff\xfe{}", "json_invalid"),
        ("{}".encode("utf-16"), "json_invalid"),
        (b"[" * 60_000, "json_invalid"),
        (b'{"a":' * 10_000, "json_invalid"),
        (b"[]", "object_type"),
        (b'"text"', "object_type"),
        (b"null", "object_type"),
        (b"12", "object_type"),
        (b'{"amount": 1, "amount": 2}', "repeated_field"),
    ],
)
def test_a_body_that_is_no_json_object(body: bytes, kind: str):
    with pytest.raises(Rejected) as caught:
        parse_object(body)
    (entry,) = caught.value.problems
    assert caught.value.status == 422
    assert entry["type"] == kind
    assert entry["remedy"]


def test_thousands_of_unknown_fields_get_a_short_answer(schemas: Schemas, requests: Requests):
    body = {**requests["transactions"], **{f"amoun{number}": 0 for number in range(3000)}}
    entries = problems(TransactionReader(schemas["transactions"]), body)
    assert len(entries) == MOST_PROBLEMS + 1
    assert entries[-1]["type"] == "too_many"


def test_half_a_surrogate_pair_is_refused_and_can_be_told(schemas: Schemas, requests: Requests):
    reader = TransactionReader(schemas["handbook"])
    assert only_problem(reader, {**requests["handbook"], "CUSTOMER_ID": "\ud800"})["type"] == "string_unicode"
    assert json.dumps(problems(reader, {**requests["handbook"], "\ud800": 1})).encode()


@pytest.mark.parametrize("value", [1.5, True, "", "  ", None, [], {}])
def test_ids_and_entities_are_text_or_whole_numbers(schemas: Schemas, requests: Requests, value: object):
    entry = only_problem(TransactionReader(schemas["handbook"]), {**requests["handbook"], "CUSTOMER_ID": value})
    assert entry["field"] == "CUSTOMER_ID"


def test_categories(schemas: Schemas, requests: Requests):
    reader = TransactionReader(schemas["mixed"])
    entry = only_problem(reader, {**requests["mixed"], "class": "shopp"})
    assert (entry["type"], entry["remedy"]) == ("category", "did you mean 'shop'?")
    assert only_problem(reader, {**requests["mixed"], "class": "???"})["remedy"] == "send one of atm, shop, web"
    assert (
        reader.parse(json.dumps({**requests["mixed"], "Unnamed: 0": "never seen"}).encode())["Unnamed: 0"]
        == "never seen"
    )


def test_nullable_fields_may_be_left_out_or_null(schemas: Schemas, requests: Requests):
    reader = TransactionReader(schemas["mixed"])
    short = reader.parse(json.dumps(dict(requests["mixed"])).encode())
    nulls = {"reference": None, "Unnamed: 0": None, "model_config": None, "is_new": None}
    assert list(short) == [column.name for column in schemas["mixed"].inputs]
    assert short == reader.parse(json.dumps({**requests["mixed"], **nulls}).encode())
    assert short.items() >= nulls.items()
    entry = only_problem(reader, json.dumps({**requests["mixed"], "model_config": float("nan")}).encode())
    assert entry["remedy"].endswith("or null")


@pytest.mark.parametrize(
    "value",
    [
        "2018-09-01T10:15:00", "2018-09-01 10:15", "2018-09-01", "2018-09-01T10:15:00.123", "2018-09-01T10:15:00Z",
        "2018-09-01T10:15:00+05:30", "2018-09-01T10:15:00.123456789Z", "2018-09-01T10:15:00-0300",
        " 2018-09-01T10:15:00 ", "1990-01-01", "1990-01-01T05:00:00+05:00",
    ],
)  # fmt: skip
def test_times_read_as_in_a_file(schemas: Schemas, requests: Requests, value: str):
    """Where the schema sets `oldest`; without it requests refuse what is decades old."""
    request = {**requests["handbook"], "TX_DATETIME": value}
    assert_reads_as_a_file(with_oldest(schemas["handbook"], "1990-01-01"), request)
    if value.startswith("1990"):
        (entry,) = problems(TransactionReader(schemas["handbook"]), request)
        assert entry["type"] == "out_of_range"


def with_oldest(schema: Schema, day: str) -> Schema:
    """The schema with a first day for its times."""
    columns = (replace(column, oldest=day) if column.kind == "timestamp" else column for column in schema.columns)
    return replace(schema, columns=tuple(columns))


@pytest.mark.parametrize(
    "value",
    [
        "yesterday", "2018-13-01", "2018-02-30T00:00:00", "2018-09-01T25:00", "01.09.2018", "2018-W35-1", "20180901",
        "1899-12-31T23:59:59", "2200-01-01", "9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+23:59", "", None, True,
        1535796900, [],
        "２018-09-01", "2018-09-01t10:15:00z", "2018-09-01T10:15:00+99:99",
    ],
)  # fmt: skip
def test_what_is_no_time_is_refused(schemas: Schemas, requests: Requests, value: object):
    entry = only_problem(TransactionReader(schemas["handbook"]), {**requests["handbook"], "TX_DATETIME": value})
    assert entry["field"] == "TX_DATETIME" and entry["remedy"].startswith("send ")


@pytest.mark.parametrize("value", ["2018-09-01", 1e300, -1e12, True, float("nan")])
def test_a_time_with_a_unit_is_a_number(schemas: Schemas, requests: Requests, value: object):
    entry = only_problem(TransactionReader(schemas["mixed"]), {**requests["mixed"], "seconds": value})
    assert entry["field"] == "seconds"


WIRE = {
    "reference": st.none() | st.integers(-(10**18), 10**18) | st.text("ab0. 1é", min_size=1),
    "seconds": st.integers(0, 10**9) | st.floats(0, 1e9),
    "class": st.sampled_from(["atm", "shop", "web", " web "]),
    "Unnamed: 0": st.none() | st.sampled_from(["a", "zzz", "1.0", "-12.00"]) | st.integers(-99, 99),
    "model_config": st.none() | st.floats(-1e15, 1e15) | st.integers(-(10**15), 10**15),
    "_score": st.integers(-5, 5) | st.integers(-5, 5).map(float),
    "is_new": st.none() | st.booleans() | st.sampled_from([0, 1, 0.0, 1.0]),
}


@given(st.fixed_dictionaries({}, optional=WIRE))
@hypothesis_settings(max_examples=150, deadline=None)
def test_what_is_accepted_reads_as_in_a_file(schemas: Schemas, given_fields: dict[str, object]):
    request = {"seconds": 1_000_100, "class": "web", "_score": -2, **given_fields}
    try:
        TransactionReader(schemas["mixed"]).parse(json.dumps(request).encode())
    except Rejected as error:  # a text of blanks only
        assert [entry["type"] for entry in error.problems] == ["string_empty"]
    else:
        assert_reads_as_a_file(schemas["mixed"], request)


@pytest.mark.parametrize("text", ["١.0", "-١٢.00", "12.0", " 7.000 ", "1.0.0", "-0.0"])
def test_a_whole_number_as_text_reads_as_in_a_file(schemas: Schemas, requests: Requests, text: str):
    assert_reads_as_a_file(schemas["mixed"], {**requests["mixed"], "reference": text})


def assert_reads_as_a_file(schema: Schema, request: dict[str, object]) -> None:
    """The reader's canonical values are those that fraud.schema.validate makes of a one-row table."""
    read = TransactionReader(schema).parse(json.dumps(request).encode())
    frame = pd.DataFrame({name: pd.Series([request.get(name)], dtype=object) for name in read})
    checked = validate(frame, schema)
    assert checked.quarantine.empty, checked.quarantine
    for name, value in read.items():
        expected = checked.rows[name].iloc[0]
        if value is None:
            assert pd.isna(expected)
        elif isinstance(expected, pd.Timestamp):
            assert value == expected.to_pydatetime()
        else:
            assert value == expected and isinstance(value, float) == isinstance(expected, float | np.floating)


def test_limits_that_nobody_wrote_are_not_in_the_remedy():
    with pytest.raises(Exception, match="1e\\+16 is outside -1e\\+15 to 1e\\+15") as caught:
        check_of(Column(name="x", kind="numeric"))(1e16)
    assert caught.value.context["remedy"] == "send a number"


def test_of_thousands_of_unknown_fields_a_few_are_told_and_the_rest_counted(schemas: Schemas, requests: Requests):
    body = {**requests["transactions"], **{f"x{i}": 1 for i in range(3000)}}
    entries = problems(TransactionReader(schemas["transactions"]), body)
    assert [each["type"] for each in entries] == ["extra_forbidden"] * 20 + ["too_many"]
    assert entries[-1]["msg"] == "2980 more problems are not listed"


def test_suggestions_are_looked_for_a_few_times(schemas: Schemas, requests: Requests):
    """Each compares names letter by letter; a body of 64 KiB could ask for ten thousand of them."""
    body = {**requests["transactions"], **{f"amount{i}": 1 for i in range(20)}}
    remedies = [each["remedy"] for each in problems(TransactionReader(schemas["transactions"]), body)]
    assert sum("did you mean" in remedy for remedy in remedies) == 5
    assert all("the fields are" in remedy for remedy in remedies[5:20])


def test_a_text_has_a_longest_length(schemas: Schemas, requests: Requests):
    """An entity of 60 KiB would stay in the history's memory."""
    reader = TransactionReader(schemas["handbook"])
    request = {**requests["handbook"], "CUSTOMER_ID": "x" * 1024}
    assert reader.parse(json.dumps(request).encode())["CUSTOMER_ID"] == "x" * 1024
    (entry,) = problems(reader, {**request, "CUSTOMER_ID": "x" * 1025})
    assert entry["type"] == "string_too_long" and "1,024" in entry["remedy"]
    assert reader.json_schema()["properties"]["CUSTOMER_ID"]["maxLength"] == 1024


def test_a_time_far_from_now_is_refused_as_in_a_file(schemas: Schemas, requests: Requests):
    """The quick way of reading, the careful one and a file say the same of it."""
    reader = TransactionReader(schemas["handbook"])
    now = dt.datetime.now(dt.UTC)
    for days, is_read in ((0.9, True), (1.1, False), (30_000, False)):
        time = (now + dt.timedelta(days=days)).isoformat()
        request = {**requests["handbook"], "TX_DATETIME": time}
        if is_read:
            assert_reads_as_a_file(schemas["handbook"], request)
            continue
        (entry,) = problems(reader, request)
        assert reader.parse_many([json.dumps(request).encode()] * 2) is None
        (row,) = validate(pd.DataFrame([request]), schemas["handbook"]).quarantine.to_dict("records")
        assert (entry["type"], row["column"]) == ("out_of_range", "TX_DATETIME")
        for words in ("is later than ", "Z, 1 day ahead of this machine's clock"):
            assert words in entry["msg"] and words in row["reason"]
        assert row["reason"].endswith(f"; {entry['remedy']}")
        assert "set a larger `horizon_days` for column 'TX_DATETIME' in the schema" in entry["remedy"]
    (entry,) = problems(reader, {**requests["handbook"], "TX_DATETIME": "1970-01-18T18:36:36"})
    first = f"{now.year - 20}-01-01"
    assert entry["msg"] == f'TX_DATETIME: "1970-01-18T18:36:36" is before {first}'
    assert "`oldest` for column 'TX_DATETIME'" in entry["remedy"]


def test_a_time_in_the_wrong_century_is_said_to_be_that(schemas: Schemas, requests: Requests):
    reader = TransactionReader(schemas["handbook"])
    for time in ("1018-09-01T10:15:00", "2200-01-01", "0001-01-01T00:00:00+10:00"):
        (entry,) = problems(reader, {**requests["handbook"], "TX_DATETIME": time})
        assert entry["type"] == "out_of_range", entry
