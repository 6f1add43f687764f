"""Batches as text: a JSON array, or a JSON object a line (NDJSON). Every row is read as POST /score reads its body."""

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

# Problems in one answer, about half a MiB of them; a row may have twenty, and 10,000 rows would make 50 MiB.
_MOST_TOLD = 2_000
_SPACE = re.compile(r"[ \t\r\n]*")
_pieces: Callable[[bytes], list[Any]] = msgspec.json.Decoder(list[msgspec.Raw]).decode


class TextRows:
    """The rows of a batch as text, and the answer in the same form.

    pieces: the bytes of each row; media_type: of request and answer.
    """

    def __init__(self, model: ServedModel, pieces: list[bytes], media_type: str, *, is_array: bool) -> None:
        self._model = model
        self._pieces = pieces
        self._is_array = is_array
        self._out: list[bytes] = []
        self._n_told = 0
        self.media_type = media_type

    def __len__(self) -> int:
        return len(self._pieces)

    async def take(self, start: int, stop: int) -> Part:
        """Read the rows from `start` to `stop`. A wrong one takes a hundred times as long as a good one: others may
        have their turn between two of them."""
        schema = self._model.engine.schema
        pieces = list(map(bytes, self._pieces[start:stop]))
        columns = self._model.reader.parse_many(pieces)
        if columns is not None and not (schema.history and schema.timestamp and None in columns[schema.timestamp.name]):
            arrays = {column.name: array_of(column, columns[column.name]) for column in schema.inputs}
            return Part(arrays, range(len(pieces)), {})
        transactions, places, rejected = [], [], {}
        until = time.perf_counter() + PART_S
        for place, piece in enumerate(pieces):
            if time.perf_counter() > until:
                await asyncio.sleep(0)
                until = time.perf_counter() + PART_S
            try:
                transactions.append(self._read(piece))
                places.append(place)
            except Rejected as error:
                rejected[place] = self._told(error.problems)
        return Part(columns_of(schema, transactions), places, rejected, transactions)

    def add(self, start: int, scored: ScoredPart) -> None:
        """Put the answers to a part that began at row `start` behind those to the rows before it."""
        part = scored.part
        answers = scored.answers()
        if part.rejected:
            told = {place: {"row": start + place, "detail": problems} for place, problems in part.rejected.items()}
            told |= zip(part.places, answers, strict=True)
            answers = [told[place] for place in range(part.size)]
        self._out += map(encode, answers)

    def answer(self, summary: dict[str, Any]) -> bytes:
        """The whole answer. summary: what is told of all rows together; NDJSON has no place for it."""
        if not self._is_array:
            return b"\n".join([*self._out, b""])
        return b'{"results":[' + b",".join(self._out) + b"]," + encode(summary)[1:]

    def _told(self, problems: tuple[dict[str, Any], ...]) -> tuple[dict[str, Any], ...]:
        """All problems of a row; once a batch has had very many, the first one of a row, without a suggestion."""
        if self._n_told >= _MOST_TOLD:
            return problems[:1]
        self._n_told += len(problems)
        return problems

    def _read(self, piece: bytes) -> dict[str, object]:
        reader = self._model.reader
        if len(piece) > reader.limit:
            raise too_large(reader.limit, "one transaction")
        transaction = reader.parse(piece, suggest=self._n_told < _MOST_TOLD)
        check_time(self._model, transaction)
        return transaction


def too_many(limit: int) -> Rejected:
    """The 413 for a batch of more than `limit` rows."""
    remedy = f"send at most {limit:,} transactions at a time"
    return Rejected(413, problem("too_many_rows", f"the body holds more than {limit:,} transactions", remedy))


def lines_of(body: bytes, limit: int) -> list[bytes]:
    """The lines of an NDJSON body that are not blank. Raises Rejected (413, 422)."""
    body = body.strip()
    if not body:
        raise _empty("one transaction a line")
    if body.count(b"\n") >= limit:
        raise too_many(limit)
    return [line.strip(b" \t\r") for line in body.split(b"\n") if line.strip()]


def elements_of(body: bytes, limit: int, n_fields: int) -> list[bytes] | Iterator[bytes]:
    """The bytes of each element of a JSON array, which may be broken inside. Raises Rejected (413, 422).

    n_fields: of a transaction. What is not plain JSON, such as NaN, is divided by Python's own parser, step by step.
    """
    if not body.strip():
        raise _empty("an array of transactions")
    # msgspec makes an object of each element, and a small body could hold millions; a transaction has few commas.
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
        told = problem("json_invalid", f"the body is not UTF-8 at byte {error.start}", "encode it as UTF-8")
        raise Rejected(422, told) from None
    parse = json.JSONDecoder(parse_int=float).raw_decode
    place, n = _after_space(text, 0), 0
    if not text.startswith("[", place):
        raise Rejected(422, problem("array_type", "the body is not an array", remedy))
    place = _after_space(text, place + 1)
    while n or not text.startswith("]", place):
        if n == limit:
            raise too_many(limit)
        try:
            end = place + parse(text[place : place + _LONGEST_ELEMENT])[1]
        except (json.JSONDecodeError, RecursionError) as error:
            why = error.msg if isinstance(error, json.JSONDecodeError) else "it is nested too deeply"
            raise Rejected(422, problem("json_invalid", f"the body is not JSON at row {n}: {why}", remedy)) from None
        yield text[place:end].encode()
        n += 1
        place = _after_space(text, end)
        if text.startswith("]", place):
            break
        if not text.startswith(",", place):
            raise Rejected(422, problem("json_invalid", f"the body is not JSON after row {n - 1}", remedy))
        place = _after_space(text, place + 1)
    if _after_space(text, place + 1) < len(text):
        raise Rejected(422, problem("json_invalid", "the body goes on after the array", remedy))


# A longer element is refused whatever it holds, and looking for its end would keep other requests waiting.
_LONGEST_ELEMENT = 256 * 1024


def _after_space(text: str, place: int) -> int:
    found = _SPACE.match(text, place)
    return found.end() if found else place


def _empty(wanted: str) -> Rejected:
    return Rejected(422, problem("json_invalid", "the body is empty", f"send {wanted}"))
