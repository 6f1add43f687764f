"""Traces by OpenTelemetry: what reaches a collector, and that nothing of a transaction does."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from starlette.testclient import TestClient

from fraud.errors import ConfigError
from fraud.settings.serving import TraceSettings
from serve_app.app import create_app
from serve_app.auth import ApiKeys
from serve_app.model.state import State
from serve_app.tracing import Tracing
from tests.serve_app.conftest import REQUESTS

CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
SECRET = "private-4929"


class Collector:
    """A server that takes OTLP over HTTP, as OpenTelemetry's collector does."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        taken = self.bodies

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                assert self.path == "/v1/traces"
                taken.append(self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def settings(self) -> dict[str, str]:
        address = f"http://127.0.0.1:{self.server.server_address[1]}"
        return {"FRAUD_TRACES": "1", "OTEL_EXPORTER_OTLP_ENDPOINT": address}

    def spans(self) -> list[Any]:
        requests = [ExportTraceServiceRequest.FromString(body) for body in self.bodies]
        return [span for one in requests for r in one.resource_spans for s in r.scope_spans for span in s.spans]


@pytest.fixture
def collector() -> Iterator[Collector]:
    started = Collector()
    yield started
    started.server.shutdown()
    started.server.server_close()


def plain(span: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in span.attributes}


def ask(models: Any, settings: dict[str, str], path: str = "/score", **arguments: Any) -> int:
    tracing = Tracing.from_environment(settings)
    client = TestClient(create_app(State(models["transactions"]), ApiKeys(), tracing=tracing))
    status = client.post(path, **{"json": REQUESTS["transactions"], **arguments}).status_code
    if tracing is not None:
        tracing.close()
    return status


def test_a_request_is_followed_from_the_caller_to_the_score(models, collector):
    assert ask(models, collector.settings, headers={"traceparent": CALLER, "X-Request-ID": "abc-1"}) == 200
    spans = {span.name: span for span in collector.spans()}
    assert spans.keys() == {"POST /score", "read", "score", "record"}
    request = spans.pop("POST /score")
    assert (request.trace_id.hex(), request.parent_span_id.hex()) == tuple(CALLER.split("-")[1:3])
    assert plain(request) == {
        "http.request.method": "POST",
        "http.route": "/score",
        "http.response.status_code": 200,
        "fraud.request_id": "abc-1",
        "fraud.model_version": "7",
    }
    for part in spans.values():
        assert part.parent_span_id == request.span_id
        assert request.start_time_unix_nano <= part.start_time_unix_nano <= part.end_time_unix_nano
        assert part.end_time_unix_nano <= request.end_time_unix_nano


def test_nothing_of_a_transaction_and_no_key_is_in_a_span(models, collector):
    headers = {"X-API-Key": SECRET, "Authorization": SECRET}
    assert ask(models, collector.settings, f"/score/{SECRET}", headers=headers) == 404
    assert ask(models, collector.settings, json={"amount": SECRET}) == 422
    assert {span.name for span in collector.spans()} >= {"POST other", "POST /score"}
    assert SECRET.encode() not in b"".join(collector.bodies)


def test_a_request_for_the_description_has_its_path_as_name(models, collector):
    tracing = Tracing.from_environment(collector.settings)
    client = TestClient(create_app(State(models["transactions"]), ApiKeys(), tracing=tracing))
    assert client.get("/openapi.json").status_code == 200
    assert tracing is not None
    tracing.close()
    assert [span.name for span in collector.spans()] == ["GET /openapi.json"]


def test_without_the_setting_nothing_is_sent(models, collector):
    assert ask(models, {**collector.settings, "FRAUD_TRACES": "0"}) == 200
    assert ask(models, {}) == 200 and not collector.bodies


def test_a_share_of_the_requests(models, collector):
    tracing = Tracing.from_environment({**collector.settings, "FRAUD_TRACES": "0.3"})
    client = TestClient(create_app(State(models["transactions"]), ApiKeys(), tracing=tracing))
    for _ in range(200):
        client.get("/healthz")
    assert tracing is not None
    tracing.close()
    assert 20 < len(collector.spans()) < 110


@pytest.mark.slow
def test_a_collector_that_is_away_costs_no_answer(models, collector):
    collector.server.server_close()
    assert ask(models, collector.settings) == 200


@pytest.mark.parametrize("share", ["2", "-0.1", "all", "nan"])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(ConfigError, match=r"FRAUD_TRACES.*from 0 \(none\) to 1 \(all\)"):
        TraceSettings.from_environment({"FRAUD_TRACES": share})


@pytest.mark.parametrize("endpoint", ["", "collector:4318"])
def test_traces_without_a_collector_are_refused_with_the_remedy(endpoint):
    with pytest.raises(ConfigError, match=r"OTEL_EXPORTER_OTLP_ENDPOINT.*http://HOST:4318"):
        TraceSettings.from_environment({"FRAUD_TRACES": "1", "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint})
