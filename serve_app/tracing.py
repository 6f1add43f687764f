"""Optional OpenTelemetry traces: one span per request, and one per stage of /score.

Exports in the background by OTLP over HTTP to OTEL_EXPORTER_OTLP_ENDPOINT; if the collector is down, only spans are
lost. Continues a caller's `traceparent`. Spans contain no header, field or score.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fraud.settings.serving import TraceSettings
from serve_app.model.state import ServedModel
from serve_app.paths import name_of, path_of
from serve_app.scoring import Content, Scoring, Transaction

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

TIMESTAMPS = "fraud.trace"  # in the scope of a request: {name: time_ns}
SPANS = (("read", "asked", "read"), ("score", "chosen", "scored"), ("record", "scored", "recorded"))
_CALLERS = TraceContextTextMapPropagator()


class Tracing:
    """Creates the spans. share: of traced requests, sampled by trace id, so that all services agree."""

    def __init__(self, exporter: SpanExporter, *, share: float = 1.0, service: str = "fraud-score") -> None:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import TraceIdRatioBased

        # Not the global provider: MLflow uses one, too.
        self._provider = TracerProvider(
            sampler=TraceIdRatioBased(share),
            resource=Resource.create({"service.name": service}),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("serve_app")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Tracing | None:
        """Read the settings; None if tracing is off. Raises ConfigError."""
        settings = TraceSettings.from_environment(environment)
        if not settings.share:
            return None
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        exporter = OTLPSpanExporter(endpoint=f"{settings.endpoint.rstrip('/')}/v1/traces")
        return cls(exporter, share=settings.share, service=settings.service)

    def close(self) -> None:
        """Export the remaining spans."""
        self._provider.shutdown()

    async def trace(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """Run `app` for one request, in a span."""
        path = name_of(path_of(scope))
        sent = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        marks = scope[TIMESTAMPS] = {"asked": time.time_ns()}
        span = self._tracer.start_span(
            f"{scope['method']} {path}",
            _CALLERS.extract(sent),
            trace.SpanKind.SERVER,
            {"http.request.method": scope["method"], "http.route": path},
            start_time=marks["asked"],
        )
        status = 500

        async def note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await app(scope, receive, note)
        finally:
            span.set_attribute("http.response.status_code", status)
            state = scope.get("state") or {}
            for attribute, name in (("fraud.request_id", "request_id"), ("fraud.model_version", "model_version")):
                if name in state:
                    span.set_attribute(attribute, str(state[name]))
            if status >= 500:
                span.set_status(trace.StatusCode.ERROR)
            within = trace.set_span_in_context(span)
            for stage, first, last in SPANS:
                if first in marks and last in marks:
                    part = self._tracer.start_span(stage, within, start_time=marks[first])
                    part.end(marks[last])
            span.end()


class TracedScoring(Scoring):
    """Scoring that stores the start and end time of each stage of /score in the scope."""

    def choose(self, scope: Scope, champion: ServedModel, transaction: Transaction) -> ServedModel:
        """Like `Scoring.choose`."""
        _mark(scope, "read")
        model = super().choose(scope, champion, transaction)
        _mark(scope, "chosen")
        return model

    def record(self, scope: Scope, model: ServedModel, transaction: Transaction, answer: Content) -> None:
        """Like `Scoring.record`."""
        _mark(scope, "scored")
        super().record(scope, model, transaction, answer)
        _mark(scope, "recorded")


class TracedRequests:
    """ASGI middleware that traces each request."""

    def __init__(self, app: ASGIApp, tracing: Tracing) -> None:
        self._app = app
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        await self._tracing.trace(self._app, scope, receive, send)


def _mark(scope: Scope, name: str) -> None:
    scope[TIMESTAMPS][name] = time.time_ns()
