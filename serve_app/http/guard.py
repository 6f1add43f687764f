"""Middleware in front of all routes: request id, API key, limits, query, deadline, body timeout, metrics, access log.

Also answers the hot paths itself, and turns internal errors into a 500 without request data.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import re
import time
import traceback
from collections.abc import Awaitable, Callable, Generator, Mapping
from types import MappingProxyType
from typing import Any

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fraud.settings.serving import RequestLimits
from serve_app.auth import HEADER, ApiKeys
from serve_app.http.access_log import AccessLog, AnsweredRequest
from serve_app.http.direct import IS_DIRECT
from serve_app.http.limits import DEADLINE_HEADER, Deadline, RateLimiter
from serve_app.http.server_timing import HEADER as SERVER_TIMING
from serve_app.http.server_timing import server_timing
from serve_app.metrics.counters import Metrics
from serve_app.paths import name_of, open_paths, path_of, query_of, routed
from serve_app.request.problems import Rejected, problem
from serve_app.request.query import check_query

logger = logging.getLogger(__name__)

Handler = Callable[[Scope, Receive], Awaitable[Response]]

REQUEST_ID = "X-Request-ID"
CLIENT_LEFT = 499  # never sent; logged if the client disconnected
_KEY, _ID, _DEADLINE = (name.lower().encode() for name in (HEADER, REQUEST_ID, DEADLINE_HEADER))
_AUTHORIZATION, _BEARER = b"authorization", b"Bearer "
_READ = frozenset({_KEY, _ID, _DEADLINE, _AUTHORIZATION})
_SOUND_ID = re.compile(rb"[!-~]{1,128}")
_random = random.Random()  # ids must be unique, not secret; the system generator costs a system call each


class Guard:
    """ASGI middleware. Without a key, only the open paths answer; all others, including unknown ones, return 401.

    Adds to the scope's "state": request_id, key_name ("" without keys), arrived (time.perf_counter() at the start) and
    deadline (serve_app.http.limits.Deadline). Handlers may add model_version, for the log.
    handlers: {path: handler} for POST requests answered here; all others go to `app`.
    is_id_echoed: the server already returns the caller's X-Request-ID, as Ray Serve does.
    """

    def __init__(
        self,
        app: ASGIApp,
        keys: ApiKeys,
        *,
        handlers: Mapping[str, Handler] = MappingProxyType({}),
        limits: RequestLimits | None = None,
        metrics: Metrics | None = None,
        access_log: AccessLog | None = None,
        is_id_echoed: bool = False,
    ) -> None:
        self._app = app
        self._keys = keys
        self._handlers = handlers
        self._limits = limits or RequestLimits()
        self._limiter = RateLimiter(self._limits)
        self._metrics = metrics or Metrics()
        self._access_log = access_log or AccessLog()
        self._is_id_echoed = is_id_echoed
        self._open = open_paths(is_metrics_open=self._limits.is_metrics_open)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":  # start-up, shutdown, and websockets, which have no route
            return await self._app(scope, receive, send)
        arrived = time.perf_counter()
        path, headers = path_of(scope), _headers(scope)
        request_id, is_theirs = _request_id(headers.get(_ID))
        # A new dict: a server may reuse one for several requests.
        state = scope["state"] = {
            **scope.get("state", {}), "request_id": request_id, "key_name": "", "arrived": arrived,
        }  # fmt: skip
        io = _RequestIO(
            receive,
            send,
            header=None if is_theirs and self._is_id_echoed and IS_DIRECT not in scope else (_ID, request_id.encode()),
            body_until=None if scope["method"] in ("GET", "HEAD") else arrived + self._limits.body_timeout_s,
        )
        self._metrics.in_progress += 1
        try:
            await self._pass_on(scope, path, headers, io)
        except Rejected as error:
            if io.status is None:
                await error.response()(scope, io.receive, io.send)
        except Exception as error:  # noqa: BLE001 - last resort; the text may hold card data, so it is not logged
            frames = "".join(traceback.format_tb(error.__traceback__))
            logger.error(
                "%s while answering %s, request %s:\n%s", type(error).__name__, name_of(path), request_id, frames
            )
            if io.status is None:
                await _failed().response()(scope, io.receive, io.send)
        finally:
            self._metrics.in_progress -= 1
            self._note(scope["method"], path, state, io)

    async def _pass_on(self, scope: Scope, path: str, headers: dict[bytes, bytes | None], io: _RequestIO) -> None:
        """Check the request and answer it, here or in the app. Raises Rejected (401, 422, 429, 503)."""
        if path not in self._open:
            state = scope["state"]
            key = None
            if self._keys.is_required:
                key = self._keys.find(headers.get(_KEY) or _key_of_prometheus(path, headers))
                if key is None:
                    raise _unauthorized()
                state["key_name"] = key.name
            if self._metrics.in_progress > self._limits.most_waiting:
                raise _too_busy()
            if wait_s := self._limiter.wait_s(key, state["arrived"]):
                raise _too_many(wait_s)
            deadline = (headers[_DEADLINE] or b"") if _DEADLINE in headers else None  # b"" is rejected
            state["deadline"] = Deadline.of_request(self._limits, state["arrived"], deadline)
        if scope["query_string"] and (parameters := query_of(path)) is not None:
            check_query(scope["query_string"], parameters)
        handler = self._handlers.get(path) if scope["method"] == "POST" else None
        if handler is None:
            await self._app(routed(scope, path), io.receive, io.send)
        else:
            response = await handler(scope, io.receive)
            response.raw_headers.append((SERVER_TIMING, server_timing(scope["state"])))
            await response(scope, io.receive, io.send)

    def _note(self, method: str, path: str, state: dict[str, Any], io: _RequestIO) -> None:
        status = CLIENT_LEFT if io.status is None else io.status
        seconds = time.perf_counter() - state["arrived"]
        self._metrics.observe_request(path, status, seconds)
        for kind in state.get("problems", ()):
            self._metrics.count_error(kind)
        if not self._access_log.should_log(status):
            return
        self._access_log.write(
            AnsweredRequest(
                request_id=state["request_id"],
                method=method,
                path=name_of(path),
                status=status,
                seconds=seconds,
                received=io.received,
                sent=io.sent,
                key_name=state["key_name"],
                version=state.get("model_version"),
            )
        )


def _headers(scope: Scope) -> dict[bytes, bytes | None]:
    """The headers that this module reads; None for a repeated one."""
    headers: dict[bytes, bytes | None] = {}
    for name, value in scope["headers"]:
        if name in _READ:
            headers[name] = None if name in headers else value
    return headers


def _key_of_prometheus(path: str, headers: dict[bytes, bytes | None]) -> bytes | None:
    """The Bearer key of a /metrics request. Prometheus 2.42 (Debian) supports credentials only in Authorization."""
    credentials = headers.get(_AUTHORIZATION) or b""
    return credentials.removeprefix(_BEARER) if path == "/metrics" and credentials.startswith(_BEARER) else None


def _request_id(sent: bytes | None) -> tuple[str, bool]:
    """The request id and whether it is the caller's: 1 to 128 visible ASCII characters, else generated here."""
    if sent is not None and _SOUND_ID.fullmatch(sent):
        return sent.decode("ascii"), True
    return f"{_random.getrandbits(128):032x}", False


