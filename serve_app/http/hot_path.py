"""Answers the requests that must be quick before FastAPI's router sees them, which costs about as much as a score."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from serve_app.request.problems import Rejected

Handler = Callable[[Scope, Receive], Awaitable[Response]]


class HotPath:
    """ASGI middleware. handlers: {path: handler} of the POST requests answered here; all others go on to the app."""

    def __init__(self, app: ASGIApp, handlers: Mapping[str, Handler]) -> None:
        self._app = app
        self._handlers = handlers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        handler = None
        if scope["type"] == "http" and scope["method"] == "POST":
            handler = self._handlers.get(path_of(scope))
        if handler is None:
            return await self._app(scope, receive, send)
        try:
            response = await handler(scope, receive)
        except Rejected as error:
            response = error.response()
        await response(scope, receive, send)


def path_of(scope: Scope) -> str:
    """The path below the prefix that Serve mounts the app at."""
    return scope["path"].removeprefix(scope.get("root_path", "").rstrip("/"))
