"""POST /score/batch: many transactions in one request, answered row by row in the format of the request.

A batch is processed in parts of about 10 ms with the event loop running in between, so single requests do not wait for
it. Threads would not help: the engine's loops hold the GIL and would block the event loop.
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
from serve_app.http.server_timing import ENGINE_S
from serve_app.model.part import PART_S, Part, ScoredPart, score_part
from serve_app.model.state import ServedModel, State
from serve_app.request.query import flag_of
from serve_app.request.reader import check_encoding, is_json, media_type_of, read_body, wrong_media_type
from serve_app.scoring import Recorder

ARROW = "application/vnd.apache.arrow.stream"
NDJSON = "application/x-ndjson"
_LINES = (NDJSON, "application/ndjson", "application/jsonl", "application/x-jsonlines")
_LONGEST_WAIT_S, _WAIT_STEP_S = 1.0, 0.005
_LARGEST_PART = 4096


class Rows(Protocol):
    """The rows of one request and its response, both in the format of the request."""

    media_type: str

    def __len__(self) -> int: ...

    async def read(self, start: int, stop: int) -> Part:
        """Read rows `start` to `stop`. Yields to other requests if it takes long."""

    def add(self, start: int, scored: ScoredPart) -> None:
        """Append the answers of a part."""

    def answer(self, summary: dict[str, Any]) -> bytes:
        """The complete response body."""


class Batch:
    """Answers batches, one at a time, with the model in `state` when the request arrives."""

    def __init__(self, state: State, recorder: Recorder, limits: BatchLimits | None = None) -> None:
        self._state = state
        self._recorder = recorder
        self._limits = limits or BatchLimits()
        self._turn = asyncio.Lock()  # single requests compete with one batch at most
        self._sizes: dict[tuple[str, bool], int] = {}  # rows that took `PART_S` in the last batch

    async def score(self, scope: Scope, receive: Receive) -> Response:
        """Respond with models.BatchAnswers, or its NDJSON or Arrow form. Raises Rejected (413, 415, 422)."""
        model = self._state.model
        learn, with_reasons = flag_of(scope, "learn", default=True), flag_of(scope, "reasons", default=False)
        headers = Headers(scope=scope)
        media_type = _media_type(headers)
        body = await read_body(scope, receive, self._limits.n_bytes, "a batch")
        async with self._turn:
            rows = await self._rows(model, body, media_type)
            n_scored, waited_s, engine_s = 0, 0.0, 0.0
            async for start, stop in self._parts(len(rows), model, (media_type, with_reasons)):
                part = await rows.read(start, stop)
                began = time.perf_counter()
                scored = score_part(model, part, learn=learn, with_reasons=with_reasons)
                engine_s += time.perf_counter() - began
                rows.add(start, scored)
                if learn:
                    self._recorder.record_part(scope["state"], scored)
                    waited_s += await self._wait(_LONGEST_WAIT_S - waited_s)
                n_scored += len(part.positions)
        scope["state"][ENGINE_S] = engine_s
        summary = {"scored": n_scored, "rejected": len(rows) - n_scored, "model_version": model.version}
        return Response(rows.answer(summary), media_type=rows.media_type)

    async def _wait(self, longest_s: float) -> float:
        """Wait while the decision log is behind, at most `longest_s`; return the seconds waited."""
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
        pieces = elements if isinstance(elements, list) else await _collect(elements)
        return TextRows(model, pieces, "application/json", is_array=True)

    async def _parts(self, n_rows: int, model: ServedModel, kind: tuple[str, bool]) -> AsyncIterator[tuple[int, int]]:
        """Split rows into parts that take about `PART_S` each. Yields to other requests after each part."""
        # With history, waiting for the store counts, so use wall time. Without, waiting is only for other threads and
        # processes; smaller parts cost a millisecond each and would make it worse, so use CPU time.
        clock, smallest = (time.perf_counter, 64) if model.engine.schema.history else (time.thread_time, 512)
        start, size = 0, max(smallest, self._sizes.get(kind, smallest))
        while start < n_rows:
            began = clock()
            stop = n_rows if n_rows - start < 1.5 * size else start + size  # no tiny last part: it costs nearly as much
            yield start, stop
            took = max(clock() - began, 1e-6)
            if stop - start >= size:  # ignore a short last part: its fixed cost dominates
                fitting = min(int((stop - start) * PART_S / took), 4 * size)
                size = self._sizes[kind] = max(smallest, min(_LARGEST_PART, fitting))
            start = stop
            await asyncio.sleep(0)


async def _collect(pieces: Iterator[bytes]) -> list[bytes]:
    collected = []
    for piece in pieces:
        collected.append(piece)
        if len(collected) % _LARGEST_PART == 0:
            await asyncio.sleep(0)
    return collected


def _media_type(headers: Headers) -> str:
    check_encoding(headers)
    media_type = media_type_of(headers)
    if media_type not in (*_LINES, ARROW) and not is_json(media_type):
        remedy = f"send the header Content-Type: application/json (an array), {NDJSON} or {ARROW}"
        raise wrong_media_type(media_type, remedy)
    return media_type
