"""The scoring requests go to the replica's app, everything else to Serve; before the app is there, everything."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

from fraud.errors import ConfigError, LibraryChangedError
from fraud.settings.serving import RequestLimits
from serve_app.app import create_app
from serve_app.auth import ApiKeys
from serve_app.http import direct
from serve_app.model.state import ServedModel, State
from tests.serve_app.http.test_guard import call, scope_of


async def serves_path(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 299, "headers": []})
    await send({"type": "http.response.body", "body": b"Serve"})


@pytest.fixture
def around() -> Iterator[direct.Direct]:
    """Serve's path with the middleware that Serve is given around it."""
    (middleware,) = direct.middlewares()
    yield middleware.cls(serves_path, *middleware.args, **middleware.kwargs)
    direct._apps.clear()
    direct._installed.clear()


def test_scoring_goes_to_the_app_and_the_rest_to_serve(around: direct.Direct, models: dict[str, ServedModel]):
    def status(path: str) -> int:
        return asyncio.run(call(around, scope_of(path, "POST"))).status

    assert {status(path) for path in ("/score", "/score/batch", "/explain", "/-/healthz", "/model")} == {299}
    direct.answer_with(create_app(State(models["transactions"]), ApiKeys()))
    ours = ("/score", "/score/batch", "/explain", "/v1/score", "/v1/score/batch", "/v1/explain")
    assert {status(path) for path in ours} == {415}, "no content type: it is our app"
    assert {status(path) for path in ("/-/healthz", "/-/routes", "/model", "/prefix/score")} == {299}


def test_an_id_that_serve_would_have_sent_back_is_sent_back(
    around: direct.Direct, models: dict[str, ServedModel], requests: dict[str, dict]
):
    direct.answer_with(create_app(State(models["transactions"]), ApiKeys(), is_id_echoed=True))
    client = TestClient(around)
    reply = client.post("/score", json=dict(requests["transactions"]), headers={"X-Request-ID": "theirs"})
    assert reply.status_code == 200 and reply.headers.get_list("x-request-id") == ["theirs"]


def test_too_many_at_once_are_told_to_come_again(models: dict[str, ServedModel], requests: dict[str, dict]):
    app = create_app(State(models["transactions"]), ApiKeys(), limits=RequestLimits(most_waiting=3))

    async def slow_callers() -> list[int]:
        """Four whose bodies are slow to come, then one more, then the health check."""
        is_sent = asyncio.Event()
        statuses: list[int] = []

        async def caller(path: str, method: str) -> None:
            async def receive() -> dict[str, object]:
                await is_sent.wait()
                return {"type": "http.request", "body": b"{}", "more_body": False}

            async def send(message: dict[str, object]) -> None:
                if message["type"] == "http.response.start":
                    statuses.append(message["status"])

            headers = {"content-type": "application/json"}
            await app(scope_of(path, method, headers=headers), receive, send)

        waiting = [asyncio.create_task(caller("/score", "POST")) for _ in range(5)]
        await asyncio.sleep(0.05)
        assert statuses == [503, 503]
        await caller("/healthz", "GET")
        is_sent.set()
        await asyncio.gather(*waiting)
        return statuses

    assert sorted(asyncio.run(slow_callers())) == [200, 422, 422, 422, 503, 503]
    with pytest.raises(ConfigError, match="FRAUD_MOST_WAITING='0'"):
        RequestLimits.from_environment({"FRAUD_MOST_WAITING": "0"})


def test_a_hook_that_serve_did_not_call_is_an_error(models: dict[str, ServedModel]):
    behind_haproxy = {"RAY_SERVE_ENABLE_HA_PROXY": "1"}
    with pytest.raises(LibraryChangedError, match="did not call __serve_build_asgi_app__"):
        direct.check({})
    direct.answer_with(create_app(State(models["transactions"]), ApiKeys()))
    try:
        direct.check({})  # Serve's plain proxy asks by Serve's path
        with pytest.raises(LibraryChangedError, match="did not put the middleware"):
            direct.check(behind_haproxy)
        (middleware,) = direct.middlewares()
        middleware.cls(serves_path, *middleware.args, **middleware.kwargs)
        direct.check(behind_haproxy)
    finally:
        direct._apps.clear()
        direct._installed.clear()
