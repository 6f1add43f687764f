"""The OpenAPI document of the served model: FastAPI's document of the routes, completed by hand."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from fraud.settings.serving import RequestLimits
from serve_app.auth import HEADER, ApiKeys
from serve_app.batch.endpoint import ARROW, NDJSON
from serve_app.http.limits import DEADLINE_HEADER
from serve_app.model.state import State
from serve_app.paths import open_paths
from serve_app.request.models import example_of

_PROBLEMS = {"application/json": {"schema": {"$ref": "#/components/schemas/Problems"}}}
_DEADLINE = {
    "name": DEADLINE_HEADER,
    "in": "header",
    "schema": {"type": "string", "pattern": r"^-?\d{1,9}(\.\d{1,9})?$", "examples": ["50"]},
    "description": "Milliseconds from now in which scoring must have begun; past them the answer is the fallback.",
}
# Responses of `Guard` to requests that need a key.
_BY_GUARD = {
    "401": "No valid API key.",
    "422": f"{DEADLINE_HEADER} is not a number of milliseconds.",
    "429": "More requests than this key may send; wait the seconds in Retry-After.",
    "503": "Too many requests are waiting; try again after the seconds in Retry-After.",
}


def openapi(app: FastAPI, state: State, keys: ApiKeys, limits: RequestLimits) -> dict[str, Any]:
    """The OpenAPI 3.1 document, with the request schema of the served model."""
    schema = state.model.engine.schema
    document = get_openapi(
        title=app.title,
        version=state.model.version,
        description=app.description,
        routes=app.routes,
        tags=app.openapi_tags,
    )
    components, paths = document.setdefault("components", {}), document["paths"]
    components["schemas"]["Transaction"] = state.model.reader.json_schema()
    one, example = {"$ref": "#/components/schemas/Transaction"}, example_of(schema)
    many = {"schema": {"type": "array", "items": one}, "example": [example]}
    single = {"application/json": {"schema": one, "example": example}}
    others = {NDJSON: {"schema": {"type": "string"}}, ARROW: {"schema": {"type": "string", "format": "binary"}}}
    batch = {"application/json": many, **others}
    for path, content in (("/score", single), ("/score/batch", batch), ("/explain", single)):
        paths[path]["post"]["requestBody"] = {"required": True, "content": content}
    paths["/score"]["post"].setdefault("parameters", []).append(_DEADLINE)
    paths["/score/batch"]["post"]["responses"]["200"]["content"] |= others
    is_open = open_paths(is_metrics_open=limits.is_metrics_open)
    for path, methods in paths.items():
        for method in methods.values() if path not in is_open else ():
            for status, description in _BY_GUARD.items():
                # For a text route, FastAPI also documents the errors as text.
                method["responses"].setdefault(status, {"description": description})["content"] = _PROBLEMS
    if keys.is_required:
        components["securitySchemes"] = {"ApiKey": {"type": "apiKey", "in": "header", "name": HEADER}}
        document["security"] = [{"ApiKey": []}]
        for path in is_open:
            paths[path]["get"]["security"] = []
    return document
