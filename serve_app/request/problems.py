"""Every answer that is not a success: FastAPI's `{"detail": [...]}` shape, each entry with the field and the remedy."""

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
# Looking for what a name may have meant compares it with every other, letter by letter: enough for a mistake.
_MOST_SUGGESTIONS = 5
_LONGEST_NAME = 80
_MOST_NAMES = 30


class Rejected(Exception):  # noqa: N818 - an answer, not a failure of ours
    """A request that gets an HTTP error: its status code and problems; the text never holds the caller's data."""

    def __init__(self, status: int, *problems: dict[str, Any], headers: Mapping[str, str] | None = None) -> None:
        super().__init__(f"HTTP {status}: {', '.join(sorted({problem['type'] for problem in problems}))}")
        self.status = status
        self.problems = problems
        self.headers = headers

    def response(self) -> Response:
        """The HTTP answer."""
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
    """JSON answer `{"detail": problems}`."""
    return _ProblemResponse(problems, status, headers)


class _ProblemResponse(Response):
    """Leaves the kinds of its problems in the scope's "state", where Guard counts them."""

    def __init__(self, problems: Sequence[dict[str, Any]], status: int, headers: Mapping[str, str] | None) -> None:
        super().__init__(json.dumps({"detail": list(problems)}), status, dict(headers or {}), "application/json")
        self._kinds = {str(problem["type"]) for problem in problems}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope.setdefault("state", {})["problems"] = self._kinds
        await super().__call__(scope, receive, send)


def problems_of(
    error: ValidationError, schema: Schema, given: Mapping[str, object], *, n_left_out: int = 0, suggest: bool = True
) -> list[dict[str, Any]]:
    """Translate pydantic's findings about one transaction; at most MOST_PROBLEMS of them.

    n_left_out: how many unknown fields it was not shown; suggest: look for like names.
    """
    found = []
    known = {column.name for column in schema.inputs}
    most = _MOST_SUGGESTIONS if suggest else 0
    errors = error.errors(include_url=False, include_input=False)
    # A missing field and an unknown one are often the same misspelling: the unknown names are what is left to claim.
    unclaimed = [_short(name) for name in given if name not in known][:MOST_PROBLEMS]
    for place, entry in enumerate(errors[:MOST_PROBLEMS]):
        name = str(entry["loc"][0]) if entry["loc"] else None
        if name is None:
            message, remedy = "the name of a field is not valid Unicode", "send the names that GET /docs lists"
        elif entry["type"] == "missing":
            near = closest(name, unclaimed) if place < most else ""
            near = near.replace("; did you mean ", "; is it what you called ")
            message, remedy = f"this field is required{near}", remedy_of(schema.column(name))
        elif entry["type"] == "extra_forbidden":
            message, remedy = about_extra(name, schema, given, suggest=place < most)
        else:
            message, remedy = entry["ctx"]["problem"], entry["ctx"]["remedy"]
        found.append(problem(entry["type"], message, remedy, field=name))
    n_untold = len(errors) - len(found) + n_left_out
    if n_untold:
        found.append(problem("too_many", f"{n_untold} more problems are not listed", "see GET /docs for the fields"))
    return found


def about_extra(name: str, schema: Schema, given: Mapping[str, object], *, suggest: bool = True) -> tuple[str, str]:
    """What is wrong with a field that the schema's inputs do not have, and the remedy. suggest: look for a like one."""
    if schema.label is not None and name == schema.label.name:
        return "this is the label, which is what the score predicts", "leave it out"
    if name in schema.ignore:
        return f"schema {schema.name!r} has no use for this field", "leave it out"
    names = [column.name for column in schema.inputs]
    near = ""
    if suggest:
        near = closest(_short(name), [known for known in names if known not in given]) or closest(_short(name), names)
    listed = ", ".join(names[:_MOST_NAMES]) + (", …" if len(names) > _MOST_NAMES else "")
    return f"schema {schema.name!r} has no such field", near.lstrip("; ") or f"the fields are {listed}"


def _short(name: str) -> str:
    return name[:_LONGEST_NAME]


def _printable(name: str) -> str:
    """A field name as the caller wrote it, cut short; half a surrogate pair cannot be sent back."""
    return _short(name).encode("utf-8", "replace").decode()
