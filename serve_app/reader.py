"""From the bytes of a request to one canonical transaction; everything that can be wrong with them has an answer."""

from __future__ import annotations

import json
from typing import Any

from pydantic import TypeAdapter, ValidationError
from starlette.requests import ClientDisconnect, Request

from fraud.schema import Schema
from serve_app.models import transaction_type
from serve_app.problems import Rejected, problem, problems_of

SMALLEST_LIMIT = 64 * 1024
_BYTES_A_FIELD = 512
_LONGEST_WHOLE_NUMBER = 40
_JSON_HEADER = "send the header Content-Type: application/json"


class TransactionReader:
    """Reads one transaction by a schema. limit: largest body in bytes."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self.limit = max(SMALLEST_LIMIT, _BYTES_A_FIELD * len(schema.inputs))
        self._names = [column.name for column in schema.inputs]
        self._type: TypeAdapter[dict[str, object]] = transaction_type(schema)

    async def read(self, request: Request) -> dict[str, object]:
        """Return {column: canonical value} of a request, every input present. Raises Rejected (413, 415, 422)."""
        check_content_type(request)
        return self.parse(await read_body(request, self.limit))

    def parse(self, body: bytes) -> dict[str, object]:
        """The same from the body alone. Raises Rejected (422) naming every field at fault."""
        given = parse_object(body)
        try:
            values = self._type.validate_python(given)
        except ValidationError as error:
            raise Rejected(422, *problems_of(error, self.schema, given)) from None
        return {name: values.get(name) for name in self._names}

    def json_schema(self) -> dict[str, Any]:
        """JSON schema of a transaction, for OpenAPI."""
        schema = self._type.json_schema()
        for field in schema["properties"].values():
            field.pop("title", None)  # pydantic's guess at a nicer name ("Tx Amount") is not what a caller must send
        return schema


def check_content_type(request: Request) -> None:
    """Refuse with 415 what does not call itself JSON, or is compressed: a small body could unpack to a huge one."""
    media_type = request.headers.get("content-type", "").split(";")[0].strip().lower()
    application, _, subtype = media_type.partition("/")
    if application != "application" or not (subtype == "json" or subtype.endswith("+json")):
        called = f"the body calls itself {media_type[:80]!r}" if media_type else "the request names no Content-Type"
        raise Rejected(415, problem("content_type", called, _JSON_HEADER, field="Content-Type", where="header"))
    if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
        called, remedy = "compressed bodies are not read", "send the JSON as it is"
        raise Rejected(415, problem("content_encoding", called, remedy, field="Content-Encoding", where="header"))


async def read_body(request: Request, limit: int) -> bytes:
    """Return the body. Raises Rejected (413) as soon as it is longer than `limit` bytes."""
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and (len(declared) > 15 or int(declared) > limit):
        raise _too_large(limit)
    parts, size = [], 0
    try:
        async for part in request.stream():
            size += len(part)
            if size > limit:
                raise _too_large(limit)
            parts.append(part)
    except ClientDisconnect:
        raise Rejected(400, problem("disconnected", "the body ended early", "send the whole body")) from None
    return b"".join(parts)


def parse_object(body: bytes) -> dict[str, object]:
    """Parse one JSON object: UTF-8, no name twice. NaN and Infinity pass; the check of their field refuses them."""
    if not body.strip():
        raise _not_json("the body is empty", "send one transaction as a JSON object")
    try:
        value = json.loads(body.decode("utf-8"), object_pairs_hook=_object, parse_int=_whole_number)
    except UnicodeDecodeError as error:
        raise _not_json(f"the body is not UTF-8 at byte {error.start}", "encode it as UTF-8") from None
    except json.JSONDecodeError as error:
        place = f"{error.msg} at line {error.lineno}, column {error.colno}"
        raise _not_json(f"the body is not JSON: {place}", "send one JSON object, e.g. with a JSON library") from None
    except RecursionError:
        raise _not_json("the body is nested too deeply", "send one flat JSON object") from None
    if not isinstance(value, dict):
        name = {list: "an array", str: "a text", bool: "a boolean", type(None): "null"}.get(type(value), "a number")
        remedy = "send one transaction as a JSON object: {...}"
        raise Rejected(422, problem("object_type", f"the body is {name}, not an object", remedy))
    return value


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        repeated = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise Rejected(422, problem("repeated_field", "the field is given twice", "send it once", field=repeated))
    return found


def _whole_number(text: str) -> int | float:
    # Python refuses to read integers of thousands of digits; as a float they are simply out of range.
    return int(text) if len(text) <= _LONGEST_WHOLE_NUMBER else float(text)


def _not_json(message: str, remedy: str) -> Rejected:
    return Rejected(422, problem("json_invalid", message, remedy))


def _too_large(limit: int) -> Rejected:
    remedy = f"send one transaction of at most {limit:,} bytes"
    return Rejected(413, problem("body_too_large", f"the body is larger than {limit:,} bytes", remedy))
