"""Attacks of a malicious client over plain sockets, each with the status codes it may get."""

from __future__ import annotations

import gzip
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.fuzz.wire import (
    CHUNKED,
    JSON,
    MIB,
    Chunks,
    anagrams,
    chunked,
    dripping,
    head,
    of_size,
    post,
    with_number,
    with_text,
)

if TYPE_CHECKING:
    from benchmarks.fuzz.server import Target

CLOSED = 0  # the connection was closed without an answer
PATIENCE_S = 20.0
_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})")


@dataclass(frozen=True)
class Attack:
    """One attack. send: builds the bytes from (key, example). right: allowed statuses. answers: number to wait for."""

    name: str
    send: Callable[[str, bytes], Chunks]
    right: frozenset[int]
    answers: int = 1


@dataclass(frozen=True)
class Outcome:
    """Result of one attack. wrong: description of the failure, "" if none."""

    name: str
    statuses: tuple[int, ...]
    seconds: float
    wrong: str


def attacks() -> list[Attack]:
    """All attacks that need one connection."""
    result: list[Attack] = []

    def add(name: str, right: Sequence[int], send: Callable[[str, bytes], Any], answers: int = 1) -> None:
        def chunks(key: str, good: bytes) -> Chunks:
            sent = send(key, good)
            return iter([sent]) if isinstance(sent, bytes) else sent

        result.append(Attack(name, chunks, frozenset(right), answers))

    def add_body(
        name: str, body: Callable[[bytes], bytes], right: Sequence[int] = (422,), path: str = "/score"
    ) -> None:
        add(name, right, lambda key, good: post(key, body(good), path=path))

    # Bodies.
    add_body("truncated JSON", lambda good: good[:-5])
    for literal in (
        "NaN",
        "Infinity",
        "-Infinity",
        "1e400",
        "-1e400",
        "9" * 5000,
        "1" * 60_000,
        "1e-99999999999",
        "01",
        "0x1",
    ):
        shown = literal if len(literal) < 20 else f"{len(literal)} digits"
        # 1e-99999999999 parses as zero, which is valid.
        right = (200, 422) if "e-" in literal else (422,)
        add_body(f"number {shown}", lambda good, literal=literal: with_number(good, literal), right)
    add_body("duplicate key", lambda good: good[:-1] + b"," + good[1:])
    add_body("deep arrays", lambda good: b"[" * 60_000)
    add_body("deep objects", lambda good: b'{"a":' * 12_000)
    add_body("deep value in a field", lambda good: with_number(good, "[" * 20_000 + "]" * 20_000))
    add_body("invalid UTF-8", lambda good: good.replace(b'"', b'"\xff\xfe', 1))
    add_body("UTF-16", lambda good: good.decode().encode("utf-16"))
    add_body("byte order mark", lambda good: b"\xef\xbb\xbf" + good)
    add_body("NUL bytes", lambda good: b"\x00" * 1000)
    add_body("empty", lambda good: b"")
    add_body("5,000 unknown fields", lambda good: json.dumps({f"a{i}": 1 for i in range(5_000)}).encode())
    add_body(
        "names like ours",
        lambda good: json.dumps({f"{n[::-1]}{i}": 1 for n in json.loads(good) for i in range(400)}).encode(),
    )
    add_body("a text of 60,000 characters", lambda good: with_text(good, "x" * 60_000))
    add_body("batch: deep arrays", lambda good: b"[" * 30 * MIB, path="/score/batch")
    add_body("batch: 30 MiB of commas", lambda good: b"[" + b"," * 30 * MIB + b"]", path="/score/batch")
    add_body("batch: 30 MiB of 0,0,0", lambda good: b"[0" + b",0" * 15 * MIB + b"]", (413,), path="/score/batch")
    add_body(
        "batch: 30 MiB in one text", lambda good: b'["' + b"x" * 30 * MIB + b'"]', (200, 413, 422), path="/score/batch"
    )
    add(
        "batch: 30 MiB of line ends",
        (413, 422),
        lambda key, good: post(key, b"\n" * 30 * MIB, path="/score/batch", media_type="application/x-ndjson"),
    )
    add(
        "batch: a million lines",
        (413,),
        lambda key, good: post(key, b"{}\n" * MIB, path="/score/batch", media_type="application/x-ndjson"),
    )
    add(
        "batch: 2,000 rows with names like ours",
        (200,),
        lambda key, good: post(key, anagrams(good, 2_000), path="/score/batch"),
    )
    arrow = "application/vnd.apache.arrow.stream"
    add(
        "batch: Arrow that says it is huge",
        (422,),
        lambda key, good: post(key, b"\xff\xff\xff\xff\xff\xff\xff\x7f" * 100, path="/score/batch", media_type=arrow),
    )

    # Sizes and encodings.
    add("100 MB with their length", (413,), lambda key, good: of_size(key, 100_000_000))
    add("100 MB batch", (413,), lambda key, good: of_size(key, 100_000_000, "/score/batch"))
    add("100 MB in chunks", (413,), lambda key, good: chunked(key, 100))
    add("chunks without end", (413,), lambda key, good: chunked(key, 10_000))
    add("a chunk of 16 EiB", (400, 408, 413, CLOSED), lambda key, good: head(key, *CHUNKED) + b"ffffffffffffffff\r\nx")
    add("a chunk size that is none", (400, CLOSED), lambda key, good: head(key, *CHUNKED) + b"zz\r\nx\r\n0\r\n\r\n")
    add(
        "a chunk extension without end",
        (400, 408, 413, CLOSED),
        lambda key, good: head(key, *CHUNKED) + b"1;" + b"a" * MIB,
    )
    add("gzip bomb", (415,), lambda key, good: post(key, gzip.compress(b" " * 100 * MIB), "Content-Encoding: gzip"))
    add(
        "gzip bomb as a batch",
        (415,),
        lambda key, good: post(key, gzip.compress(b"0" * 100 * MIB), "Content-Encoding: gzip", path="/score/batch"),
    )
    add("gzip that does not say so", (422,), lambda key, good: post(key, gzip.compress(good)))
    for kind in ("br", "zstd", "deflate", "identity, gzip", "x-gzip"):
        add(
            f"Content-Encoding {kind}",
            (415,),
            lambda key, good, kind=kind: post(key, good, f"Content-Encoding: {kind}"),
        )
    for kind in (
        "text/plain",
        "multipart/form-data; boundary=x",
        "application/xml",
        "application/x-www-form-urlencoded",
        "a" * 3000,
        "",
    ):
        add(
            f"Content-Type {kind[:30] or 'empty'}",
            (415,),
            lambda key, good, kind=kind: post(key, good, media_type=kind),
        )
    add("no Content-Type", (415,), lambda key, good: head(key, f"Content-Length: {len(good)}") + good)

    # Heads.
    add("10,000 headers", _REFUSED_HEAD, lambda key, good: post(key, good, *(f"A{i}: x" for i in range(10_000))))
    add("a header of 1 MiB", _REFUSED_HEAD, lambda key, good: post(key, good, "A: " + "x" * MIB))
    add(
        "a path of 60,000 characters",
        (400, 404, 414),
        lambda key, good: head(key, path="/" + "a" * 60_000, method="GET"),
    )
    add(
        "a query of 60,000 characters",
        (200, 400, 414, 422),
        lambda key, good: post(key, good, path="/score?" + "a&" * 30_000),
    )
    add("two lengths", (400, CLOSED), lambda key, good: post(key, good, "Content-Length: 3"))
    add(
        "length and chunks",
        (200, 400, 422, CLOSED),
        lambda key, good: head(key, "Content-Length: 3", *CHUNKED) + b"0\r\n\r\n",
    )
    add("a negative length", (400, CLOSED), lambda key, good: head(key, "Content-Length: -1"))
    add("a length of 400 digits", (400, 413, CLOSED), lambda key, good: head(key, JSON, "Content-Length: " + "9" * 400))
    add("HTTP/1.0", (200,), lambda key, good: post(key, good).replace(b"HTTP/1.1", b"HTTP/1.0"))
    add("HTTP/0.9", (400, 401, CLOSED), lambda key, good: b"GET /score\r\n\r\n")
    add(
        "HTTP/2 without asking",
        (400, 404, 405, CLOSED),
        lambda key, good: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 100,
    )
    add(
        "TLS to a plain port",
        (400, CLOSED),
        lambda key, good: b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 200,
    )
    add("noise", (400, CLOSED), lambda key, good: bytes(range(128, 256)) * 50)
    add("a header without a colon", (400, CLOSED), lambda key, good: head(key, "nonsense"))
    add(
        "a line break in a header",
        (400, 401, 415, CLOSED),
        lambda key, good: head(key, "A: b\nX-API-Key: c", "Content-Length: 0"),
    )
    add("Expect: 100-continue", (200,), lambda key, good: post(key, good, "Expect: 100-continue"))
    add("websocket upgrade", (400, 401, 403, 404, 405, 426), lambda key, good: head(key, *_WEBSOCKET, method="GET"))
    for method in ("GET", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "HEAD"):
        add(f"{method} /score", (405,), lambda key, good, method=method: head(key, method=method))
    add("CONNECT", (400, 404, 405, CLOSED), lambda key, good: head(key, path="x:443", method="CONNECT"))
    add("a method that is none", (400, 405, CLOSED), lambda key, good: head(key, method="FROBNICATE"))
    add("100 pipelined requests", (200,), lambda key, good: post(key, good) * 100, answers=100)
    add("pipelined bad and good", (200, 422), lambda key, good: (post(key, b"{") + post(key, good)) * 20, answers=40)

    # Slowness.
    add("a body of which half comes", (408,), lambda key, good: post(key, good)[:-10])
    add("a body byte by byte", (408,), lambda key, good: dripping(post(key, b" " * 2000)))
    return result


