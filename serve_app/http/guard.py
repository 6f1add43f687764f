"""Stands before every route: names the request, asks for the API key, holds callers to their limits, counts and logs,
and answers a failure of ours without telling the request's data."""

from __future__ import annotations

import logging
import math
import random
import re
import time
import traceback
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from fraud.settings.serving import RequestLimits
from serve_app.auth import HEADER, ApiKeys
from serve_app.http.access_log import AccessLog
from serve_app.http.direct import IS_DIRECT
from serve_app.http.exchange import Exchange
from serve_app.http.hot_path import path_of
from serve_app.http.limits import DEADLINE_HEADER, Deadline, RateLimiter
from serve_app.metrics.counters import Metrics, known_path
from serve_app.request.problems import Rejected, problem

logger = logging.getLogger(__name__)

OPEN_PATHS = frozenset({"/healthz", "/readyz"})
REQUEST_ID = "X-Request-ID"
CLIENT_LEFT = 499  # nobody is told; it is what access logs write for it
_KEY, _ID, _DEADLINE = (name.lower().encode() for name in (HEADER, REQUEST_ID, DEADLINE_HEADER))
_AUTHORIZATION, _BEARER = b"authorization", b"Bearer "
_READ = frozenset({_KEY, _ID, _DEADLINE, _AUTHORIZATION})
_SOUND_ID = re.compile(rb"[!-~]{1,128}")
_random = random.Random()  # names are unique, not secret: the system's generator costs a system call for each


class Guard:
    """ASGI middleware. Only the open paths answer without a key; everything else, unknown paths included, answers 401.

    The scope's "state" gets request_id, key_name ("" without keys), arrived (time.perf_counter() at the start) and
    deadline (serve_app.http.limits.Deadline); whoever answers may add model_version, for the log.
    is_id_echoed: the server sends the caller's X-Request-ID back by itself, as Ray Serve does.
    """

    def __init__(
        self,
        app: ASGIApp,
        keys: ApiKeys,
        *,
        limits: RequestLimits | None = None,
        metrics: Metrics | None = None,
        access_log: AccessLog | None = None,
        is_id_echoed: bool = False,
    ) -> None:
        self._app = app
        self._keys = keys
        self._limits = limits or RequestLimits()
        self._limiter = RateLimiter(self._limits)
        self._metrics = metrics or Metrics()
        self._access_log = access_log or AccessLog()
        self._is_id_echoed = is_id_echoed
        self._open = open_paths(self._limits)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":  # start-up, shutdown, and websockets, for which there is no route
            return await self._app(scope, receive, send)
        arrived = time.perf_counter()
        path, given = path_of(scope), _headers(scope)
        request_id, is_theirs = _request_id(given.get(_ID))
        # A dict of our own: a server may hand out the same one again and again.
        state = scope["state"] = {
            **scope.get("state", {}), "request_id": request_id, "key_name": "", "arrived": arrived,
        }  # fmt: skip
        exchange = Exchange(
            receive,
            send,
            header=None if is_theirs and self._is_id_echoed and IS_DIRECT not in scope else (_ID, request_id.encode()),
            body_until=None if scope["method"] in ("GET", "HEAD") else arrived + self._limits.body_timeout_s,
        )
        self._metrics.in_progress += 1
        try:
            await self._pass_on(scope, path, given, exchange)
        except Rejected as error:
            if exchange.status is None:
                await error.response()(scope, exchange.receive, exchange.send)
        except Exception as error:  # noqa: BLE001 - the last line of defence; its text may hold card data, so it is not logged
            frames = "".join(traceback.format_tb(error.__traceback__))
            logger.error(
                "%s while answering %s, request %s:\n%s", type(error).__name__, known_path(path), request_id, frames
            )
            if exchange.status is None:
                await _failed().response()(scope, exchange.receive, exchange.send)
        finally:
            self._metrics.in_progress -= 1
            self._note(scope["method"], path, state, exchange)

    async def _pass_on(self, scope: Scope, path: str, given: dict[bytes, bytes | None], exchange: Exchange) -> None:
        """Let the request through to the app. Raises Rejected (401, 429, 503, 422) where it may not."""
        if path not in self._open:
            state = scope["state"]
            key = None
            if self._keys.is_required:
                key = self._keys.find(given.get(_KEY) or _key_of_prometheus(path, given))
                if key is None:
                    raise _unauthorized()
                state["key_name"] = key.name
            if self._metrics.in_progress > self._limits.most_waiting:
                raise _too_busy()
            if wait_s := self._limiter.wait_s(key, state["arrived"]):
                raise _too_many(wait_s)
            deadline = (given[_DEADLINE] or b"") if _DEADLINE in given else None  # empty: is refused
            state["deadline"] = Deadline.of_request(self._limits, state["arrived"], deadline)
        await self._app(scope, exchange.receive, exchange.send)

    def _note(self, method: str, path: str, state: dict[str, Any], exchange: Exchange) -> None:
        status = CLIENT_LEFT if exchange.status is None else exchange.status
        seconds = time.perf_counter() - state["arrived"]
        self._metrics.observe_request(path, status, seconds)
        for kind in state.get("problems", ()):
            self._metrics.count_error(kind)
        if not self._access_log.wants(status):
            return
        self._access_log.note(
            request_id=state["request_id"],
            method=method,
            path=known_path(path),
            status=status,
            seconds=seconds,
            received=exchange.received,
            sent=exchange.sent,
            key_name=state["key_name"],
            version=state.get("model_version"),
        )


