"""Routes scoring requests directly to the app, past Ray Serve's request handling, which costs more than scoring.

Behind HAProxy a replica serves HTTP itself. Serve creates two tasks, a context and several header copies per request to
queue, count, time out and trace it. The app does what scoring needs of this: limits, deadlines, 503 under overload,
metrics, logs. Serve wraps its handling in ASGI middleware that MIDDLEWARES names in the replica's environment; ours
passes scoring requests to the app. Behind Serve's plain proxy, the app answers through Serve. `check` raises if HAProxy
is in front and Serve did not install the middleware.
"""

from __future__ import annotations

from collections.abc import Mapping

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from cluster import ray_private
from serve_app.paths import HOT_WITH_VERSION

MIDDLEWARES = {ray_private.MIDDLEWARES_VARIABLE: "serve_app.http.direct:middlewares"}
IS_DIRECT = "fraud.direct"  # scope key of a request that bypassed Serve


class Direct:
    """ASGI middleware around Serve's app. `answer_with` sets the replica's own app."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        _installed.append(self)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if _apps and scope["type"] == "http" and scope["path"] in HOT_WITH_VERSION:
            scope[IS_DIRECT] = True
            await _apps[0](scope, receive, send)
        else:
            await self._app(scope, receive, send)


_apps: list[ASGIApp] = []  # at most one: the app of this process's replica
_installed: list[Direct] = []  # created by Serve, one per HTTP server in this process


def answer_with(app: ASGIApp) -> None:
    """Route this process's scoring requests to `app`."""
    _apps[:] = [app]


def middlewares() -> list[Middleware]:
    """Called by Serve."""
    return [Middleware(Direct)]


def check(environment: Mapping[str, str]) -> None:
    """Raise LibraryChangedError if Serve did not call a hook that the replica depends on.

    environment: of the replica; it shows whether HAProxy is in front.
    """
    if not _apps:
        raise ray_private.ray_changed("did not call __serve_build_asgi_app__, so a replica has no app")
    if ray_private.is_behind_haproxy(environment) and not _installed:
        raise ray_private.ray_changed(
            f"did not put the middleware of {ray_private.MIDDLEWARES_VARIABLE} before a replica that HAProxy asks"
        )
