"""One decision, and the two forms in which it is kept: a JSON line in the journal, a row of a Parquet table."""

from __future__ import annotations

import datetime as dt
import hmac
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec
import pyarrow as pa

from fraud.schema import Column, Schema

Role = Literal["champion", "canary"]
_EPOCH = dt.datetime(1970, 1, 1)
_MICROSECOND = dt.timedelta(microseconds=1)
# Kinds whose value the sentence of a reason never shows.
_UNSPOKEN = ("entity", "id")


@dataclass(slots=True, kw_only=True)
class Decision:
    """What was asked of a model and what it answered.

    time_us: microseconds since 1970, UTC. inputs: {column: canonical value}. role: which of the two models decided.
    score, is_fraud: None where `fallback` decided. shadow_*: what the challenger said of the same transaction;
    shadow_outcome: "scored", "shed", "failed", "late", or None where nobody asked it.
    """

    request_id: str
    time_us: int
    model_name: str
    version: str
    sha256: str
    schema_fingerprint: str
    threshold: float
    score: float | None
    is_fraud: bool | None
    forest_score: float | None = None
    autoencoder_score: float | None = None
    head_score: float | None = None
    reasons: Sequence[Mapping[str, Any]] = ()
    warnings: Sequence[str] = ()
    inputs: Mapping[str, object] = field(default_factory=dict)
    role: Role = "champion"
    fallback: str | None = None
    key_name: str = ""
    shadow_version: str | None = None
    shadow_score: float | None = None
    shadow_is_fraud: bool | None = None
    shadow_outcome: str | None = None


_REASON = pa.struct(
    [
        ("column", pa.string()), ("feature", pa.string()), ("value", pa.string()), ("typical", pa.string()),
        ("contribution", pa.float64()), ("text", pa.string()),
    ]
)  # fmt: skip
_TEXTS = ("request_id", "model_name", "version", "sha256", "schema_fingerprint", "role", "fallback", "key_name",
          "shadow_version", "shadow_outcome")  # fmt: skip
_NUMBERS = ("threshold", "score", "forest_score", "autoencoder_score", "head_score", "shadow_score")
_FLAGS = ("is_fraud", "shadow_is_fraud")
_PLAIN = (*_TEXTS, *_NUMBERS, *_FLAGS)
_plain_values = operator.attrgetter(*_PLAIN)
_FIELDS = [
    pa.field("time", pa.timestamp("us", tz="UTC")),
    *(pa.field(name, pa.string()) for name in _TEXTS),
    *(pa.field(name, pa.float64()) for name in _NUMBERS),
    *(pa.field(name, pa.bool_()) for name in _FLAGS),
    pa.field("reasons", pa.list_(_REASON)),
    pa.field("warnings", pa.list_(pa.string())),
]
_COUNT = pa.int64()  # of microseconds: what Arrow's JSON reader takes for a time, to be cast
_ARROW = {"double": pa.float64(), "string": pa.string(), "timestamp": pa.timestamp("us")}
INPUTS = "inputs"
_HEADER = "_inputs"  # the key of a journal's first line; no key of a decision


def table_schemas(header: bytes) -> tuple[pa.Schema, pa.Schema]:
    """The Arrow schema of a journal, from its first line, and that of its JSON, in which times are whole numbers.

    Raises KeyError, TypeError or a MsgspecError where the line is none.
    """
    types = msgspec.json.decode(header)[_HEADER]
    inputs = [(name, _ARROW[kind]) for name, kind in types.items()]
    fields = [*_FIELDS, *([pa.field(INPUTS, pa.struct(inputs))] if inputs else [])]
    return pa.schema(fields), pa.schema([pa.field(field.name, _as_sent(field.type)) for field in fields])


def _as_sent(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_struct(kind):
        return pa.struct([(field.name, _as_sent(field.type)) for field in kind])
    return _COUNT if pa.types.is_timestamp(kind) else kind


class Encoder:
    """Makes the journal's lines of decisions by one schema. header: the journal's first line.

    omitted, hashed: columns whose value is left out, or replaced by its HMAC-SHA256 (64 hex digits) under `key`. What a
    reason says of such a column's value goes with it.
    """

    def __init__(
        self, schema: Schema, omitted: Sequence[str] = (), hashed: Sequence[str] = (), key: bytes = b""
    ) -> None:
        columns = [column for column in schema.inputs if column.name not in omitted]
        self._inputs = [(c.name, _keyed(key) if c.name in hashed else _form(c)) for c in columns]
        types = {c.name: "string" if c.name in hashed else _type(c) for c in columns}
        self.header = msgspec.json.encode({_HEADER: types}) + b"\n"
        hidden = {*omitted, *hashed}
        self._unsaid = [c.name for c in schema.inputs if c.name in hidden and c.kind not in _UNSPOKEN]
        self._encode = msgspec.json.Encoder(enc_hook=_plain).encode

    def line(self, decision: Decision) -> bytes:
        """One line, ended by a newline. Raises TypeError or ValueError where a value is none of its column's."""
        row: dict[str, Any] = dict(zip(_PLAIN, _plain_values(decision), strict=True))
        row["time"] = decision.time_us
        row["reasons"] = [self._reason(reason) for reason in decision.reasons]
        row["warnings"] = decision.warnings
        given, inputs = decision.inputs, {}
        for name, form in self._inputs:
            value = given.get(name)
            inputs[name] = None if value is None else form(value)
        if inputs:
            row[INPUTS] = inputs
        return self._encode(row) + b"\n"

    def _reason(self, reason: Mapping[str, Any]) -> dict[str, Any]:
        column, value, typical, text = reason["column"], reason["value"], reason["typical"], reason["text"]
        if self._unsaid and (column in self._unsaid or any(name in text for name in self._unsaid)):
            value = typical = text = None
        return {
            "column": column,
            "feature": reason["feature"],
            "value": None if value is None else str(value),  # a number or a text, as one type
            "typical": None if typical is None else str(typical),
            "contribution": reason["contribution"],
            "text": text,
        }


def _type(column: Column) -> str:
    if column.kind in ("numeric", "boolean"):
        return "double"
    return "timestamp" if column.kind == "timestamp" else "string"


def _form(column: Column) -> Callable[[Any], object]:
    forms: dict[str, Callable[[Any], object]] = {"double": float, "timestamp": _microseconds, "string": str}
    return forms[_type(column)]


def _microseconds(value: dt.datetime) -> int:
    return (value - _EPOCH) // _MICROSECOND


def _keyed(key: bytes) -> Callable[[object], str]:
    def hashed(value: object) -> str:
        return hmac.digest(key, str(value).encode("utf-8", "surrogatepass"), "sha256").hex()

    return hashed


def _plain(value: Any) -> object:
    """A NumPy number as Python's."""
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(f"a decision holds a {type(value).__name__}")
