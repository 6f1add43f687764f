"""One request and its answer as their ASGI messages pass: the request id goes out, bytes are counted, the body is
given so long and no longer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator
from typing import Any

from starlette.types import Message, Receive, Send

from serve_app.request.problems import Rejected, problem


class Exchange:
    """Stands between server and app for one request.

    header: sent with the answer, if any; body_until: moment by which the whole body must be there, on the clock of
    time.perf_counter(). status: of the answer, once it began; received, sent: bytes of the bodies so far.
    """

    __slots__ = ("_body_until", "_header", "_is_body_in", "_receive", "_send", "received", "sent", "status")

    def __init__(
        self, receive: Receive, send: Send, *, header: tuple[bytes, bytes] | None, body_until: float | None
    ) -> None:
        self._receive, self._send = receive, send
        self._header = header
        self._body_until = body_until or 0.0
        self._is_body_in = body_until is None
        self.status: int | None = None
        self.received = self.sent = 0

    async def receive(self) -> Message:
        """The server's next message. Raises Rejected (408) where the body does not end in time."""
        if self._is_body_in:
            return await self._receive()
        try:
            message = await self._in_time()
        except TimeoutError:
            self._is_body_in = True
            said = problem("body_timeout", "the body did not arrive in time", "send the whole request at once")
            raise Rejected(408, said, headers={"Connection": "close"}) from None
        self._is_body_in = not message.get("more_body", False)
        self.received += len(message.get("body", b""))
        return message

    async def _in_time(self) -> Message:
        """Await the next message, with a timer only where it is not there yet: a timer costs 8 us, and most bodies
        have arrived with their headers. Raises TimeoutError."""
        steps = self._receive().__await__()
        try:
            waits_for = next(steps)
        except StopIteration as there:
            return there.value
        async with asyncio.timeout(self._body_until - time.perf_counter()):
            return await _Rest(steps, waits_for)

    async def send(self, message: Message) -> None:
        """The app's next message."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            if self._header is not None:
                message = {**message, "headers": [*message.get("headers", ()), self._header]}
        elif message["type"] == "http.response.body":
            self.sent += len(message.get("body", b""))
        await self._send(message)


class _Rest:
    """The rest of a coroutine whose first step was made by hand. waits_for: what that step yielded."""

    def __init__(self, steps: Generator[Any, Any, Message], waits_for: Any) -> None:
        self._steps, self._waits_for = steps, waits_for

    def __await__(self) -> Generator[Any, Any, Message]:
        waits_for = self._waits_for
        try:
            while True:
                try:
                    yield waits_for
                except BaseException as error:  # noqa: BLE001 - the coroutine's to handle: a cancellation, as a rule
                    waits_for = self._steps.throw(error)
                else:
                    waits_for = next(self._steps)
        except StopIteration as done:
            return done.value
