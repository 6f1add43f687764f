"""Parses a request body into a canonical transaction, with a fast and a careful reader.

`FastReader` accepts only plainly valid bodies: msgspec parses the bytes into a record compiled from the schema and
checks types, ranges, required and unknown fields in C. The careful reader parses everything else again. Both return the
same values; only the careful reader reports errors.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import msgspec
import numpy as np
from pydantic import TypeAdapter, ValidationError
from starlette.datastructures import Headers
from starlette.types import Receive, Scope

from fraud.schema import Column, Schema
from fraud.schema.values import accepts
from serve_app.request.fields import Check, check_of
from serve_app.request.models import transaction_type
from serve_app.request.problems import MOST_PROBLEMS, Rejected, problem, problems_of

SMALLEST_LIMIT = 64 * 1024
_BYTES_A_FIELD = 512
_LONGEST_WHOLE_NUMBER = 40
_JSON_HEADER = "send the header Content-Type: application/json"
_ABOUT_BODY = (b"content-type", b"content-encoding")
_PLAIN_JSON = [(b"content-type", b"application/json")]
# Characters that JSON must escape; msgspec cannot rename a field to a name with one.
_ESCAPED = re.compile(r'["\\\x00-\x1f\ud800-\udfff]')
# The careful reader parses longer integers as floats, which are not valid text.
_LARGEST_TEXT_NUMBER = 10 ** (_LONGEST_WHOLE_NUMBER - 1)


class TransactionReader:
    """Reads transactions of one schema. limit: largest body in bytes."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self.limit = max(SMALLEST_LIMIT, _BYTES_A_FIELD * len(schema.inputs))
        self._names = [column.name for column in schema.inputs]
        self._known = frozenset(self._names)
        self._type: TypeAdapter[dict[str, object]] = transaction_type(schema)
        self._fast = FastReader(schema)

    async def read(self, scope: Scope, receive: Receive) -> dict[str, object]:
        """Return {column: canonical value} of a request, every input present. Raises Rejected (413, 415, 422)."""
        if [header for header in scope["headers"] if header[0] in _ABOUT_BODY] != _PLAIN_JSON:
            check_content_type(Headers(scope=scope))
        return self.parse(await read_body(scope, receive, self.limit, "one transaction"))

    def parse(self, body: bytes, *, suggest: bool = True) -> dict[str, object]:
        """Like `read`, from the body alone. Raises Rejected (422) with every invalid field.

        suggest: suggest similar names for unknown fields.
        """
        return self._fast.read(body) or self.parse_carefully(body, suggest=suggest)

    def parse_many(self, bodies: Sequence[bytes]) -> dict[str, Sequence[Any]] | None:
        """{column: canonical values, one per body}; None unless all bodies are plainly valid."""
        if not bodies or len(max(bodies, key=len)) > self.limit:
            return None
        return self._fast.read_many(bodies)

    def parse_carefully(self, body: bytes, *, suggest: bool = True) -> dict[str, object]:
        """Like `parse` without the fast reader: several times slower, but it reports the errors."""
        fields, n_left_out = self._without_excess(parse_object(body))
        try:
            values = self._type.validate_python(fields)
        except ValidationError as error:
            problems = problems_of(error, self.schema, fields, n_left_out=n_left_out, suggest=suggest)
            raise Rejected(422, *problems) from None
        return {name: values.get(name) for name in self._names}

    def _without_excess(self, fields: dict[str, object]) -> tuple[dict[str, object], int]:
        """Drop unknown fields beyond those that a response lists; return the rest and the number dropped. Otherwise
        pydantic would create thousands of errors."""
        unknown = [name for name in fields if name not in self._known]
        excess = set(unknown[MOST_PROBLEMS:])
        return {name: value for name, value in fields.items() if name not in excess} if excess else fields, len(excess)

    def json_schema(self) -> dict[str, Any]:
        """JSON schema of a transaction, for OpenAPI."""
        schema = self._type.json_schema()
        for field in schema["properties"].values():
            field.pop("title", None)  # pydantic's derived title ("Tx Amount") is not the name to send
        return schema


def check_content_type(headers: Headers) -> None:
    """Raise Rejected (415) if the body is not declared as JSON, or is compressed and could expand without limit."""
    media_type = media_type_of(headers)
    if not is_json(media_type):
        raise wrong_media_type(media_type, _JSON_HEADER)
    check_encoding(headers)


def media_type_of(headers: Headers) -> str:
    """The media type, in lower case and without parameters; "" without a Content-Type."""
    return headers.get("content-type", "").split(";")[0].strip().lower()


