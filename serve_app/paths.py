"""The paths of the service, for the guard, the metrics, the access log and the traces."""

from __future__ import annotations

from typing import NamedTuple

from starlette.types import Scope


class Path(NamedTuple):
    """One path. needs_key: whether it requires an API key; is_hot: whether `Guard` answers it before the router, which
    costs about as much as scoring."""

    path: str
    method: str
    needs_key: bool = True
    is_hot: bool = False


PATHS = (
    Path("/score", "POST", is_hot=True),
    Path("/score/batch", "POST", is_hot=True),
    Path("/explain", "POST", is_hot=True),
    Path("/model", "GET"),
    Path("/metrics", "GET"),  # needs no key with FRAUD_METRICS_OPEN=1
    Path("/healthz", "GET", needs_key=False),
    Path("/readyz", "GET", needs_key=False),
    Path("/docs", "GET"),
    Path("/openapi.json", "GET"),
)
HOT = frozenset(path.path for path in PATHS if path.is_hot)
OTHER = "other"  # the name of unknown paths, so that callers cannot create metric labels
_NAMES = frozenset(path.path for path in PATHS)


def open_paths(*, is_metrics_open: bool) -> frozenset[str]:
    """The paths that need no key."""
    return frozenset(path.path for path in PATHS if not path.needs_key) | ({"/metrics"} if is_metrics_open else set())


def path_of(scope: Scope) -> str:
    """The path without the prefix at which Serve mounts the app."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", "").rstrip("/"))


def name_of(path: str) -> str:
    """The path's name in metrics, logs and traces: itself, or OTHER."""
    return path if path in _NAMES else OTHER
