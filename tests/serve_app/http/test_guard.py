"""Guard, called as a server calls it: request ids, keys' limits, deadlines, slow bodies, and what is counted of it."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from starlette.middleware import Middleware
from starlette.types import Message, Receive, Scope, Send

from fraud.settings.serving import RequestLimits
from serve_app.app import create_app
from serve_app.auth import ApiKey, ApiKeys
from serve_app.http.access_log import AccessLog
from serve_app.http.guard import Guard
from serve_app.http.limits import Deadline
from serve_app.metrics.counters import Metrics
from serve_app.model.state import ServedModel, State

KEYS = ApiKeys([ApiKey(hashlib.sha256(b"one").digest(), "gateway"), ApiKey(hashlib.sha256(b"two").digest(), "batch")])


class Reply:
    """What a server would have sent."""

    def __init__(self, messages: list[Message]) -> None:
        self.starts = [message for message in messages if message["type"] == "http.response.start"]
        self.status = self.starts[0]["status"] if self.starts else None
        self.headers = [(name.decode(), value.decode()) for start in self.starts for name, value in start["headers"]]
        self.body = b"".join(message.get("body", b"") for message in messages)

    def header(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name]


def scope_of(path: str = "/score", method: str = "POST", headers: Mapping[str, str] | Sequence[Any] = ()) -> Scope:
    pairs = list(headers.items() if isinstance(headers, Mapping) else headers)
    raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in pairs]
    return {"type": "http", "method": method, "path": path, "headers": raw, "query_string": b"", "root_path": ""}


async def call(app: Any, scope: Scope, parts: Sequence[bytes] = (b"",), pause_s: float = 0.0) -> Reply:
    """Call `app`; the parts of the body come one by one, and then nothing. pause_s: before each."""
    sent: list[Message] = []
    waiting = [
        {"type": "http.request", "body": part, "more_body": number < len(parts)}
        for number, part in enumerate(parts, start=1)
    ]

    async def receive() -> Message:
        if not waiting:
            await asyncio.Event().wait()
        if pause_s:
            await asyncio.sleep(pause_s)
        return waiting.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return Reply(sent)


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Reads the body and answers with its length."""
    size, more = 0, True
    while more:
        message = await receive()
        size += len(message.get("body", b""))
        more = message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": str(size).encode()})


def served(model: ServedModel, keys: ApiKeys | None = None, **options: Any) -> Any:
    """Our app behind a Guard with `options`."""
    keys = keys or ApiKeys()
    app = create_app(State(model), keys)
    app.user_middleware = [Middleware(Guard, keys=keys, **options)]
    return app


def counted(metrics: Metrics, name: str) -> dict[tuple[str, ...], float]:
    counters = metrics._totals.counters
    return {labels: value for (metric, labels), value in counters.items() if metric == name and value}


def test_the_callers_request_id_comes_back_and_an_unsound_one_is_replaced():
    guard = Guard(echo, ApiKeys())
    for request_id in ("a", "5f-7/ok~", "x" * 128):
        scope = scope_of(headers={"X-Request-ID": request_id})
        assert asyncio.run(call(guard, scope)).header("x-request-id") == [request_id]
        assert scope["state"]["request_id"] == request_id
    ours = set()
    twice = [("X-Request-ID", "a"), ("X-Request-ID", "a")]
    unsound = [{"X-Request-ID": text} for text in ("", "x" * 129, "a b", "a\nb", "é")]
    for headers in ({}, twice, *unsound):
        (named,) = asyncio.run(call(guard, scope_of(headers=headers))).header("x-request-id")
        assert re.fullmatch(r"[0-9a-f]{32}", named)
        ours.add(named)
    assert len(ours) == 7


def test_every_answer_names_the_request():
    for path, status in (("/healthz", 200), ("/nothing", 401), ("/score", 401)):
        reply = asyncio.run(call(Guard(echo, KEYS), scope_of(path, "GET")))
        assert reply.status == status and len(reply.header("x-request-id")) == 1


def test_an_id_that_the_server_sends_back_is_not_sent_twice():
    guard = Guard(echo, ApiKeys(), is_id_echoed=True)
    assert asyncio.run(call(guard, scope_of(headers={"X-Request-ID": "theirs"}))).header("x-request-id") == []
    assert len(asyncio.run(call(guard, scope_of(headers={"X-Request-ID": "un sound"}))).header("x-request-id")) == 1


