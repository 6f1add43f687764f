"""Batches: every row gets the answer that /score gives it alone, in every format; the limits hold."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from fraud.errors import ConfigError
from fraud.settings import Settings
from fraud.settings.serving import BatchLimits
from serve_app.app import create_app
from serve_app.auth import ApiKeys
from serve_app.batch.endpoint import ARROW, NDJSON
from serve_app.batch.json import TextRows, elements_of
from serve_app.metrics.counters import Metrics
from serve_app.model.part import Part, ScoredPart
from serve_app.model.state import ServedModel, State, load_model
from serve_app.request.models import BatchAnswers
from serve_app.request.problems import MOST_PROBLEMS, Rejected
from serve_app.scoring import Recorder

Models = dict[str, ServedModel]
Clients = dict[str, TestClient]
Requests = dict[str, Mapping[str, object]]
NAMES = ("transactions", "handbook", "mixed")
JSON_TYPE = {"Content-Type": "application/json"}


def post(client: TestClient, rows: list[object] | bytes, kind: str = "application/json", query: str = "") -> Any:
    body = rows if isinstance(rows, bytes) else json.dumps(rows).encode()
    return client.post(f"/score/batch{query}", content=body, headers={"Content-Type": kind})


def arrow(rows: list[Mapping[str, object]], schema: pa.Schema | None = None) -> bytes:
    table = pa.Table.from_pylist([dict(row) for row in rows], schema=schema)
    return stream(table)


def stream(table: pa.Table, **options: Any) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, **options) as writer:
        writer.write_table(table, max_chunksize=7)
    return sink.getvalue().to_pybytes()


def table_of(reply: Any) -> pa.Table:
    assert reply.status_code == 200, reply.text
    assert reply.headers["content-type"] == ARROW
    return pa.ipc.open_stream(reply.content).read_all()


def varied(requests: Requests, name: str, n: int = 60) -> list[dict[str, object]]:
    """Good transactions that differ."""
    rng = np.random.default_rng(3)
    change = {
        "transactions": lambda i: {"amount": float(rng.gamma(1, 200)), "hour": i % 24, "device_score": rng.random()},
        "handbook": lambda i: {
            "TRANSACTION_ID": 100 + i, "TX_AMOUNT": float(rng.gamma(1, 80)), "CUSTOMER_ID": i % 5,
            "TX_DATETIME": f"2025-09-01T10:{i % 60:02d}:00",
        },
        "mixed": lambda i: {"seconds": 1000 * i, "model_config": [None, 1.5, -2][i % 3], "reference": f"r{i}"},
    }[name]  # fmt: skip
    return [{**requests[name], **change(i)} for i in range(n)]


def assert_same(answer: dict[str, Any], alone: dict[str, Any]) -> None:
    expected = {key: value for key, value in alone.items() if key in answer or key != "reasons"}
    for reason, expected_reason in zip(answer.get("reasons", ()), expected.pop("reasons", ()), strict=True):
        assert (reason["column"], reason["text"]) == (expected_reason["column"], expected_reason["text"])
    assert {key: answer[key] for key in expected} == expected
    assert set(answer) - {"reasons"} == set(expected)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("query", ["", "?reasons=true"])
def test_a_batch_answers_as_single_requests_do(clients: Clients, requests: Requests, name: str, query: str):
    rows = varied(requests, name)
    alone = [clients[name].post(f"/score{query}", json=row).json() for row in rows]
    answers = post(clients[name], list(rows), query=query).json()
    BatchAnswers.model_validate(answers)
    assert (answers["scored"], answers["rejected"]) == (len(rows), 0)
    for answer, one in zip(answers["results"], alone, strict=True):
        assert ("reasons" in answer) is bool(query)
        assert_same(answer, one)
    lines = post(clients[name], b"\n".join(json.dumps(row).encode() for row in rows), NDJSON, query)
    assert lines.headers["content-type"] == NDJSON
    for line, answer in zip(lines.text.splitlines(), answers["results"], strict=True):
        assert_same(json.loads(line), answer)


@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_row_is_told_as_alone_and_hinders_no_other(clients: Clients, requests: Requests, name: str):
    good, column = dict(requests[name]), list(requests[name])[-1]
    bad = [{**good, column: []}, {}, {**good, "x": 1}, 7, None, [], {**good, column: float("nan")}]
    rows = [good, *bad, good]
    alone = [clients[name].post("/score", content=json.dumps(row), headers=JSON_TYPE).json() for row in bad]
    for kind in ("application/json", NDJSON):
        body = json.dumps(rows) if kind != NDJSON else "\n".join(map(json.dumps, rows)) + "\n\n"
        reply = post(clients[name], body.encode(), kind)
        results = reply.json()["results"] if kind != NDJSON else [json.loads(line) for line in reply.text.splitlines()]
        assert results[0] == results[-1] and results[0]["score"] >= 0
        assert results[1:-1] == [{"row": i, **rejection} for i, rejection in enumerate(alone, start=1)]


def test_rows_of_a_batch_are_history_for_those_after_them(bundles: dict[str, Path], requests: Requests, tmp_path: Path):
    rows = varied(requests, "handbook")
    answers = []
    for way_of_sending in ("one by one", "together", "arrow"):
        settings = Settings.from_environment({"FRAUD_ROOT": str(tmp_path / way_of_sending)})
        client = TestClient(create_app(State(load_model(settings, folder=str(bundles["handbook"]))), ApiKeys()))
        if way_of_sending == "one by one":
            answers.append([client.post("/score", json=row).json()["score"] for row in rows])
        elif way_of_sending == "together":
            assert post(client, list(rows), query="?learn=false").json()["results"][-1]["score"] != answers[0][-1]
            answers.append([result["score"] for result in post(client, list(rows)).json()["results"]])
        else:
            texts = pa.Table.from_pylist([{**row, "TERMINAL_ID": "3"} for row in rows])
            answers.append(table_of(post(client, stream(texts), ARROW))["score"].to_pylist())
    assert answers[1] == answers[0]
    assert answers[2] == answers[0]


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"", "json_invalid"), (b" ", "json_invalid"), (b"{}", "array_type"), (b"1", "array_type"),
        (b"[", "json_invalid"), (b"[1", "json_invalid"), (b"[1,]", "json_invalid"), (b"[NaN] x", "json_invalid"),
        (b"[] x", "json_invalid"), (b"[1 2]", "json_invalid"), (b"[\xff]", "json_invalid"),
        (b"[" * 60_000, "json_invalid"), (b'[{"a":' * 10_000, "json_invalid"), (b"[NaN", "json_invalid"),
        (b'["' + b"a" * 400_000 + b'", NaN]', "json_invalid"),
    ],
)  # fmt: skip
def test_what_is_no_array_is_refused_whole(client: TestClient, body: bytes, kind: str):
    reply = post(client, body)
    assert reply.status_code == 422
    assert reply.json()["detail"][0]["type"] == kind and reply.json()["detail"][0]["remedy"]


@given(st.lists(st.recursive(st.none() | st.floats() | st.text(), lambda inner: st.lists(inner, max_size=3))))
@hypothesis_settings(max_examples=100, deadline=None)
def test_odd_elements_are_divided_where_they_end(elements: list[object]):
    body = json.dumps(elements, ensure_ascii=False).encode("utf-8", "replace")
    divided = [json.loads(bytes(piece)) for piece in elements_of(body, 1000, 1)]
    assert repr(divided) == repr(json.loads(body))


def test_limits_are_named(models: Models, requests: Requests):
    limits = BatchLimits(rows=3, n_bytes=2000)
    client = TestClient(create_app(State(models["transactions"]), ApiKeys(), batch_limits=limits))
    row = dict(requests["transactions"])
    assert post(client, [row] * 3).json()["scored"] == 3
    odd = json.dumps([float("nan")] * 4).encode()
    for reply in (
        post(client, [row] * 4), post(client, odd), post(client, b"[" + b"1," * 900 + b"1]"),
        post(client, b"\n".join([json.dumps(row).encode()] * 4), NDJSON), post(client, arrow([row] * 4), ARROW),
    ):  # fmt: skip
        entry = reply.json()["detail"][0]
        assert (reply.status_code, entry["type"], entry["remedy"]) == (
            413, "too_many_rows", "send at most 3 transactions at a time",
        )  # fmt: skip
    reply = post(client, b"[" + b" " * 2000 + b"]")
    assert reply.status_code == 413 and "a batch of at most 2,000 bytes" in reply.json()["detail"][0]["remedy"]
    assert post(client, b"[]", "text/csv").status_code == 415
    long = json.dumps([row, {**row, "x": "a" * 70_000}])
    reply = post(TestClient(create_app(State(models["transactions"]), ApiKeys())), long.encode())
    assert reply.json()["results"][1]["detail"][0]["type"] == "body_too_large"


def test_limits_come_from_the_environment():
    assert BatchLimits.from_environment({}) == BatchLimits()
    assert BatchLimits.from_environment({"FRAUD_BATCH_ROWS": "5", "FRAUD_BATCH_MIB": "1"}) == BatchLimits(5, 2**20)
    with pytest.raises(ConfigError, match="FRAUD_BATCH_ROWS='many'"):
        BatchLimits.from_environment({"FRAUD_BATCH_ROWS": "many"})


class Listening(Recorder):
    """Notes the parts it is given; `answers_of_log`: what is_behind says, call after call, and then the last one."""

    def __init__(self, state: State, answers_of_log: Sequence[bool] = (False,)) -> None:
        super().__init__(state, Metrics())
        self.parts: list[ScoredPart] = []
        self.n_asked = 0
        self._answers_of_log = answers_of_log

    def record_part(self, request: dict[str, Any], scored: ScoredPart) -> None:
        super().record_part(request, scored)
        self.parts.append(scored)

    def is_behind(self) -> bool:
        self.n_asked += 1
        return self._answers_of_log[min(self.n_asked, len(self._answers_of_log)) - 1]


@pytest.mark.parametrize("kind", ["application/json", ARROW])
def test_every_scored_row_is_recorded(models: Models, requests: Requests, kind: str):
    state = State(models["transactions"])
    recorder = Listening(state)
    client = TestClient(create_app(state, ApiKeys(), recorder=recorder))
    rows: list[Any] = [*varied(requests, "transactions", 3), {**requests["transactions"], "amount": -1.0}]
    body = (
        json.dumps(rows).encode() if kind != ARROW else arrow([{**row, "amount": float(row["amount"])} for row in rows])
    )
    assert post(client, body, kind).status_code == 200
    assert [row for scored in recorder.parts for row in scored.part.transactions] == rows[:3]
    answers = [answer for scored in recorder.parts for answer in scored.contents]
    assert all(0 <= answer["score"] <= 1 and answer["model_version"] == "7" for answer in answers)


@pytest.mark.parametrize("is_ever_ready", [True, False])
def test_a_batch_waits_for_a_log_that_is_behind_but_not_for_ever(
    models: Models, requests: Requests, monkeypatch: pytest.MonkeyPatch, is_ever_ready: bool
):
    monkeypatch.setattr("serve_app.batch.endpoint._LONGEST_WAIT_S", 0.2)
    state = State(models["transactions"])
    recorder = Listening(state, (True, True, True, False) if is_ever_ready else (True,))
    client = TestClient(create_app(state, ApiKeys(), recorder=recorder))
    rows = varied(requests, "transactions", 800)
    assert post(client, list(rows)).json()["scored"] == 800
    assert recorder.n_asked == 5 if is_ever_ready else recorder.n_asked > 5
    recorder.n_asked = 0
    assert post(client, list(rows), query="?learn=false").status_code == 200 and not recorder.n_asked


def test_an_engine_that_gives_no_number_is_a_500(models: Models, requests: Requests):
    class Unable:
        def __init__(self, engine: Any) -> None:
            self._engine = engine

        def __getattr__(self, name: str) -> Any:
            return getattr(self._engine, name)

        def score_raw(self, raw: np.ndarray) -> np.ndarray:
            return np.full((len(raw), 3), np.nan)

    broken = replace(models["transactions"], engine=Unable(models["transactions"].engine))
    reply = post(TestClient(create_app(State(broken), ApiKeys())), [dict(requests["transactions"])])
    assert reply.status_code == 500


ARROW_COLUMNS = {
    "seconds": (st.integers(-(2**40), 2**40) | st.none(), [pa.int64(), pa.float64()]),
    "class": (st.sampled_from(["atm", " web ", "cash", "", None]), [pa.string(), pa.large_string()]),
    "_score": (st.integers(-7, 7) | st.none(), [pa.int8(), pa.float32(), pa.float64()]),
    "reference": (st.none() | st.integers(-5, 2**62), [pa.int64()]),
    "Unnamed: 0": (st.none() | st.text(max_size=3) | st.just("1.0"), [pa.string()]),
    "model_config": (st.none() | st.floats(), [pa.float64()]),
    "is_new": (st.none() | st.integers(0, 2), [pa.int64(), pa.float64()]),
}


@given(data=st.data())
@hypothesis_settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_an_arrow_row_is_judged_as_alone(clients: Clients, data: Any):
    chosen = {name: data.draw(st.sampled_from(types)) for name, (_, types) in ARROW_COLUMNS.items()}
    rows = data.draw(st.lists(st.fixed_dictionaries({n: v for n, (v, _) in ARROW_COLUMNS.items()}), min_size=1))
    table = pa.table({name: pa.array([row[name] for row in rows]).cast(kind) for name, kind in chosen.items()})
    answers = table_of(post(clients["mixed"], stream(table), ARROW)).to_pylist()
    for row, answer in zip(table.to_pylist(), answers, strict=True):
        alone = clients["mixed"].post("/score", content=json.dumps(row), headers=JSON_TYPE)
        if alone.status_code == 200:
            assert answer["error"] is None
            assert answer["score"] == alone.json()["score"]
            assert answer["is_fraud"] is alone.json()["is_fraud"] and answer["is_history_live"]
        else:
            problems = alone.json()["detail"]
            assert answer["error"] == "; ".join(f"{entry['msg']} ({entry['remedy']})" for entry in problems)
            assert answer["score"] is None and answer["is_fraud"] is None


def test_arrow_reasons_and_metadata(clients: Clients, requests: Requests):
    row = {name: float(value) for name, value in dict(requests["transactions"]).items()}  # type: ignore[arg-type]
    table = table_of(post(clients["transactions"], arrow([row, {**row, "hour": 24.0}]), ARROW, "?reasons=true"))
    alone = clients["transactions"].post("/score", json=row).json()
    assert table.schema.metadata[b"model_version"] == b"7" and table.schema.metadata[b"rejected"] == b"1"
    first, second = table["reasons"].to_pylist()
    assert [reason["text"] for reason in first] == [reason["text"] for reason in alone["reasons"]] and second is None
    assert table_of(post(clients["transactions"], arrow([row])[:0] + stream(pa.table(
        {name: pa.array([], pa.float64()) for name in row})), ARROW)).num_rows == 0  # fmt: skip


@pytest.mark.parametrize(
    "times",
    [
        pa.array([1535796900123456789, None, -1, 2**62], pa.timestamp("ns")),
        pa.array([1535796900, None, -2208988801, 4102444800, 7258118400, 2**60], pa.timestamp("s")),
        pa.array([1535796900000, None, 1535796900], pa.timestamp("ms", tz="Asia/Kolkata")),
        pa.array([17000, None, 10**6], pa.date32()),
        pa.array(["2018-09-01T10:15:00+05:30", "2018-02-30", None, "soon"]),
    ],
)
def test_arrow_times(clients: Clients, requests: Requests, times: pa.Array):
    request = requests["handbook"]
    n = len(times)
    columns = {name: pa.array([value] * n) for name, value in request.items()}
    answers = table_of(
        post(clients["handbook"], stream(pa.table({**columns, "TX_DATETIME": times})), ARROW)
    ).to_pylist()
    assert answers[0]["error"] is None
    for time, answer in zip(times, answers, strict=True):
        year = int(time.cast(pa.timestamp("s"), safe=False).cast(pa.int64()).as_py() or 0) / 31_556_952 + 1970 if (
            not pa.types.is_string(times.type) and time.is_valid) else None  # fmt: skip
        text = None if not time.is_valid else str(time.as_py()) if year is None or 1 < year < 9000 else "0001-01-01"
        alone = clients["handbook"].post("/score", json={**request, "TX_DATETIME": text and text[:26]})
        assert (answer["error"] is None) is (alone.status_code == 200), (time, answer["error"])


def test_arrow_of_other_columns_or_types_is_refused(clients: Clients, requests: Requests):
    row = dict(requests["transactions"])
    table = pa.Table.from_pylist([row] * 3)
    texts = table.set_column(0, "amount", pa.array(["1", "2", "3"]))
    coded = table.set_column(0, "amount", pa.array(["1", "2", "2"]).dictionary_encode())
    for odd, field, kind in (
        (texts, "amount", "column_type"), (coded, "amount", "column_type"),
        (table.drop_columns("hour"), "hour", "missing"),
        (table.append_column("x", pa.array([1, 2, 3])), "x", "extra_forbidden"),
        (table.append_column("amount", pa.array([1, 2, 3])), "amount", "repeated_field"),
        (table.append_column("is_fraud", pa.array([1, 2, 3])), "is_fraud", "extra_forbidden"),
    ):  # fmt: skip
        reply = post(clients["transactions"], stream(odd), ARROW)
        (entry,) = reply.json()["detail"]
        assert (reply.status_code, entry["field"], entry["type"]) == (422, field, kind) and entry["remedy"]
    nothing = table.set_column(0, "amount", pa.nulls(3))
    assert all(
        "null" in error
        for error in table_of(post(clients["transactions"], stream(nothing), ARROW))["error"].to_pylist()
    )


def test_arrow_that_cannot_be_trusted_is_refused(clients: Clients, requests: Requests):
    table = pa.Table.from_pylist([dict(requests["transactions"])] * 100)
    good = stream(table)
    packed = stream(table, options=pa.ipc.IpcWriteOptions(compression="zstd"))
    for body, why in ((b"", "empty"), (b"not arrow", ""), (packed, "compressed"), (good[: len(good) // 2], ""),
                      (b"\xff" * 1000, ""), (b"\xff\xff\xff\xff\xff\xff\xff\x7f" + b"a" * 50, "")):  # fmt: skip
        reply = post(clients["transactions"], body, ARROW)
        (entry,) = reply.json()["detail"]
        assert (reply.status_code, entry["type"]) == (422, "arrow_invalid") and why in entry["msg"], body[:20]


@given(changes=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=4))
@hypothesis_settings(max_examples=300, deadline=None)
def test_a_damaged_arrow_stream_never_crashes(clients: Clients, changes: list[tuple[int, int]]):
    rows = [{"seconds": i, "class": "web", "_score": 1, "Unnamed: 0": "é", "is_new": True} for i in range(20)]
    body = bytearray(arrow(rows))
    for offset, value in changes:
        body[offset % len(body)] = value
    assert post(clients["mixed"], bytes(body), ARROW).status_code in (200, 413, 422)


def test_the_reader_of_elements_stops_at_the_limit():
    with pytest.raises(Rejected, match="413"):
        list(elements_of(b"[" + b"1," * 10**6 + b"1]", 10, 3))


def test_a_batch_of_nothing_but_mistakes_stays_small_and_lets_others_through(
    models: Models, requests: Requests, monkeypatch: pytest.MonkeyPatch
):
    """After very many problems a row tells its first; reading rows with many mistakes gives way to other requests."""
    rows = TextRows(
        models["handbook"], [json.dumps({f"x{i}": 1 for i in range(30)}).encode()] * 400, NDJSON, is_array=False
    )

    async def read() -> tuple[Part, int]:
        turns = 0
        task = asyncio.ensure_future(rows.read(0, 400))
        while not task.done():
            await asyncio.sleep(0)
            turns += 1
        return task.result(), turns

    monkeypatch.setattr("serve_app.batch.json.PART_S", 0.0)  # however quick the machine is, a row takes longer
    part, turns = asyncio.run(read())
    assert turns > 400, "nobody else had a turn"
    n_problems = [len(part.rejected[row]) for row in range(400)]
    assert n_problems[0] == MOST_PROBLEMS + 1 and n_problems[-1] == 1
    assert sum(n_problems) < 2_000 + 400 + MOST_PROBLEMS


@pytest.mark.parametrize("query", ["", "?reasons=true"])
def test_a_batch_without_one_good_row_is_answered(clients: Clients, query: str):
    rows = [{"amount": "x"}] * 70
    answer = post(clients["transactions"], rows, query=query).json()
    assert (answer["scored"], answer["rejected"], len(answer["results"])) == (0, 70, 70)
    table = table_of(
        post(clients["transactions"], arrow([{**dict.fromkeys(COLUMNS, 0.5), "hour": 99.0}] * 3), ARROW, query)
    )
    assert table["score"].null_count == 3 and table["error"].null_count == 0


COLUMNS = ("amount", "hour", "distance", "device_score", "country_mismatch")


def test_an_arrow_answer_names_the_model_and_the_row(clients: Clients, requests: Requests):
    rows = [
        {**row, "TRANSACTION_ID": f"t{i}", "CUSTOMER_ID": "5"} for i, row in enumerate(varied(requests, "handbook", 20))
    ]
    rows[3]["TX_AMOUNT"] = -1.0
    rows[5]["TRANSACTION_ID"] = " "
    answers = table_of(post(clients["handbook"], arrow(rows), ARROW))
    assert answers["model_version"].to_pylist() == ["7"] * 20
    assert answers["id"].to_pylist() == [None if i == 5 else f"t{i}" for i in range(20)]
    assert [i for i, error in enumerate(answers["error"].to_pylist()) if error] == [3, 5]
    without_id = table_of(post(clients["transactions"], arrow(varied(requests, "transactions", 3)), ARROW))
    assert without_id["model_version"].to_pylist() == ["7"] * 3 and "id" not in without_id.column_names
