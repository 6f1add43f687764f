"""The paths of the service, for the app, the guard, the metrics, the access log and the traces.

Each path also answers below `VERSION`: /v1/score is /score. Everything that counts, limits or logs sees /score.
"""

from __future__ import annotations

from typing import NamedTuple

from starlette.types import Scope


class Path(NamedTuple):
    """One path. needs_key: whether it requires an API key; is_hot: whether `Guard` answers it before the router, which
    costs about as much as scoring; query: its query parameters, None if it ignores what it does not know."""

    path: str
    method: str
    needs_key: bool = True
    is_hot: bool = False
    query: tuple[str, ...] | None = ()


VERSION = "/v1"
PATHS = (
    Path("/score", "POST", is_hot=True, query=("learn", "reasons")),
    Path("/score/batch", "POST", is_hot=True, query=("learn", "reasons")),
    Path("/explain", "POST", is_hot=True),
    Path("/model", "GET"),
    Path("/metrics", "GET"),  # needs no key with FRAUD_METRICS_OPEN=1
    # A load balancer that adds a parameter must not take the service for dead.
    Path("/healthz", "GET", needs_key=False, query=None),
    Path("/readyz", "GET", needs_key=False, query=None),
    Path("/docs", "GET", needs_key=False, query=None),  # the page has no data; it asks for a key to read /openapi.json
    Path("/openapi.json", "GET"),
)
HOT = frozenset(path.path for path in PATHS if path.is_hot)
HOT_WITH_VERSION = HOT | {VERSION + path for path in HOT}
OTHER = "other"  # the name of unknown paths, so that callers cannot create metric labels
_BELOW_VERSION = f"{VERSION}/"
_NAMES = frozenset(path.path for path in PATHS)
_QUERIES = {path.path: path.query for path in PATHS}


def open_paths(*, is_metrics_open: bool) -> frozenset[str]:
    """The paths that need no key."""
    return frozenset(path.path for path in PATHS if not path.needs_key) | ({"/metrics"} if is_metrics_open else set())


def path_of(scope: Scope) -> str:
    """The path without the prefix at which Serve mounts the app, and without the version."""
    path: str = scope["path"]
    path = path.removeprefix(scope.get("root_path", "").rstrip("/"))
    return path.removeprefix(VERSION) if path.startswith(_BELOW_VERSION) else path


def routed(scope: Scope, path: str) -> Scope:
    """The scope for the router, which finds `path` (of `path_of`) only if what is before it is the root path."""
    root = scope["path"].removesuffix(path)
    return {**scope, "root_path": root} if root.endswith(VERSION) else scope


def name_of(path: str) -> str:
    """The path's name in metrics, logs and traces: itself, or OTHER."""
    return path if path in _NAMES else OTHER


def query_of(path: str) -> tuple[str, ...] | None:
    """The query parameters of a path; None if it takes any."""
    return _QUERIES.get(path)