_WEBSOCKET = (
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)
# uvicorn accepts heads of any length; HAProxy does not.
_REFUSED_HEAD = (200, 400, 413, 431, CLOSED)


def run(target: Target, example: dict[str, Any], chosen: Sequence[Attack] | None = None) -> list[Outcome]:
    """Run the attacks in order; after each, a valid request must get 200."""
    good, outcomes = json.dumps(example).encode(), []
    for attack in attacks() if chosen is None else chosen:
        outcome = _try(target, attack, good)
        if not outcome.wrong and (code := target.ask("/score?learn=false", PATIENCE_S, good)[0]) != 200:
            outcome = Outcome(attack.name, outcome.statuses, outcome.seconds, f"a good request after it got {code}")
        outcomes.append(outcome)
    return outcomes


def _try(target: Target, attack: Attack, good: bytes) -> Outcome:
    began = time.perf_counter()
    with socket.create_connection((target.host, target.port), timeout=PATIENCE_S) as connection:
        ended = threading.Event()
        sender = threading.Thread(target=_send, args=(connection, attack.send(target.key, good), ended), daemon=True)
        sender.start()
        try:
            statuses, is_complete = _receive(connection, attack.answers)
        finally:
            ended.set()
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        sender.join(PATIENCE_S)
    seconds = time.perf_counter() - began
    wrong = ""
    if not is_complete:
        wrong = f"no answer in {PATIENCE_S:g} s"
    elif set(statuses or (CLOSED,)) - attack.right or (CLOSED not in attack.right and len(statuses) < attack.answers):
        wrong = f"{len(statuses)} answers {sorted(set(statuses))}, not {sorted(attack.right)}"
    return Outcome(attack.name, statuses, seconds, wrong)