def test_the_scope_tells_routes_about_the_request():
    scope = scope_of(headers={"X-API-Key": "two", "X-Deadline-Ms": "60000"})
    shared = scope["state"] = {"from": "lifespan"}
    asyncio.run(call(Guard(echo, KEYS), scope))
    assert scope["state"]["key_name"] == "batch" and scope["state"]["from"] == "lifespan"
    assert shared == {"from": "lifespan"}  # the server's own dict, which the next request may get too
    assert scope["state"]["deadline"].at == pytest.approx(scope["state"]["arrived"] + 60)
    assert not Deadline.from_scope(scope).has_passed()
    scope = scope_of()
    asyncio.run(call(Guard(echo, ApiKeys()), scope))
    assert scope["state"]["key_name"] == ""


def test_a_key_beyond_its_rate_gets_429_and_the_others_do_not():
    metrics = Metrics()
    guard = Guard(echo, KEYS, limits=RequestLimits(rate=0.5, burst=3), metrics=metrics)

    async def statuses(key: str, n: int) -> list[int | None]:
        return [(await call(guard, scope_of(headers={"X-API-Key": key}))).status for _ in range(n)]

    assert asyncio.run(statuses("one", 5)) == [200, 200, 200, 429, 429]
    assert asyncio.run(statuses("two", 1)) == [200]
    reply = asyncio.run(call(guard, scope_of(headers={"X-API-Key": "one"})))
    assert reply.header("retry-after") == ["2"]
    assert "wait 2 s" in json.loads(reply.body)["detail"][0]["remedy"]
    assert asyncio.run(call(guard, scope_of("/healthz", "GET"))).status == 200
    assert counted(metrics, "fraud_errors") == {("rate_limited",): 3}


def test_a_wrong_deadline_is_a_422_but_not_for_health():
    reply = asyncio.run(call(Guard(echo, ApiKeys()), scope_of(headers={"X-Deadline-Ms": "soon"})))
    assert reply.status == 422 and json.loads(reply.body)["detail"][0]["loc"] == ["header", "X-Deadline-Ms"]
    twice = [("X-Deadline-Ms", "5"), ("X-Deadline-Ms", "5")]
    assert asyncio.run(call(Guard(echo, ApiKeys()), scope_of(headers=twice))).status == 422
    healthy = scope_of("/healthz", "GET", {"X-Deadline-Ms": "soon"})
    assert asyncio.run(call(Guard(echo, ApiKeys()), healthy)).status == 200


@pytest.mark.parametrize("drips", [1, 100])
def test_a_body_that_does_not_arrive_gets_408(models: dict[str, ServedModel], drips: int):
    """Nothing comes, or a byte now and then, for ever."""
    metrics = Metrics()
    app = served(models["transactions"], limits=RequestLimits(body_timeout_s=0.2), metrics=metrics)
    scope = scope_of(headers={"Content-Type": "application/json"})
    reply = asyncio.run(asyncio.wait_for(call(app, scope, [b" "] * drips, pause_s=0.03 if drips > 1 else 30), 10))
    assert reply.status == 408
    assert reply.header("connection") == ["close"]
    assert json.loads(reply.body)["detail"][0]["type"] == "body_timeout"
    assert counted(metrics, "fraud_requests") == {("/score", "408"): 1}


def test_an_app_that_knows_nothing_of_timeouts_answers_408_too():
    reply = asyncio.run(call(Guard(echo, ApiKeys(), limits=RequestLimits(body_timeout_s=0.05)), scope_of(), [b"x"], 5))
    assert reply.status == 408


def test_a_body_in_time_and_a_long_answer_are_not_cut():
    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await echo(scope, receive, send)
        await asyncio.sleep(0.15)
        with pytest.raises(TimeoutError):  # a client that waits for its answer sends nothing more
            await asyncio.wait_for(receive(), 0.1)

    guard = Guard(slow, ApiKeys(), limits=RequestLimits(body_timeout_s=0.1))
    reply = asyncio.run(call(guard, scope_of(), [b"ab", b"cd"], pause_s=0.005))
    assert (reply.status, reply.body) == (200, b"4")


def test_requests_and_their_problems_are_counted(models: dict[str, ServedModel]):
    metrics = Metrics()
    app = served(models["transactions"], KEYS, metrics=metrics)
    headers = {"X-API-Key": "one", "Content-Type": "application/json"}
    asyncio.run(call(app, scope_of(headers=headers), [b'{"amount": "x", "hour": 99}']))
    asyncio.run(call(app, scope_of()))
    asyncio.run(call(app, scope_of("/model", "GET", headers)))
    asyncio.run(call(app, scope_of("/4111111111111111", "GET", headers)))
    assert counted(metrics, "fraud_requests") == {
        ("/score", "422"): 1, ("/score", "401"): 1, ("/model", "200"): 1, ("other", "404"): 1,
    }  # fmt: skip
    kinds = counted(metrics, "fraud_errors")
    assert (
        kinds["unauthorized",] == 1 and kinds["not_found",] == 1 and kinds["missing",] == 1
    )  # of three missing fields


