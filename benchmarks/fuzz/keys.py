"""Requests without a valid key: the server must answer 401 to everything but health and the page /docs."""

from __future__ import annotations

import http.client
from typing import TYPE_CHECKING

from benchmarks.fuzz.cases import Tally

if TYPE_CHECKING:
    from benchmarks.fuzz.server import Target

OPEN = ("/healthz", "/readyz", "/docs", "/v1/healthz", "/v1/docs")
CLOSED = (
    "/", "/score", "/score/batch", "/explain", "/model", "/metrics", "/openapi.json", "/redoc", "/nothing",
    "/score/", "//score", "/healthz/../score", "/healthz%2f..%2fscore", "/healthz/", "/HEALTHZ", "/readyz/x", "/.env",
    "/v1", "/v1/score", "/v1/openapi.json", "/v1/v1/healthz", "/v1/../docs", "/v2/docs",
    "/-/routes/x", "*", "http://x/score", "/score?X-API-Key=x", "/%2e%2e/%2e%2e/etc/passwd",
)  # fmt: skip
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD", "TRACE")
# Ray Serve's health route: open behind its ingress; /-/routes is closed there (cluster.ingress).
OF_SERVE = "/-/healthz"


def wrong_keys(key: str) -> dict[str, dict[str, str] | list[tuple[str, str]]]:
    """Headers without a valid key, by description."""
    return {
        "no key": {},
        "an empty key": {"X-API-Key": ""},
        "another key": {"X-API-Key": "0" * len(key)},
        "the key and more": {"X-API-Key": key + "x"},
        "the key in another case": {"X-API-Key": key.swapcase()},
        "a key of 60,000 characters": {"X-API-Key": "x" * 60_000},
        "bytes that are no text": {"X-API-Key": "\xff\xfe"},
        "as a bearer token": {"Authorization": f"Bearer {key}"},
        "the key twice": [("X-API-Key", key), ("X-API-Key", key)],
    }


def run(target: Target) -> Tally:
    """Request every path with every method without a key, and /score with every wrong key."""
    tally = Tally()
    for path in CLOSED:
        for method in METHODS:
            _ask(target, tally, method, path, {}, {401} | ({400, 404} if path[0] != "/" else set()))
    # The ingress itself may refuse a head that is too long.
    for name, headers in wrong_keys(target.key).items():
        allowed = {401, 400, 431} if "60,000" in name else {401}
        _ask(target, tally, "POST", "/score", headers, allowed, name)
    for path in OPEN:
        _ask(target, tally, "GET", path, {}, {200})
    _ask(target, tally, "GET", OF_SERVE, {}, {200} if target.is_ingress else {401})
    _ask(target, tally, "GET", "/-/routes", {}, {401})
    return tally


def _ask(
    target: Target,
    tally: Tally,
    method: str,
    path: str,
    headers: dict[str, str] | list[tuple[str, str]],
    allowed: set[int],
    name: str = "no key",
) -> None:
    what = f"{method} {path}"
    tally.requests[what] += 1
    connection = http.client.HTTPConnection(target.host, target.port, timeout=20)
    try:
        with tally.timed(what):
            connection.putrequest(method, path, skip_accept_encoding=True)
            for header, value in headers.items() if isinstance(headers, dict) else headers:
                connection.putheader(header, value)
            connection.putheader("Content-Length", "0")
            connection.endheaders()
            answer = connection.getresponse()
            answer.read()
        tally.statuses[str(answer.status)] += 1
        if answer.status not in allowed:
            tally.fail(f"{what} with {name}: {answer.status}", "")
    except (OSError, http.client.HTTPException) as error:
        tally.statuses["none"] += 1
        tally.fail(f"{what} with {name}: {type(error).__name__}", str(error))
    finally:
        connection.close()