def is_json(media_type: str) -> bool:
    """Whether it is application/json or derived from it, such as application/vnd.bank+json."""
    application, _, subtype = media_type.partition("/")
    return application == "application" and (subtype == "json" or subtype.endswith("+json"))


def wrong_media_type(media_type: str, remedy: str) -> Rejected:
    """The 415 for a wrong or missing media type."""
    called = f"the body calls itself {media_type[:80]!r}" if media_type else "the request names no Content-Type"
    return Rejected(415, problem("content_type", called, remedy, field="Content-Type", where="header"))


def check_encoding(headers: Headers) -> None:
    """Raise Rejected (415) for a compressed body."""
    if headers.get("content-encoding", "identity").strip().lower() != "identity":
        called, remedy = "compressed bodies are not read", "send the body as it is"
        raise Rejected(415, problem("content_encoding", called, remedy, field="Content-Encoding", where="header"))


async def read_body(scope: Scope, receive: Receive, limit: int, what: str) -> bytes:
    """Read the body. Raises Rejected (413) once it exceeds `limit` bytes. what: names its content in the remedy."""
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit() and (len(value) > 15 or int(value) > limit):
            raise too_large(limit, what)
    parts, size, is_whole = [], 0, False
    while not is_whole:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Rejected(400, problem("disconnected", "the body ended early", "send the whole body"))
        part, is_whole = message.get("body", b""), not message.get("more_body", False)
        size += len(part)
        if size > limit:
            raise too_large(limit, what)
        parts.append(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def parse_object(body: bytes) -> dict[str, object]:
    """Parse one JSON object: UTF-8, no repeated names. Accepts NaN and Infinity; the field checks reject them."""
    if not body.strip():
        raise _not_json("the body is empty", "send one transaction as a JSON object")
    try:
        value = json.loads(body.decode("utf-8"), object_pairs_hook=_object, parse_int=_whole_number)
    except UnicodeDecodeError as error:
        raise _not_json(f"the body is not UTF-8 at byte {error.start}", "encode it as UTF-8") from None
    except json.JSONDecodeError as error:
        where = f"{error.msg} at line {error.lineno}, column {error.colno}"
        raise _not_json(f"the body is not JSON: {where}", "send one JSON object, e.g. with a JSON library") from None
    except RecursionError:
        raise _not_json("the body is nested too deeply", "send one flat JSON object") from None
    if not isinstance(value, dict):
        name = {list: "an array", str: "a text", bool: "a boolean", type(None): "null"}.get(type(value), "a number")
        remedy = "send one transaction as a JSON object: {...}"
        raise Rejected(422, problem("object_type", f"the body is {name}, not an object", remedy))
    return value


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        seen: set[str] = set()
        repeated = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise Rejected(422, problem("repeated_field", "the field is given twice", "send it once", field=repeated))
    return fields


def _whole_number(text: str) -> int | float:
    # Python refuses integers of thousands of digits; as floats they are simply out of range.
    return int(text) if len(text) <= _LONGEST_WHOLE_NUMBER else float(text)


def _not_json(message: str, remedy: str) -> Rejected:
    return Rejected(422, problem("json_invalid", message, remedy))


def too_large(limit: int, what: str) -> Rejected:
    """The 413 for a body of more than `limit` bytes. what: its content, such as "one transaction"."""
    remedy = f"send {what} of at most {limit:,} bytes"
    return Rejected(413, problem("body_too_large", f"the body is larger than {limit:,} bytes", remedy))


class FastReader:
    """Reads plainly valid transactions of one schema.

    msgspec silently keeps the last of two fields with one name. Values are scalars, and without a backslash every
    quotation mark in the bytes begins or ends a name or a text, so counting them detects a repeated field.
    """

    def __init__(self, schema: Schema) -> None:
        columns = schema.inputs
        self._names = [column.name for column in columns]
        self._n_quotes = 2 * len(columns)
        self._finish = [(i, _finish_of(column)) for i, column in enumerate(columns) if not _is_plain(column)]
        self._finish_many = [None if _is_plain(column) else _finish_many_of(column) for column in columns]
        self._decode: Callable[[bytes], Any] | None = None
        self._decode_many: Callable[[bytes], list[Any]] | None = None
        if not any(_ESCAPED.search(name) for name in self._names):
            fields = [_field(f"f{i}", column) for i, column in enumerate(columns)]
            names = {f"f{i}": name for i, name in enumerate(self._names)}
            record = msgspec.defstruct("Transaction", fields, rename=names, forbid_unknown_fields=True, kw_only=True)
            self._decode = msgspec.json.Decoder(record).decode
            self._decode_many = msgspec.json.Decoder(list[record]).decode  # type: ignore[valid-type]

    def read(self, body: bytes) -> dict[str, object] | None:
        """Return {column: canonical value} of all inputs, or None if the careful reader must decide."""
        if self._decode is None or b"\\" in body:
            return None
        n_quotes = self._n_quotes
        try:
            values = list(msgspec.structs.astuple(self._decode(body)))
            for i, finish in self._finish:
                value = values[i]
                if value is msgspec.UNSET:
                    values[i] = None
                    n_quotes -= 2
                elif value is not None:
                    if type(value) is str:
                        n_quotes += 2
                    values[i] = finish(value)
        except (ValueError, RecursionError):  # msgspec's errors and those of the checks are ValueErrors
            return None
        if body.count(b'"') != n_quotes:
            return None
        return dict(zip(self._names, values, strict=True))

    def read_many(self, bodies: Sequence[bytes]) -> dict[str, Sequence[Any]] | None:
        """Return {column: canonical values, one per body}, or None if the careful reader must decide.

        Parses all bodies as one array. This is safe: without backslashes and with an even number of quotation marks, no
        text spans two bodies; a body that begins and ends with a brace and has no nested object is one or more objects;
        and if there are as many objects as bodies, each body is exactly one.
        """
        if self._decode_many is None or not all(body[:1] == b"{" and body[-1:] == b"}" for body in bodies):
            return None
        together = b"[" + b",".join(bodies) + b"]"
        if b"\\" in together:
            return None
        try:
            rows = list(map(msgspec.structs.astuple, self._decode_many(together)))
            if len(rows) != len(bodies):
                return None
            columns = list(zip(*rows, strict=True)) or [()] * len(self._names)
            n_quotes = np.full(len(rows), self._n_quotes)
            finished_columns = [
                finish(column, n_quotes) if finish else column
                for column, finish in zip(columns, self._finish_many, strict=True)
            ]
        except (ValueError, RecursionError):
            return None
        if [body.count(b'"') for body in bodies] != n_quotes.tolist():
            return None
        return dict(zip(self._names, finished_columns, strict=True))


def _is_plain(column: Column) -> bool:
    """Whether msgspec already returns the column's canonical value."""
    return column.kind == "numeric" and not column.integer and not column.nullable


def _field(name: str, column: Column) -> tuple[Any, ...]:
    accepted: Any = str | int
    if column.kind == "numeric":
        low, high = column.bounds
        accepted = Annotated[float, msgspec.Meta(ge=low, le=high)]
    elif column.kind == "boolean":
        accepted = bool | float
    elif column.kind == "timestamp":
        accepted = float if column.unit else str
    return (name, accepted | None | msgspec.UnsetType, msgspec.UNSET) if column.nullable else (name, accepted)


def _finish_of(column: Column) -> Check:
    """The function that converts a value from msgspec; it raises ValueError for one that is not plainly valid."""
    check = check_of(column)

    def whole_number(value: Any) -> object:
        if not value.is_integer():
            raise ValueError("not a whole number")
        return value

    def text(value: Any) -> object:
        if type(value) is int and not -_LARGEST_TEXT_NUMBER < value < _LARGEST_TEXT_NUMBER:
            raise ValueError("a very large number")
        return check(value)

    if column.kind == "numeric":
        return whole_number if column.integer else lambda value: value
    return check if column.kind in ("boolean", "timestamp") else text


def _finish_many_of(column: Column) -> Callable[[Sequence[Any], np.ndarray], Sequence[Any]]:
    """Like `_finish_of`, for the values of many bodies. Also updates the expected number of quotation marks."""
    finish = _finish_of(column)

    def finish_many(values: Sequence[Any], n_quotes: np.ndarray) -> Sequence[Any]:
        kinds = set(map(type, values))
        if str in kinds:
            n_quotes += 2 if len(kinds) == 1 else [2 * (type(value) is str) for value in values]
        if msgspec.UnsetType in kinds:
            n_quotes -= [2 * (value is msgspec.UNSET) for value in values]
        if kinds == {float} and column.kind in ("numeric", "boolean"):
            if not accepts(column, np.array(values)).all():
                raise ValueError("not a whole number, or neither 0 nor 1")
            return values
        if kinds in ({str}, {int}, {bool}):  # of one type, so equal values are identical
            finished = {value: finish(value) for value in set(values)}
            return list(map(finished.__getitem__, values))
        return [None if value is None or value is msgspec.UNSET else finish(value) for value in values]

    return finish_many