def test_requests_under_way_are_counted():
    metrics = Metrics()
    under_way = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        under_way.append(metrics.in_progress)
        raise ValueError

    asyncio.run(call(Guard(app, ApiKeys(), metrics=metrics), scope_of()))
    assert [*under_way, metrics.in_progress] == [1, 0]


def test_a_failure_of_ours_is_counted_and_its_log_names_the_request(caplog: pytest.LogCaptureFixture):
    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        raise ValueError(f"card {scope['path']}")

    metrics = Metrics()
    reply = asyncio.run(
        call(Guard(broken, ApiKeys(), metrics=metrics), scope_of("/4242", headers={"X-Request-ID": "r-77"}))
    )
    assert reply.status == 500 and reply.header("x-request-id") == ["r-77"]
    assert "r-77" in caplog.text and "4242" not in caplog.text
    assert counted(metrics, "fraud_errors") == {("internal_error",): 1}


@pytest.mark.parametrize("part", [b"", b"half of a body"])
def test_a_caller_who_leaves_is_counted_as_that(part: bytes):
    metrics = Metrics()
    guard = Guard(echo, ApiKeys(), metrics=metrics)

    async def leave() -> None:
        task = asyncio.create_task(call(guard, scope_of(), [part, b"the rest"], pause_s=0.05))
        await asyncio.sleep(0.07 if part else 0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(leave())
    assert counted(metrics, "fraud_requests") == {("/score", "499"): 1}
    assert metrics.in_progress == 0


def test_metrics_are_open_only_where_that_is_set():
    assert asyncio.run(call(Guard(echo, KEYS), scope_of("/metrics", "GET"))).status == 401
    is_open = Guard(echo, KEYS, limits=RequestLimits(is_metrics_open=True))
    assert asyncio.run(call(is_open, scope_of("/metrics", "GET"))).status == 200
    assert asyncio.run(call(is_open, scope_of("/model", "GET"))).status == 401


def test_prometheus_sends_its_key_as_a_bearer_token_and_only_for_metrics():
    def status(path: str, method: str, value: str) -> int | None:
        return asyncio.run(call(Guard(echo, KEYS), scope_of(path, method, {"Authorization": value}))).status

    assert status("/metrics", "GET", "Bearer one") == 200
    assert [status("/metrics", "GET", value) for value in ("Bearer wrong", "Bearer ", "one", "Basic one")] == [401] * 4
    assert status("/score", "POST", "Bearer one") == 401


def lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [json.loads(record.getMessage()) for record in caplog.records if record.name == "serve_app.access"]


def test_the_access_log_says_who_asked_what_and_never_what_was_sent(
    models: dict[str, ServedModel], caplog: pytest.LogCaptureFixture
):
    guard = served(models["transactions"], KEYS, access_log=AccessLog(1.0, lambda: "7"))
    headers = {"X-API-Key": "one", "Content-Type": "application/json", "X-Request-ID": "r-1"}
    body = b'{"amount": 4242.25, "hour": 3, "distance": 12, "device_score": 0.92, "country_mismatch": 1}'
    with caplog.at_level(logging.DEBUG):
        asyncio.run(call(guard, scope_of(headers=headers), [body]))
        asyncio.run(call(guard, scope_of("/card/4242", "GET", headers)))
    scored, unknown = lines(caplog)
    assert (scored["request_id"], scored["method"], scored["path"], scored["status"]) == ("r-1", "POST", "/score", 200)
    assert (scored["key_name"], scored["model_version"], scored["bytes_in"]) == ("gateway", "7", len(body))
    assert scored["bytes_out"] > 50 and scored["ms"] > 0
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", scored["time"])
    assert unknown["path"] == "other"
    assert "4242" not in caplog.text


def test_good_answers_are_sampled_errors_are_logged_and_floods_are_cut(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("serve_app.http.access_log.time.perf_counter", lambda: 100.0)  # all within one second
    guard = Guard(echo, KEYS, access_log=AccessLog(0.0))

    async def many(headers: dict[str, str]) -> None:
        for _ in range(200):
            await call(guard, scope_of(headers=headers))

    with caplog.at_level(logging.INFO):
        asyncio.run(many({"X-API-Key": "one"}))
        assert lines(caplog) == []
        asyncio.run(many({"X-API-Key": "one", "X-Deadline-Ms": "x"}))
        assert len(lines(caplog)) == 200
        caplog.clear()
        asyncio.run(many({"X-API-Key": "wrong"}))
        written = len(lines(caplog))
        assert 50 <= written < 60
        caplog.clear()
        asyncio.run(call(guard, scope_of(headers={"X-API-Key": "one", "X-Deadline-Ms": "x"})))
        assert lines(caplog)[0]["left_out"] == 200 - written