def open_paths(limits: RequestLimits) -> frozenset[str]:
    """The paths that need no key."""
    return OPEN_PATHS | {"/metrics"} if limits.is_metrics_open else OPEN_PATHS


def _headers(scope: Scope) -> dict[bytes, bytes | None]:
    """The headers that this module reads; None for one that came twice."""
    found: dict[bytes, bytes | None] = {}
    for name, value in scope["headers"]:
        if name in _READ:
            found[name] = None if name in found else value
    return found


def _key_of_prometheus(path: str, given: dict[bytes, bytes | None]) -> bytes | None:
    """Prometheus 2.42, Debian's, sends its credentials in Authorization only; no other path takes a key from there."""
    said = given.get(_AUTHORIZATION) or b""
    return said.removeprefix(_BEARER) if path == "/metrics" and said.startswith(_BEARER) else None


def _request_id(given: bytes | None) -> tuple[str, bool]:
    """The request's name, and whether the caller gave it: 1 to 128 visible ASCII characters, else one of ours."""
    if given is not None and _SOUND_ID.fullmatch(given):
        return given.decode("ascii"), True
    return f"{_random.getrandbits(128):032x}", False


def _unauthorized() -> Rejected:
    remedy = f"send your key in the header {HEADER}"
    said = problem("unauthorized", "no valid API key", remedy, field=HEADER, where="header")
    return Rejected(401, said, headers={"WWW-Authenticate": f'ApiKey header="{HEADER}"'})


def _too_many(wait_s: float) -> Rejected:
    seconds = max(1, math.ceil(wait_s))
    remedy = f"wait {seconds} s, or ask whoever runs this service for a higher rate"
    said = problem("rate_limited", "more requests than this key may send", remedy, field=HEADER, where="header")
    return Rejected(429, said, headers={"Retry-After": str(seconds)})


def _too_busy() -> Rejected:
    said = problem("overloaded", "too many requests are waiting", "try again after the seconds in Retry-After")
    return Rejected(503, said, headers={"Retry-After": "1"})


def _failed() -> Rejected:
    remedy = "try again; if it happens again, tell whoever runs this service the X-Request-ID of this answer"
    return Rejected(500, problem("internal_error", "the service failed to answer", remedy))
