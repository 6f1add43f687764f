"""Decision records and their two storage formats: journal lines and Parquet rows.

A single decision is a JSON object in the journal. The decisions of a batch share one line, because one line each would
cost more than scoring them: an Arrow record batch in base64, plus the values that all of them share.
"""

from __future__ import annotations

import base64
import hmac
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec
import numpy as np
import pyarrow as pa

from fraud.detectors import registry
from fraud.schema import Column, Schema
from fraud.schema.values import since_epoch

Role = Literal["champion", "canary"]
# Kinds of columns whose values never appear in the text of a reason.
_NEVER_IN_REASONS = ("entity", "id")


@dataclass(slots=True, kw_only=True)
class Decision:
    """One transaction and the model's answer to it.

    time_us: microseconds since 1970, UTC. inputs: {column: canonical value}. role: which of the two models decided.
    score, is_fraud: None if `fallback` decided. scores: of each detector, {"forest_score": ...}. shadow_*: the
    challenger's answer to the same transaction; shadow_outcome: "scored", "shed", "failed", "late", or None without
    shadow scoring.
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
    scores: Mapping[str, float] = field(default_factory=dict)
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


@dataclass(slots=True, kw_only=True)
class DecisionBlock:
    """The decisions on n rows of one batch, all by the champion and without shadow scores.

    Shared fields are as in `Decision`. columns: {"score", "is_fraud", "forest_score", ...: array (n,)}; inputs:
    {column: canonical values (n,)}; reasons: per row, or None; warnings: per row.
    """

    request_id: str
    time_us: int
    model_name: str
    version: str
    sha256: str
    schema_fingerprint: str
    threshold: float
    columns: Mapping[str, np.ndarray]
    inputs: Mapping[str, Any]
    warnings: Sequence[Sequence[str]]
    reasons: Sequence[Sequence[Mapping[str, Any]]] | None = None
    key_name: str = ""
    role: Role = "champion"

    def __len__(self) -> int:
        return len(self.warnings)


_REASON = pa.struct(
    [
        ("column", pa.string()), ("feature", pa.string()), ("value", pa.string()), ("typical", pa.string()),
        ("contribution", pa.float64()), ("text", pa.string()),
    ]
)  # fmt: skip
_TEXTS = ("request_id", "model_name", "version", "sha256", "schema_fingerprint", "role", "fallback", "key_name",
          "shadow_version", "shadow_outcome")  # fmt: skip
_NUMBERS = ("threshold", "score", "shadow_score")
_FLAGS = ("is_fraud", "shadow_is_fraud")
_PLAIN = (*_TEXTS, *_NUMBERS, *_FLAGS)
_plain_values = operator.attrgetter(*_PLAIN)
_COUNT = pa.int64()  # microseconds: Arrow's JSON reader needs integers, which are then cast to times
_ARROW = {"double": pa.float64(), "string": pa.string(), "timestamp": pa.timestamp("us")}
INPUTS, MODEL = "inputs", "model_name"
_HEADER = "_inputs"  # the key of a journal's header line; no decision has it
_BLOCK = b'{"_block":"'  # the start of a block's line; no decision starts like this


def table_schemas(header: bytes) -> tuple[pa.Schema, pa.Schema]:
    """The Arrow schema of a journal, from its header line, and the schema of its JSON, in which times are integers.

    Raises KeyError, TypeError or a MsgspecError if the line is not a header.
    """
    types = msgspec.json.decode(header)[_HEADER]
    inputs = [(name, _ARROW[kind]) for name, kind in types.items()]
    fields = [*_fields(), *([pa.field(INPUTS, pa.struct(inputs))] if inputs else [])]
    return pa.schema(fields), pa.schema([pa.field(field.name, _as_sent(field.type)) for field in fields])


def _fields() -> list[pa.Field]:
    numbers = ("threshold", "score", *registry.score_columns(), "shadow_score")
    return [
        pa.field("time", pa.timestamp("us", tz="UTC")),
        *(pa.field(name, pa.string()) for name in _TEXTS),
        *(pa.field(name, pa.float64()) for name in numbers),
        *(pa.field(name, pa.bool_()) for name in _FLAGS),
        pa.field("reasons", pa.list_(_REASON)),
        pa.field("warnings", pa.list_(pa.string())),
    ]


def _as_sent(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_struct(kind):
        return pa.struct([(field.name, _as_sent(field.type)) for field in kind])
    return _COUNT if pa.types.is_timestamp(kind) else kind


def blocks_of(lines: bytes, schema: pa.Schema) -> tuple[bytes, list[pa.RecordBatch], int]:
    """Split a journal's lines into single decisions, blocks, and the number of truncated blocks."""
    singles, blocks, n_cut, start = [], [], 0, 0
    while (position := lines.find(_BLOCK, start)) >= 0:
        singles.append(lines[start:position])
        end = lines.find(b"\n", position)
        end = end if end >= 0 else len(lines)
        start = end + 1
        try:
            blocks.append(_block_of(lines[position:end], schema))
        except (ValueError, TypeError, KeyError, OSError):  # pyarrow's errors and msgspec's are ValueErrors
            n_cut += 1
    return b"".join([*singles, lines[start:]]), blocks, n_cut


def _block_of(line: bytes, schema: pa.Schema) -> pa.RecordBatch:
    content = msgspec.json.decode(line)
    message, same = base64.b64decode(content["_block"], validate=True), content["same"]
    apart = pa.schema([field for field in schema if field.name not in same])
    batch = pa.ipc.read_record_batch(pa.py_buffer(message), apart)
    columns = [
        _repeated(same[field.name], field.type, len(batch)) if field.name in same else batch[field.name]
        for field in schema
    ]
    return pa.record_batch(columns, schema=schema)


