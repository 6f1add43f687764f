"""The HTTP interface: a FastAPI app for one loaded model. Routes parse, call and return.

Each replica builds its app after loading the model, so the app knows the request schema and is never pickled.
"""

from __future__ import annotations

from http import HTTPStatus
from importlib.resources import files
from typing import Any

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response

from fraud.settings.serving import BatchLimits, RequestLimits
from serve_app.auth import ApiKeys
from serve_app.batch.endpoint import Batch
from serve_app.http.access_log import AccessLog
from serve_app.http.guard import Guard
from serve_app.metrics.counters import Metrics
from serve_app.model.fallback import FallbackAnswer
from serve_app.model.state import State
from serve_app.openapi import PARAMETERS, TAGS, openapi
from serve_app.paths import VERSION
from serve_app.request.models import Answer, BatchAnswers, Explanation, ModelInfo, Problems, Status
from serve_app.request.problems import Rejected, problem, problem_response
from serve_app.scoring import Recorder, Scoring, json_response
from serve_app.tracing import TracedRequests, TracedScoring, Tracing

DESCRIPTION = "Scores card transactions for fraud with an isolation forest and an autoencoder, and says why."
# The page loads nothing external. Swagger UI would load from a public CDN and stay blank without one.
_DOCS_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_ERRORS: dict[int | str, dict[str, Any]] = {
    401: {"model": Problems, "description": "No valid API key."},
    408: {"model": Problems, "description": "The body did not arrive in time."},
    413: {"model": Problems, "description": "The body is too large."},
    415: {"model": Problems, "description": "The body does not call itself JSON, or is compressed."},
    422: {"model": Problems, "description": "The transaction is wrong; every field at fault is named, with a remedy."},
    429: {"model": Problems, "description": "More requests than this key may send; wait the seconds in Retry-After."},
    503: {
        "model": Problems,
        "description": "Too many requests are waiting; try again after the seconds in Retry-After.",
    },
}


def create_app(
    state: State,
    keys: ApiKeys,
    *,
    recorder: Recorder | None = None,
    batch_limits: BatchLimits | None = None,
    limits: RequestLimits | None = None,
    metrics: Metrics | None = None,
    access_log: AccessLog | None = None,
    tracing: Tracing | None = None,
    is_id_echoed: bool = False,
    with_reasons: bool = False,
) -> FastAPI:
    """Build the app that serves `state.model` to holders of `keys`.

    recorder: runs after each answer; the default only updates metrics. tracing: exports spans; None disables tracing.
    is_id_echoed: see `Guard`. with_reasons: see `Scoring`.
    """
    limits, metrics = limits or RequestLimits(), metrics or Metrics()
    recorder = recorder or Recorder(state, metrics)
    kind = Scoring if tracing is None else TracedScoring
    scoring = kind(state, recorder, limits, metrics, with_reasons=with_reasons)
    batch = Batch(state, recorder, batch_limits)
    guard = Middleware(
        Guard,
        keys=keys,
        handlers={"/score": scoring.score, "/score/batch": batch.score, "/explain": scoring.explain},
        limits=limits,
        metrics=metrics,
        access_log=access_log,
        is_id_echoed=is_id_echoed,
    )
    traced = [] if tracing is None else [Middleware(TracedRequests, tracing=tracing)]
    app = FastAPI(
        title="Fraud score",
        description=DESCRIPTION,
        openapi_url=None,  # `_add_documentation` defines the routes
        openapi_tags=TAGS,
        docs_url=None,
        redoc_url=None,
        middleware=[*traced, guard],
        exception_handlers={Rejected: _answer_rejected, HTTPException: _answer_http_error},
    )
    app.docs_url = "/docs"  # shown in the Serve dashboard
    app.openapi = lambda: openapi(app, state, keys, limits)  # type: ignore[method-assign]
    _add_scoring_routes(app, scoring, batch)
    _add_status_routes(app, state, metrics)
    _add_documentation(app)
    return app


