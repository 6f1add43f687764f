"""POST /score/batch: many transactions in one request, answered row by row in the format of the request.

The work is cut into parts of about ten milliseconds, and the event loop runs between them, so that single requests do
not wait for a batch. Threads would not do: the engine's loops hold the interpreter's lock, and with it the event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any, Protocol

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Receive, Scope

from fraud.settings.serving import BatchLimits
from serve_app.batch.json import TextRows, elements_of, lines_of
from serve_app.model.part import PART_S, Part, ScoredPart, score_part
from serve_app.model.state import ServedModel, State
from serve_app.request.reader import check_encoding, is_json, media_type_of, read_body, wrong_media_type
from serve_app.scoring import Recorder, flag_of

ARROW = "application/vnd.apache.arrow.stream"
NDJSON = "application/x-ndjson"
_LINES = (NDJSON, "application/ndjson", "application/jsonl", "application/x-jsonlines")
_LONGEST_WAIT_S, _WAIT_STEP_S = 1.0, 0.005
_LARGEST_PART = 4096


class Rows(Protocol):
    """The rows of one request in one format, and the answer in the same; see batch_json.TextRows."""

    media_type: str

    def __len__(self) -> int: ...

    async def take(self, start: int, stop: int) -> Part:
        """Read the rows from `start` to `stop`; what takes long lets other requests through."""

    def add(self, start: int, scored: ScoredPart) -> None:
        """Put the answers to a part behind those to the rows before it."""

    def answer(self, summary: dict[str, Any]) -> bytes:
        """The whole answer."""


class Batch:
    """Answers batches with the model that `state` holds when the request comes, one batch at a time."""

    def __init__(self, state: State, recorder: Recorder, limits: BatchLimits | None = None) -> None:
        self._state = state
        self._recorder = recorder
        self._limits = limits or BatchLimits()
        self._turn = asyncio.Lock()  # single requests share the event loop with one batch, not with thirty
        self._sizes: dict[tuple[str, bool], int] = {}  # rows that took `PART_S` last time

    async def score(self, scope: Scope, receive: Receive) -> Response:
        """The content of models.BatchAnswers, or the same in the other formats. Raises Rejected (413, 415, 422)."""
        model = self._state.model
        learn, with_reasons = flag_of(scope, "learn", default=True), flag_of(scope, "reasons", default=False)
        headers = Headers(scope=scope)
        media_type = _media_type(headers)
        body = await read_body(scope, receive, self._limits.n_bytes, "a batch")
        async with self._turn:
            rows = await self._rows(model, body, media_type)
            n_scored, waited_s = 0, 0.0
            async for start, stop in self._parts(len(rows), model, (media_type, with_reasons)):
                part = await rows.take(start, stop)
                scored = score_part(model, part, learn=learn, with_reasons=with_reasons)
                rows.add(start, scored)
                if learn:
                    self._recorder.record_part(scope["state"], scored)
                    waited_s += await self._wait(_LONGEST_WAIT_S - waited_s)
                n_scored += len(part.places)
        summary = {"scored": n_scored, "rejected": len(rows) - n_scored, "model_version": model.version}
        return Response(rows.answer(summary), media_type=rows.media_type)

    async def _wait(self, longest_s: float) -> float:
        """Wait while the decision log is behind, and return how many seconds that was."""
        began = time.perf_counter()
        while self._recorder.is_behind():
            if time.perf_counter() - began >= longest_s:
                break
            await asyncio.sleep(_WAIT_STEP_S)
        return time.perf_counter() - began

    async def _rows(self, model: ServedModel, body: bytes, media_type: str) -> Rows:
        limit = self._limits.rows
        if media_type in _LINES:
            return TextRows(model, lines_of(body, limit), media_type, is_array=False)
        if media_type == ARROW:
            from serve_app.batch.arrow import ArrowRows

            return ArrowRows(model, body, limit)
        elements = elements_of(body, limit, len(model.engine.schema.inputs))
        pieces = elements if isinstance(elements, list) else await _all(elements)
        return TextRows(model, pieces, "application/json", is_array=True)

    async def _parts(self, n_rows: int, model: ServedModel, kind: tuple[str, bool]) -> AsyncIterator[tuple[int, int]]:
        """Cut rows into parts that take about `PART_S` each, and let other requests through after each of them."""
        # A row with history may wait for a store: that counts. Otherwise waiting is for other threads and processes,
        # and smaller parts, each of which costs a millisecond, would make it longer.
        clock, smallest = (time.perf_counter, 64) if model.engine.schema.history else (time.thread_time, 512)
        start, size = 0, max(smallest, self._sizes.get(kind, smallest))
        while start < n_rows:
            began = clock()
            stop = n_rows if n_rows - start < 1.5 * size else start + size  # a small rest costs nearly as much
            yield start, stop
            took = max(clock() - began, 1e-6)
            if stop - start >= size:  # a rest says little: what every part costs, however small, hides what a row does
                fitting = min(int((stop - start) * PART_S / took), 4 * size)
                size = self._sizes[kind] = max(smallest, min(_LARGEST_PART, fitting))
            start = stop
            await asyncio.sleep(0)


async def _all(pieces: Iterator[bytes]) -> list[bytes]:
    found = []
    for piece in pieces:
        found.append(piece)
        if len(found) % _LARGEST_PART == 0:
            await asyncio.sleep(0)
    return found


def _media_type(headers: Headers) -> str:
    check_encoding(headers)
    media_type = media_type_of(headers)
    if media_type not in (*_LINES, ARROW) and not is_json(media_type):
        remedy = f"send the header Content-Type: application/json (an array), {NDJSON} or {ARROW}"
        raise wrong_media_type(media_type, remedy)
    return media_type
