"""The load generator: what it sends, how fast, and what it says of a server that fails."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from benchmarks.serving.load import drive
from fraud.errors import DataError

pytestmark = pytest.mark.skipif(shutil.which("wrk") is None, reason="needs wrk")


class Server(ThreadingHTTPServer):
    """Answers 200, or what a body's `status` says; a status of 0 closes the connection."""

    daemon_threads = True

    def __init__(self) -> None:
        self.seen: list[tuple[dict[str, str], bytes]] = []
        super().__init__(("127.0.0.1", 0), Answer)

    def handle_error(self, *_: object) -> None:
        """At its end wrk closes connections in the midst of an answer."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/score"


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.seen.append((dict(self.headers), body))
        status = json.loads(body).get("status", 200)
        if status == 0:
            self.close_connection = True
            return
        time.sleep(0.002)
        self.send_response(status)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as served:
        thread = threading.Thread(target=served.serve_forever)
        thread.start()
        yield served
        served.shutdown()
        thread.join()


def test_every_body_is_sent_as_it_is_with_the_headers(server: Server) -> None:
    bodies = [json.dumps({"id": i, "text": "line\nand 'quote'" * i}).encode() for i in range(5)]
    load = drive(server.url, bodies, connections=2, seconds=1, headers={"X-API-Key": "k"}, content_type="text/plain")
    assert {body for _, body in server.seen} == set(bodies)
    headers, _ = server.seen[0]
    assert (headers["X-API-Key"], headers["Content-Type"]) == ("k", "text/plain")
    assert 0 < load.requests == load.statuses["200"] <= len(server.seen)
    assert load.failed == 0 and 0.9 < load.seconds < 5
    assert 1.9 < load.p50_ms <= load.p99_ms <= load.p999_ms


def test_many_connections_share_two_threads(server: Server) -> None:
    load = drive(server.url, [b'{"id": %d}' % i for i in range(9)], connections=40, seconds=1)
    assert load.requests == sum(load.statuses.values()) > 40
    assert len({body for _, body in server.seen}) == 9


def test_a_rate_is_kept(server: Server) -> None:
    load = drive(server.url, [b"{}"], connections=4, seconds=3, rate=40)
    assert load.rate == pytest.approx(40, rel=0.2)


def test_failures_are_counted_by_kind(server: Server) -> None:
    load = drive(server.url, [b'{"status": 200}', b'{"status": 503}', b'{"status": 422}'], connections=1, seconds=1)
    assert set(load.statuses) == {"200", "422", "503"}
    assert load.failed == load.statuses["422"] + load.statuses["503"] > 0
    broken = drive(server.url, [b'{"status": 0}'], connections=1, seconds=1)
    assert broken.requests == 0 and broken.socket_errors["read"] == broken.failed > 0
    assert broken.p50_ms != broken.p50_ms


def test_nobody_there_is_said(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="unable to connect"):
        drive("http://127.0.0.1:9/", [b"{}"], connections=1, seconds=1)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(DataError, match="apt-get install wrk"):
        drive(server.url, [b"{}"], connections=1, seconds=1)
