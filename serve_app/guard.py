"""Stands before every route: asks for the API key, and answers a failure of ours without telling the request's data."""

from __future__ import annotations

import logging
import traceback

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.auth import HEADER, ApiKeys
from serve_app.problems import problem, problem_response

logger = logging.getLogger(__name__)

OPEN_PATHS = frozenset({"/healthz", "/readyz"})
_HEADER = HEADER.lower().encode()


class Guard:
    """ASGI middleware. Only OPEN_PATHS answer without a key; everything else, unknown paths included, answers 401."""

    def __init__(self, app: ASGIApp, keys: ApiKeys) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":  # start-up, shutdown, and websockets, for which there is no route
            return await self._app(scope, receive, send)
        if not self._may_pass(scope):
            return await _unauthorized()(scope, receive, send)
        has_started = False

        async def send_and_note(message: Message) -> None:
            nonlocal has_started
            has_started = True
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        except Exception as error:  # noqa: BLE001 - the last line of defence; its text may hold card data, so it is not logged
            frames = "".join(traceback.format_tb(error.__traceback__))
            logger.error("%s while answering %s:\n%s", type(error).__name__, _path(scope), frames)
            if not has_started:
                await _failed()(scope, receive, send)

    def _may_pass(self, scope: Scope) -> bool:
        if not self._keys.is_required or _path(scope) in OPEN_PATHS:
            return True
        given = [value for name, value in scope["headers"] if name == _HEADER]
        return len(given) == 1 and self._keys.accepts(given[0])


def _path(scope: Scope) -> str:
    """The path below the prefix that Serve mounts the app at."""
    return scope["path"].removeprefix(scope.get("root_path", "").rstrip("/"))


def _unauthorized() -> ASGIApp:
    remedy = f"send your key in the header {HEADER}"
    said = problem("unauthorized", "no valid API key", remedy, field=HEADER, where="header")
    return problem_response(401, [said], {"WWW-Authenticate": f'ApiKey header="{HEADER}"'})


def _failed() -> ASGIApp:
    remedy = "try again; if it happens again, tell whoever runs this service the time and the path"
    return problem_response(500, [problem("internal_error", "the service failed to answer", remedy)])
