"""Takes the scoring requests off Ray Serve's own path through a replica, which costs more than scoring does.

Behind HAProxy a replica listens for HTTP itself. For every request Serve then makes two tasks, a context and several
copies of the headers, to queue, count, time out and trace it. As far as scoring needs it our app does all of that too:
limits, deadlines, 503 where too many wait, metrics, logs. Serve puts ASGI middleware around its path, named in the
replica's environment by MIDDLEWARES: ours gives the scoring requests to the app. Behind Serve's plain proxy the same
app answers by Serve's path. `check` raises where HAProxy is in front and Serve did not use the middleware.
"""

from __future__ import annotations

from collections.abc import Mapping

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from cluster import ray_private
from serve_app.http.paths import HOT

MIDDLEWARES = {ray_private.MIDDLEWARES_VARIABLE: "serve_app.http.direct:middlewares"}
IS_DIRECT = "fraud.direct"  # key in the scope of a request that Serve has not touched


class Direct:
    """ASGI middleware around Serve's path. app: Serve's. The replica's own comes from `answer_with`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        _around.append(self)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if _apps and scope["type"] == "http" and scope["path"] in HOT:
            scope[IS_DIRECT] = True
            await _apps[0](scope, receive, send)
        else:
            await self._app(scope, receive, send)


_apps: list[ASGIApp] = []  # at most one: the app of the replica that this process is


_around: list[Direct] = []  # what Serve made, one for each of its HTTP servers in this process


def answer_with(app: ASGIApp) -> None:
    """From now on this process's scoring requests go to `app`."""
    _apps[:] = [app]


def middlewares() -> list[Middleware]:
    """What Serve calls."""
    return [Middleware(Direct)]


def check(environment: Mapping[str, str]) -> None:
    """Raise LibraryChangedError where Serve did not call a hook that the replica's answers depend on.

    environment: the replica's, which says whether HAProxy is in front.
    """
    if not _apps:
        raise ray_private.ray_changed("did not call __serve_build_asgi_app__, so a replica has no app")
    if ray_private.is_behind_haproxy(environment) and not _around:
        raise ray_private.ray_changed(
            f"did not put the middleware of {ray_private.MIDDLEWARES_VARIABLE} before a replica that HAProxy asks"
        )
