"""Bad input: generated requests, raw bodies, attacks on the socket of a real server, and callers without a key.

`python -m benchmarks.fuzz` does the same at length; here its checks hold the app to its word on every commit.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from fastapi import FastAPI
from starlette.responses import JSONResponse

from benchmarks.fuzz import attacks, bodies, keys
from benchmarks.fuzz.cases import Cases, Tally
from benchmarks.fuzz.server import Target, serving
from fraud.scoring import bundle
from serve_app.app import create_app
from serve_app.auth import ApiKeys, new_key
from serve_app.model.state import ServedModel, State
from serve_app.request.examples import example_of

# Tens of MiB each, or seconds of work: these are left to the benchmark.
LONG = ("batch: deep", "batch: 30 MiB", "batch: 2,000 rows", "gzip bomb", "100 MB batch", "100 MB in")


@pytest.fixture(scope="module")
def target(bundles: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """The whole replica under uvicorn, in a process of its own, in production mode."""
    folder = tmp_path_factory.mktemp("fuzz")
    with serving(bundles["handbook"], folder / "state", free_port(), folder / "log") as target:
        yield target


@pytest.fixture(scope="module")
def example(bundles: dict[str, Path]) -> dict[str, Any]:
    """A good transaction."""
    return example_of(bundle.load(bundles["handbook"]).detector)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def generated(app: FastAPI, key: str, n: int, example: dict[str, Any]) -> Tally:
    schema = schemathesis.openapi.from_asgi("/openapi.json", app, headers={"X-API-Key": key})
    cases = Cases(schema, key)
    cases.register_bodies({bodies.NDJSON: bodies.lines(example), bodies.ARROW: bodies.streams(example)})
    return cases.run(n)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "n"), [("transactions", 160), ("mixed", 160)])
def test_every_generated_request_is_answered_as_the_openapi_document_says(
    models: dict[str, ServedModel], name: str, n: int
):
    key, digest = new_key()
    app = create_app(State(models[name]), ApiKeys([bytes.fromhex(digest)]))
    report = generated(app, key, n, models[name].example)
    assert not report.failures, "\n\n".join(f"{what}\n{shown}" for what, shown in report.failures.items())
    assert report.n >= n and {"200", "401", "405", "415", "422"} <= set(report.statuses)


def test_raw_bodies_are_scored_or_refused(target: Target, example: dict[str, Any]):
    report = Tally()
    bodies.run(target, example, 150, report)
    assert not report.failures, report.failures
    assert report.n == 150 and {"200", "422"} <= set(report.statuses)


@pytest.mark.slow
def test_attacks_on_the_socket_get_their_answer_and_harm_nobody(target: Target, example: dict[str, Any]):
    chosen = [attack for attack in attacks.attacks() if not attack.name.startswith(LONG)]
    assert len(chosen) > 60
    wrong = [outcome for outcome in attacks.run(target, example, chosen) if outcome.wrong]
    assert not wrong


def test_slow_clients_do_not_keep_others_waiting(target: Target, example: dict[str, Any]):
    assert not attacks.slow_loris(target, example, n=50, seconds=0.5).wrong


def test_without_a_key_everything_but_health_is_401(target: Target):
    report = keys.run(target)
    assert not report.failures, report.failures
    assert report.statuses["401"] > 150 and report.statuses["200"] == len(keys.OPEN)


@pytest.mark.parametrize("status", [200, 500])
def test_generated_requests_see_an_app_that_does_not_keep_its_word(status: int):
    app = FastAPI()

    @app.post("/score", response_model=dict[str, float])
    async def score(body: dict[str, float]) -> JSONResponse:
        return JSONResponse({"score": "high"}, status)

    report = generated(app, "", 30, {"a": 1.0})
    kinds = {what.split(":")[0] for what in report.failures}
    assert ("ServerError" if status == 500 else "JsonSchemaError") in kinds


def test_attacks_see_a_server_that_fails_or_says_nothing(example: dict[str, Any], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(attacks, "PATIENCE_S", 0.5)
    chosen = [attack for attack in attacks.attacks() if attack.name in ("empty", "100 pipelined requests")]
    with answering(b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\nConnection: close\r\n\r\n") as target:
        assert all("500" in outcome.wrong for outcome in attacks.run(target, example, chosen))
        assert len(keys.run(target).failures) > 40
    with answering(b"") as target:
        assert all("no answer" in outcome.wrong for outcome in attacks.run(target, example, chosen))


def test_faults_of_answers_are_seen():
    detail = json.dumps({"detail": [1]}).encode()
    assert bodies.fault_of(422, "application/json", detail) is None
    assert bodies.fault_of(500, "application/json", detail) == "status 500"
    assert bodies.fault_of(200, "application/json", b'{"score": NaN}') == "an answer that is no JSON"
    assert bodies.fault_of(422, "application/json", b'{"detail": []}') == "an error that says nothing"


@contextmanager
def answering(answer: bytes) -> Iterator[Target]:
    """A server that answers this to whatever comes, and closes; nothing: it says nothing and waits."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        connections = []

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                    connections.append(connection)
                    if answer:
                        connection.recv(65536)
                        connection.sendall(answer)
                        connection.close()
                except OSError:
                    return

        threading.Thread(target=serve, daemon=True).start()
        yield Target("127.0.0.1", server.getsockname()[1], "x", ())
        server.shutdown(socket.SHUT_RDWR)
    for connection in connections:
        connection.close()