def _repeated(value: Any, kind: pa.DataType, n: int) -> pa.Array:
    if value is None:
        return pa.nulls(n, kind)
    sent = _as_sent(kind)
    repeated = pa.repeat(pa.scalar(value, sent), n)
    return repeated if sent == kind else repeated.cast(kind)


class Encoder:
    """Encodes decisions of one schema as journal lines. header: the journal's first line.

    omitted, hashed: columns that are dropped, or replaced by their HMAC-SHA256 (64 hex digits) under `key`. Their
    values are also removed from the reasons.
    """

    def __init__(
        self, schema: Schema, omitted: Sequence[str] = (), hashed: Sequence[str] = (), key: bytes = b""
    ) -> None:
        columns = [column for column in schema.inputs if column.name not in omitted]
        self._inputs = [(c.name, _keyed(key) if c.name in hashed else _form(c)) for c in columns]
        self._hashed = frozenset(hashed)
        types = {c.name: "string" if c.name in hashed else _type(c) for c in columns}
        self.header = msgspec.json.encode({_HEADER: types}) + b"\n"
        self._schema = table_schemas(self.header)[0]
        hidden = {*omitted, *hashed}
        self._redacted = [c.name for c in schema.inputs if c.name in hidden and c.kind not in _NEVER_IN_REASONS]
        self._encode = msgspec.json.Encoder(enc_hook=_plain).encode

    def line(self, decision: Decision) -> bytes:
        """One newline-terminated line. Raises TypeError or ValueError if a value does not fit its column."""
        row: dict[str, Any] = dict(zip(_PLAIN, _plain_values(decision), strict=True))
        row |= decision.scores
        row["time"] = decision.time_us
        row["reasons"] = [self._reason(reason) for reason in decision.reasons]
        row["warnings"] = decision.warnings
        values, inputs = decision.inputs, {}
        for name, form in self._inputs:
            value = values.get(name)
            inputs[name] = None if value is None else form(value)
        if inputs:
            row[INPUTS] = inputs
        return self._encode(row) + b"\n"

    def block(self, block: DecisionBlock) -> bytes:
        """One newline-terminated line for all decisions of a block. Raises like `line`."""
        n, schema = len(block), self._schema
        alike = {*_PLAIN, *registry.score_columns()} - block.columns.keys()
        same = {name: getattr(block, name, None) for name in sorted(alike)}
        same["time"] = block.time_us
        columns = {name: pa.array(values, schema.field(name).type) for name, values in block.columns.items()}
        reasons = [[self._reason(reason) for reason in row] for row in block.reasons or ()]
        columns["reasons"] = _lists(reasons, schema.field("reasons").type, n)
        columns["warnings"] = _lists(block.warnings, schema.field("warnings").type, n)
        if self._inputs:
            kind = schema.field(INPUTS).type
            inputs = [
                self._input(block.inputs.get(name), name in self._hashed, form, kind.field(name).type, n)
                for name, form in self._inputs
            ]
            columns[INPUTS] = pa.StructArray.from_arrays(inputs, fields=list(kind))
        apart = pa.schema([field for field in schema if field.name not in same])
        message = pa.record_batch([columns[name] for name in apart.names], schema=apart).serialize()
        return _BLOCK + base64.b64encode(message) + b'","same":' + self._encode(same) + b"}\n"

    def _input(self, values: Any, is_hashed: bool, form: Callable[[Any], object], kind: pa.DataType, n: int) -> Any:
        if values is None:
            return pa.nulls(n, kind)
        array = pa.array(values, from_pandas=True)  # NaN, NaT and NA are missing
        if not is_hashed:
            return array.cast(kind)
        return pa.array([None if value is None else form(value) for value in array.to_pylist()], kind)

    def _reason(self, reason: Mapping[str, Any]) -> dict[str, Any]:
        column, value, typical, text = reason["column"], reason["value"], reason["typical"], reason["text"]
        if self._redacted and (column in self._redacted or any(name in text for name in self._redacted)):
            value = typical = text = None
        return {
            "column": column,
            "feature": reason["feature"],
            "value": None if value is None else str(value),  # numbers and texts as one type
            "typical": None if typical is None else str(typical),
            "contribution": reason["contribution"],
            "text": text,
        }


def _lists(lists: Sequence[Sequence[Any]], kind: pa.DataType, n: int) -> pa.Array:
    """Lists as an array of n lists. Fast for the usual case, in which all of them are empty."""
    if any(lists):
        return pa.array(lists, kind)
    return pa.ListArray.from_arrays(pa.repeat(pa.scalar(0, pa.int32()), n + 1), pa.array([], kind.value_type), kind)


def _type(column: Column) -> str:
    if column.kind in ("numeric", "boolean"):
        return "double"
    return "timestamp" if column.kind == "timestamp" else "string"


def _form(column: Column) -> Callable[[Any], object]:
    forms: dict[str, Callable[[Any], object]] = {"double": float, "timestamp": since_epoch, "string": str}
    return forms[_type(column)]


def _keyed(key: bytes) -> Callable[[object], str]:
    def hashed(value: object) -> str:
        return hmac.digest(key, str(value).encode("utf-8", "surrogatepass"), "sha256").hex()

    return hashed


def _plain(value: Any) -> object:
    """Convert a NumPy scalar to a Python one."""
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(f"a decision holds a {type(value).__name__}")
