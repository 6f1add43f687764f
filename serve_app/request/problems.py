"""Error responses: FastAPI's `{"detail": [...]}` format, each entry with field and remedy."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from fraud.errors import closest
from fraud.schema import Schema
from serve_app.request.fields import remedy_of

MOST_PROBLEMS = 20
# A suggestion compares the name with all others, letter by letter, so limit how many are searched.
_MOST_SUGGESTIONS = 5
_LONGEST_NAME = 80
_MOST_NAMES = 30


class Rejected(Exception):  # noqa: N818 - an answer, not a failure of ours
    """An HTTP error response: status code and problems. The exception text never holds request data."""

    def __init__(self, status: int, *problems: dict[str, Any], headers: Mapping[str, str] | None = None) -> None:
        super().__init__(f"HTTP {status}: {', '.join(sorted({problem['type'] for problem in problems}))}")
        self.status = status
        self.problems = problems
        self.headers = headers

    def response(self) -> Response:
        """Build the response."""
        return problem_response(self.status, self.problems, self.headers)


def problem(kind: str, message: str, remedy: str, *, field: str | None = None, where: str = "body") -> dict[str, Any]:
    """One entry of `detail` (see models.Problem)."""
    name = None if field is None else _printable(field)
    return {
        "type": kind,
        "loc": [where] if name is None else [where, name],
        "msg": message if name is None else f"{name}: {message}",
        "field": name,
        "remedy": remedy,
    }


def problem_response(
    status: int, problems: Sequence[dict[str, Any]], headers: Mapping[str, str] | None = None
) -> Response:
    """Build the response `{"detail": problems}`."""
    return _ProblemResponse(problems, status, headers)


class _ProblemResponse(Response):
    """Stores the kinds of its problems in the scope's "state", where Guard counts them."""

    def __init__(self, problems: Sequence[dict[str, Any]], status: int, headers: Mapping[str, str] | None) -> None:
        super().__init__(json.dumps({"detail": list(problems)}), status, dict(headers or {}), "application/json")
        self._kinds = {str(problem["type"]) for problem in problems}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope.setdefault("state", {})["problems"] = self._kinds
        await super().__call__(scope, receive, send)


def problems_of(
    error: ValidationError, schema: Schema, fields: Mapping[str, object], *, n_left_out: int = 0, suggest: bool = True
) -> list[dict[str, Any]]:
    """Convert pydantic's errors for one transaction to at most MOST_PROBLEMS problems.

    n_left_out: unknown fields that pydantic did not see; suggest: suggest similar names.
    """
    entries = []
    known = {column.name for column in schema.inputs}
    most = _MOST_SUGGESTIONS if suggest else 0
    errors = error.errors(include_url=False, include_input=False)
    # A missing and an unknown field are often one misspelling, so suggest unknown names for missing fields.
    unclaimed = [_short(name) for name in fields if name not in known][:MOST_PROBLEMS]
    for index, entry in enumerate(errors[:MOST_PROBLEMS]):
        name = str(entry["loc"][0]) if entry["loc"] else None
        if name is None:
            message, remedy = "the name of a field is not valid Unicode", "send the names that GET /docs lists"
        elif entry["type"] == "missing":
            near = closest(name, unclaimed) if index < most else ""
            near = near.replace("; did you mean ", "; is it what you called ")
            message, remedy = f"this field is required{near}", remedy_of(schema.column(name))
        elif entry["type"] == "extra_forbidden":
            message, remedy = describe_unknown_field(name, schema, fields, suggest=index < most)
        else:
            message, remedy = entry["ctx"]["problem"], entry["ctx"]["remedy"]
        entries.append(problem(entry["type"], message, remedy, field=name))
    n_omitted = len(errors) - len(entries) + n_left_out
    if n_omitted:
        entries.append(problem("too_many", f"{n_omitted} more problems are not listed", "see GET /docs for the fields"))
    return entries


def describe_unknown_field(
    name: str, schema: Schema, fields: Mapping[str, object], *, suggest: bool = True
) -> tuple[str, str]:
    """Return message and remedy for a field that is not an input. suggest: suggest similar names."""
    if schema.label is not None and name == schema.label.name:
        return "this is the label, which is what the score predicts", "leave it out"
    if name in schema.ignore:
        return f"schema {schema.name!r} has no use for this field", "leave it out"
    names = [column.name for column in schema.inputs]
    near = ""
    if suggest:
        near = closest(_short(name), [known for known in names if known not in fields]) or closest(_short(name), names)
    listed = ", ".join(names[:_MOST_NAMES]) + (", …" if len(names) > _MOST_NAMES else "")
    return f"schema {schema.name!r} has no such field", near.lstrip("; ") or f"the fields are {listed}"


def _short(name: str) -> str:
    return name[:_LONGEST_NAME]


def _printable(name: str) -> str:
    """A field name, truncated and without lone surrogates, which cannot be encoded."""
    return _short(name).encode("utf-8", "replace").decode()
