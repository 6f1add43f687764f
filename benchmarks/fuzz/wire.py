"""Raw bytes of HTTP requests, valid and invalid."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

MIB = 2**20
Chunks = Iterator[bytes]
JSON = "Content-Type: application/json"
CHUNKED = (JSON, "Transfer-Encoding: chunked")


def head(key: str, *lines: str, path: str = "/score", method: str = "POST", version: str = "1.1") -> bytes:
    """Request line and headers with the key. lines: further headers."""
    all_lines = [f"{method} {path} HTTP/{version}", "Host: x", f"X-API-Key: {key}", *lines, "", ""]
    return "\r\n".join(all_lines).encode("latin-1")


def post(key: str, body: bytes, *lines: str, path: str = "/score", media_type: str = "application/json") -> bytes:
    """Complete request with a body."""
    return head(key, f"Content-Type: {media_type}", f"Content-Length: {len(body)}", *lines, path=path) + body


def with_number(good: bytes, literal: str) -> bytes:
    """The example with `literal` in place of its last number."""
    values = json.loads(good)
    name = [name for name, value in values.items() if isinstance(value, int | float)][-1]
    return json.dumps({**values, name: "@"}).replace('"@"', literal).encode()


def with_text(good: bytes, text: str) -> bytes:
    values = json.loads(good)
    return json.dumps({**values, next(iter(values)): text}).encode()


def anagrams(good: bytes, rows: int) -> bytes:
    """Rows with reversed column names: the most expensive input for the 'did you mean' suggestion."""
    row = {f"{name[::-1]}{i}": 1 for name in json.loads(good) for i in range(30)}
    return b"[" + b",".join([json.dumps(row).encode()] * rows) + b"]"


def of_size(key: str, size: int, path: str = "/score") -> Chunks:
    yield head(key, JSON, f"Content-Length: {size}", path=path)
    for _ in range(0, size, MIB):
        yield b" " * MIB


def chunked(key: str, n: int) -> Chunks:
    yield head(key, *CHUNKED)
    for _ in range(n):
        yield b"100000\r\n" + b" " * MIB + b"\r\n"
    yield b"0\r\n\r\n"


def dripping(request: bytes) -> Chunks:
    at = request.index(b"\r\n\r\n") + 4
    yield request[:at]
    for i in range(at, len(request)):
        time.sleep(0.05)
        yield request[i : i + 1]
