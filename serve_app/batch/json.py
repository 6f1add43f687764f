"""Batches as a JSON array or NDJSON. Each row is parsed like the body of POST /score."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from fraud.schema.values import array_of
from serve_app.model.part import PART_S, Part, ScoredPart, check_time, columns_of
from serve_app.model.state import ServedModel
from serve_app.request.problems import Rejected, problem
from serve_app.request.reader import too_large
from serve_app.scoring import encode

# Problems in one response, about 0.5 MiB. Unlimited, 10,000 rows with 20 problems each would make 50 MiB.
_MOST_REPORTED = 2_000
_SPACE = re.compile(r"[ \t\r\n]*")
_pieces: Callable[[bytes], list[Any]] = msgspec.json.Decoder(list[msgspec.Raw]).decode


class TextRows:
    """The rows of a JSON or NDJSON batch, and the response in the same format.

    pieces: the bytes of each row; media_type: of request and answer.
    """

    def __init__(self, model: ServedModel, pieces: list[bytes], media_type: str, *, is_array: bool) -> None:
        self._model = model
        self._pieces = pieces
        self._is_array = is_array
        self._out: list[bytes] = []
        self._n_reported = 0
        self.media_type = media_type

    def __len__(self) -> int:
        return len(self._pieces)

    async def read(self, start: int, stop: int) -> Part:
        """Read rows `start` to `stop`. Yields to other requests between slow rows: an invalid row takes 100 times as
        long as a valid one."""
        schema = self._model.engine.schema
        pieces = list(map(bytes, self._pieces[start:stop]))
        columns = self._model.reader.parse_many(pieces)
        if columns is not None and not (schema.history and schema.timestamp and None in columns[schema.timestamp.name]):
            arrays = {column.name: array_of(column, columns[column.name]) for column in schema.inputs}
            return Part(arrays, range(len(pieces)), {})
        transactions, positions, rejected = [], [], {}
        until = time.perf_counter() + PART_S
        for row, piece in enumerate(pieces):
            if time.perf_counter() > until:
                await asyncio.sleep(0)
                until = time.perf_counter() + PART_S
            try:
                transactions.append(self._read(piece))
                positions.append(row)
            except Rejected as error:
                rejected[row] = self._reported(error.problems)
        return Part(columns_of(schema, transactions), positions, rejected, transactions)

    def add(self, start: int, scored: ScoredPart) -> None:
        """Append the answers of a part that began at row `start`."""
        part = scored.part
        answers = scored.answers()
        if part.rejected:
            by_row = {row: {"row": start + row, "detail": problems} for row, problems in part.rejected.items()}
            by_row |= zip(part.positions, answers, strict=True)
            answers = [by_row[row] for row in range(part.size)]
        self._out += map(encode, answers)

    def answer(self, summary: dict[str, Any]) -> bytes:
        """The complete response body. summary: totals of the batch, left out in NDJSON."""
        if not self._is_array:
            return b"\n".join([*self._out, b""])
        return b'{"results":[' + b",".join(self._out) + b"]," + encode(summary)[1:]

    def _reported(self, problems: tuple[dict[str, Any], ...]) -> tuple[dict[str, Any], ...]:
        """The problems of a row to report: all of them, or only the first once a batch exceeds _MOST_REPORTED."""
        if self._n_reported >= _MOST_REPORTED:
            return problems[:1]
        self._n_reported += len(problems)
        return problems

    def _read(self, piece: bytes) -> dict[str, object]:
        reader = self._model.reader
        if len(piece) > reader.limit:
            raise too_large(reader.limit, "one transaction")
        transaction = reader.parse(piece, suggest=self._n_reported < _MOST_REPORTED)
        check_time(self._model, transaction)
        return transaction


def too_many(limit: int) -> Rejected:
    """The 413 for a batch with more than `limit` rows."""
    remedy = f"send at most {limit:,} transactions at a time"
    return Rejected(413, problem("too_many_rows", f"the body holds more than {limit:,} transactions", remedy))


def lines_of(body: bytes, limit: int) -> list[bytes]:
    """The non-blank lines of an NDJSON body. Raises Rejected (413, 422)."""
    body = body.strip()
    if not body:
        raise _empty("one transaction a line")
    if body.count(b"\n") >= limit:
        raise too_many(limit)
    return [line.strip(b" \t\r") for line in body.split(b"\n") if line.strip()]


def elements_of(body: bytes, limit: int, n_fields: int) -> list[bytes] | Iterator[bytes]:
    """The bytes of each element of a JSON array; elements may be invalid. Raises Rejected (413, 422).

    n_fields: of a transaction. Bodies that are not strict JSON (NaN, for example) are split lazily by Python's parser.
    """
    if not body.strip():
        raise _empty("an array of transactions")
    # msgspec creates an object per element, and a small body could hold millions. Transactions have few commas.
    if body.count(b",") <= 2 * limit * (n_fields + 1):
        try:
            pieces = _pieces(body)
        except (ValueError, RecursionError):
            pieces = None
        if pieces is not None:
            if len(pieces) > limit:
                raise too_many(limit)
            return pieces
    return _elements_slowly(body, limit)


def _elements_slowly(body: bytes, limit: int) -> Iterator[bytes]:
    remedy = "send an array of transactions: [{...}, {...}]; with a JSON library it comes right"
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        entry = problem("json_invalid", f"the body is not UTF-8 at byte {error.start}", "encode it as UTF-8")
        raise Rejected(422, entry) from None
    parse = json.JSONDecoder(parse_int=float).raw_decode
    position, n = _after_space(text, 0), 0
    if not text.startswith("[", position):
        raise Rejected(422, problem("array_type", "the body is not an array", remedy))
    position = _after_space(text, position + 1)
    while n or not text.startswith("]", position):
        if n == limit:
            raise too_many(limit)
        try:
            end = position + parse(text[position : position + _LONGEST_ELEMENT])[1]
        except (json.JSONDecodeError, RecursionError) as error:
            why = error.msg if isinstance(error, json.JSONDecodeError) else "it is nested too deeply"
            raise Rejected(422, problem("json_invalid", f"the body is not JSON at row {n}: {why}", remedy)) from None
        yield text[position:end].encode()
        n += 1
        position = _after_space(text, end)
        if text.startswith("]", position):
            break
        if not text.startswith(",", position):
            raise Rejected(422, problem("json_invalid", f"the body is not JSON after row {n - 1}", remedy))
        position = _after_space(text, position + 1)
    if _after_space(text, position + 1) < len(text):
        raise Rejected(422, problem("json_invalid", "the body goes on after the array", remedy))


# A longer element is rejected anyway, and searching for its end would block other requests.
_LONGEST_ELEMENT = 256 * 1024


def _after_space(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    return match.end() if match else position


def _empty(expected: str) -> Rejected:
    return Rejected(422, problem("json_invalid", "the body is empty", f"send {expected}"))
