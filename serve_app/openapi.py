"""The OpenAPI document of the served model: FastAPI's document of the routes, completed by hand."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from fraud.settings.serving import RequestLimits
from serve_app.auth import HEADER, ApiKeys
from serve_app.batch.endpoint import ARROW, NDJSON
from serve_app.http.limits import DEADLINE_HEADER
from serve_app.model.state import ServedModel, State
from serve_app.paths import open_paths

TAGS = [
    {"name": "scoring", "description": "Score transactions and explain scores."},
    {"name": "model", "description": "The model that answers."},
    {"name": "health", "description": "For load balancers and Prometheus."},
]
_LEARN = {
    "name": "learn",
    "in": "query",
    "schema": {"type": "boolean"},
    "description": "false asks what if: the transaction does not enter the history of its card or terminal. "
    "Default: true.",
}
_REASONS = {
    "name": "reasons",
    "in": "query",
    "schema": {"type": "boolean"},
    "description": "true names what made each transaction suspicious, which takes about ten times as long.",
}
_REASONS_OF_ONE = {
    **_REASONS,
    "description": "true names what is suspicious about a transaction that is not flagged, too; one that is flagged "
    "always comes with its reasons.",
}
_DEADLINE = {
    "name": DEADLINE_HEADER,
    "in": "header",
    "schema": {"type": "string", "pattern": r"^-?\d{1,9}(\.\d{1,9})?$", "examples": ["50"]},
    "description": "Milliseconds from now in which scoring must have begun; past them the answer is the fallback.",
}
PARAMETERS: dict[str, list[dict[str, Any]]] = {
    "/score": [_LEARN, _REASONS_OF_ONE, _DEADLINE],
    "/score/batch": [_LEARN, _REASONS],
    "/explain": [],
}
_PROBLEMS = {"application/json": {"schema": {"$ref": "#/components/schemas/Problems"}}}
# Responses of `Guard` to requests that need a key.
_BY_GUARD = {
    "401": "No valid API key.",
    "422": f"{DEADLINE_HEADER} is not a number of milliseconds, or a query parameter is unknown.",
    "429": "More requests than this key may send; wait the seconds in Retry-After.",
    "503": "Too many requests are waiting; try again after the seconds in Retry-After.",
}
# Other formats of a batch, for body and answer. Generators of clients warn of a body that is not JSON, and take an
# answer that may also be text for a text; so these formats are in an extension of the operation.
STREAMS_KEY = "x-streams"
STREAMS: dict[str, Any] = {
    NDJSON: {"schema": {"type": "string"}},
    ARROW: {"schema": {"type": "string", "format": "binary"}},
}


def openapi(app: FastAPI, state: State, keys: ApiKeys, limits: RequestLimits) -> dict[str, Any]:
    """The OpenAPI 3.1 document, with the request schema of the served model."""
    model = state.model
    document = get_openapi(
        title=app.title,
        version=model.version,
        description=app.description,
        routes=app.routes,
        tags=app.openapi_tags,
    )
    components, paths = document.setdefault("components", {}), document["paths"]
    components["schemas"]["Transaction"] = _transaction(model)
    one, example = {"$ref": "#/components/schemas/Transaction"}, model.example
    single = {"application/json": {"schema": one, "example": example}}
    many = {"application/json": {"schema": {"type": "array", "items": one}, "example": [example]}}
    for path, content in (("/score", single), ("/score/batch", many), ("/explain", single)):
        paths[path]["post"]["requestBody"] = {"required": True, "content": content}
    paths["/score/batch"]["post"][STREAMS_KEY] = STREAMS
    is_open = open_paths(is_metrics_open=limits.is_metrics_open)
    for path, methods in paths.items():
        for method in methods.values() if path not in is_open else ():
            for status, description in _BY_GUARD.items():
                # For a text route, FastAPI also documents the errors as text.
                method["responses"].setdefault(status, {"description": description})["content"] = _PROBLEMS
    if keys.is_required:
        components["securitySchemes"] = {"ApiKey": {"type": "apiKey", "in": "header", "name": HEADER}}
        document["security"] = [{"ApiKey": []}]
        for path in is_open & paths.keys():
            paths[path]["get"]["security"] = []
    return document


def _transaction(model: ServedModel) -> dict[str, Any]:
    """The schema of a transaction, with examples that the model accepts."""
    schema = model.reader.json_schema()
    for name, field in schema["properties"].items():
        field.pop("examples", None)
        if name in model.example:
            field["examples"] = [model.example[name]]
    return schema