def _unauthorized() -> Rejected:
    remedy = f"send your key in the header {HEADER}"
    entry = problem("unauthorized", "no valid API key", remedy, field=HEADER, where="header")
    return Rejected(401, entry, headers={"WWW-Authenticate": f'ApiKey header="{HEADER}"'})


def _too_many(wait_s: float) -> Rejected:
    seconds = max(1, math.ceil(wait_s))
    remedy = f"wait {seconds} s, or ask whoever runs this service for a higher rate"
    entry = problem("rate_limited", "more requests than this key may send", remedy, field=HEADER, where="header")
    return Rejected(429, entry, headers={"Retry-After": str(seconds)})


def _too_busy() -> Rejected:
    entry = problem("overloaded", "too many requests are waiting", "try again after the seconds in Retry-After")
    return Rejected(503, entry, headers={"Retry-After": "1"})


def _failed() -> Rejected:
    remedy = "try again; if it happens again, tell whoever runs this service the X-Request-ID of this answer"
    return Rejected(500, problem("internal_error", "the service failed to answer", remedy))


class _RequestIO:
    """Wraps `receive` and `send` of one request: adds the request id, counts bytes, enforces the body timeout.

    header: added to the response, if any; body_until: deadline of the body, time.perf_counter() seconds.
    status: of the response, once it has started; received, sent: bytes of the bodies so far.
    """

    __slots__ = ("_body_until", "_header", "_is_body_in", "_receive", "_send", "received", "sent", "status")

    def __init__(
        self, receive: Receive, send: Send, *, header: tuple[bytes, bytes] | None, body_until: float | None
    ) -> None:
        self._receive, self._send = receive, send
        self._header = header
        self._body_until = body_until or 0.0
        self._is_body_in = body_until is None
        self.status: int | None = None
        self.received = self.sent = 0

    async def receive(self) -> Message:
        """Receive the next message. Raises Rejected (408) if the body is late."""
        if self._is_body_in:
            return await self._receive()
        try:
            message = await self._in_time()
        except TimeoutError:
            self._is_body_in = True
            entry = problem("body_timeout", "the body did not arrive in time", "send the whole request at once")
            raise Rejected(408, entry, headers={"Connection": "close"}) from None
        self._is_body_in = not message.get("more_body", False)
        self.received += len(message.get("body", b""))
        return message

    async def _in_time(self) -> Message:
        """Await the next message. Starts a timer, which costs 8 us, only if the message is not there yet; most bodies
        arrive with their headers. Raises TimeoutError."""
        steps = self._receive().__await__()
        try:
            waits_for = next(steps)
        except StopIteration as there:
            return there.value
        async with asyncio.timeout(self._body_until - time.perf_counter()):
            return await _Rest(steps, waits_for)

    async def send(self, message: Message) -> None:
        """Send a message of the app."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            if self._header is not None:
                message = {**message, "headers": [*message.get("headers", ()), self._header]}
        elif message["type"] == "http.response.body":
            self.sent += len(message.get("body", b""))
        await self._send(message)


class _Rest:
    """Resumes a coroutine after its first step. waits_for: what that step yielded."""

    def __init__(self, steps: Generator[Any, Any, Message], waits_for: Any) -> None:
        self._steps, self._waits_for = steps, waits_for

    def __await__(self) -> Generator[Any, Any, Message]:
        waits_for = self._waits_for
        try:
            while True:
                try:
                    yield waits_for
                except BaseException as error:  # noqa: BLE001 - usually a cancellation, for the coroutine to handle
                    waits_for = self._steps.throw(error)
                else:
                    waits_for = next(self._steps)
        except StopIteration as done:
            return done.value