def _send(connection: socket.socket, chunks: Chunks, ended: threading.Event) -> None:
    """Send until the chunks or the attack end. A closed connection counts as an answer."""
    with suppress(OSError):
        for chunk in chunks:
            if ended.is_set():
                return
            connection.sendall(chunk)


def _receive(connection: socket.socket, n: int) -> tuple[tuple[int, ...], bool]:
    """Statuses of up to n answers, and whether all arrived or the connection closed within PATIENCE_S."""
    received, until = b"", time.monotonic() + PATIENCE_S
    statuses: list[int] = []
    while len(statuses) < n and time.monotonic() < until:
        connection.settimeout(max(until - time.monotonic(), 0.01))
        try:
            part = connection.recv(65536)
        except TimeoutError:
            break
        except OSError:
            return tuple(statuses), True
        if not part:
            return tuple(statuses), True
        received += part
        statuses = [code for code in map(int, _STATUS.findall(received)) if code != 100]
    return tuple(statuses), len(statuses) >= n


def slow_loris(target: Target, example: dict[str, Any], n: int = 200, seconds: float = 5.0) -> Outcome:
    """Open n connections that send their heads byte by byte; valid requests must get 200 meanwhile."""
    good, began = json.dumps(example).encode(), time.perf_counter()
    request = head(target.key, *(f"A{i}: x" for i in range(100)))
    connections = [socket.create_connection((target.host, target.port), timeout=5) for _ in range(n)]
    codes: list[int] = []
    try:
        position = 0
        while time.perf_counter() - began < seconds:
            for connection in connections:
                with suppress(OSError):
                    connection.send(request[position : position + 1])
            position += 1
            codes.append(target.ask("/score?learn=false", PATIENCE_S, good)[0])
    finally:
        for connection in connections:
            connection.close()
    wrong = "" if set(codes) == {200} else f"good requests meanwhile got {sorted(set(codes))}"
    return Outcome(f"slow-loris, {n} connections", tuple(codes), time.perf_counter() - began, wrong)
