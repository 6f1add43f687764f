"""The query parameters of a request."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from urllib.parse import parse_qsl

from starlette.datastructures import QueryParams
from starlette.types import Scope

from fraud.errors import closest
from serve_app.request.problems import MOST_PROBLEMS, Rejected, problem


def check_query(query_string: bytes, known: Sequence[str]) -> None:
    """Raise Rejected (422) for a parameter that is unknown or given twice; a misspelt one would be ignored."""
    counts = Counter(name for name, _ in parse_qsl(query_string.decode("latin-1"), keep_blank_values=True))
    remedy = f"the query parameters are {' and '.join(known)}" if known else "this path takes no query parameters"
    problems: list[dict[str, object]] = []
    for name, n in counts.items():
        if name not in known:
            near = closest(name[:40], known).lstrip("; ") if len(problems) < MOST_PROBLEMS else ""
            entry = ("extra_forbidden", "no such query parameter", f"{near}; {remedy}" if near else remedy)
        elif n > 1:
            entry = ("repeated_field", "the query parameter is given twice", "send it once")
        else:
            continue
        problems.append(problem(*entry, field=name, where="query"))
    if problems:
        raise Rejected(422, *problems[:MOST_PROBLEMS])


def flag_of(scope: Scope, name: str, *, default: bool) -> bool:
    """Read a boolean query parameter. Raises Rejected (422)."""
    if not scope["query_string"]:
        return default
    text = QueryParams(scope["query_string"]).get(name)
    if text is None:
        return default
    if text.lower() not in ("true", "false"):
        entry = problem(
            "bool_parsing", f"{name}={text[:20]!r} is no boolean", "write true or false", field=name, where="query"
        )
        raise Rejected(422, entry)
    return text.lower() == "true"