def _add_scoring_routes(app: FastAPI, scoring: Scoring, batch: Batch) -> None:
    """Declare the routes for OpenAPI. Guard answers these requests before they reach the router."""

    @app.post(
        "/score",
        response_model=Answer | FallbackAnswer,
        responses=_ERRORS,
        tags=["scoring"],
        operation_id="score",
        openapi_extra={"parameters": PARAMETERS["/score"]},
    )
    async def score(request: Request) -> Response:
        """Score one transaction and name what made it suspicious."""
        return await scoring.score(request.scope, request.receive)

    @app.post(
        "/score/batch",
        response_model=BatchAnswers,
        responses=_ERRORS,
        tags=["scoring"],
        operation_id="score_batch",
        openapi_extra={"parameters": PARAMETERS["/score/batch"]},
    )
    async def score_batch(request: Request) -> Response:
        """Score many transactions, in their order. A wrong one has its problems in its place; the others are scored.

        The body is a JSON array, or NDJSON (application/x-ndjson: one transaction a line) or an Arrow stream
        (application/vnd.apache.arrow.stream). The answer has the format of the body.
        """
        return await batch.score(request.scope, request.receive)

    @app.post(
        "/explain",
        response_model=Explanation,
        responses=_ERRORS,
        tags=["scoring"],
        operation_id="explain",
        openapi_extra={"parameters": PARAMETERS["/explain"]},
    )
    async def explain(request: Request) -> Response:
        """Score one transaction and account for every column. It leaves no trace in any history."""
        return await scoring.explain(request.scope, request.receive)


def _add_status_routes(app: FastAPI, state: State, metrics: Metrics) -> None:
    """Each path also answers HEAD; the server leaves out the body."""

    @app.head("/model", include_in_schema=False)
    @app.get("/model", response_model=ModelInfo, responses={401: _ERRORS[401]}, tags=["model"], operation_id="model")
    async def model() -> Response:
        """Which model answers, what it expects, where its threshold comes from, how it did on its test window."""
        return json_response(state.model.describe())

    @app.head("/healthz", include_in_schema=False)
    @app.get("/healthz", response_model=Status, tags=["health"], operation_id="health")
    async def healthz() -> Response:
        """Liveness: the process answers. Needs no key."""
        return json_response({"status": "ok"})

    @app.head("/readyz", include_in_schema=False)
    @app.get(
        "/readyz", response_model=Status, responses={503: {"model": Status}}, tags=["health"], operation_id="ready"
    )
    async def readyz() -> Response:
        """Readiness: a model is loaded and scores. Needs no key."""
        can_score, history = state.model.can_score(), state.model.history
        detail = None if history is None else history.describe()
        content = {"status": "ready" if can_score else "unable to score", **({"history": detail} if detail else {})}
        return JSONResponse(content, 200 if can_score else 503)

    @app.head("/metrics", include_in_schema=False)
    @app.get(
        "/metrics",
        response_class=PlainTextResponse,
        responses={401: _ERRORS[401]},
        tags=["health"],
        operation_id="metrics",
    )
    async def prometheus(request: Request) -> Response:
        """What the replicas of this node have counted, for Prometheus."""
        return await metrics.respond(request)


def _add_documentation(app: FastAPI) -> None:
    page = files("serve_app").joinpath("docs.html").read_text(encoding="utf-8")

    @app.head("/docs", include_in_schema=False)
    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return HTMLResponse(page, headers={"Content-Security-Policy": _DOCS_POLICY})

    @app.head("/openapi.json", include_in_schema=False)
    @app.get("/openapi.json", include_in_schema=False)
    async def document(request: Request) -> Response:
        root = request.scope.get("root_path", "").rstrip("/").removesuffix(VERSION)
        return JSONResponse({**app.openapi(), "servers": [{"url": root + VERSION}, {"url": root or "/"}]})


async def _answer_rejected(request: Request, error: Exception) -> Response:
    assert isinstance(error, Rejected)
    return error.response()


async def _answer_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    kind = HTTPStatus(error.status_code).phrase.lower().replace(" ", "_")
    remedy = "see GET /docs for the paths and methods there are"
    entry = problem(kind, f"{request.method} {request.url.path[:80]}: {error.detail}", remedy, where="path")
    return problem_response(error.status_code, [entry], error.headers)
