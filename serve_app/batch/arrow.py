"""Batches as an Arrow IPC stream: record batches with the schema's columns in, record batches with scores out.

The stream is untrusted. Rejected are compressed or dictionary-encoded streams (they can expand without limit), columns
of the wrong type, and whatever fails Arrow's full validation.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa

from fraud.errors import closest
from fraud.schema import Schema
from fraud.schema.values import array_of
from serve_app.batch.arrow_columns import read_column, wrong_type
from serve_app.batch.json import too_many
from serve_app.model.part import Part, ScoredPart, check_time
from serve_app.model.state import ServedModel
from serve_app.request.fields import remedy_of
from serve_app.request.problems import MOST_PROBLEMS, Rejected, describe_unknown_field, problem

MEDIA_TYPE = "application/vnd.apache.arrow.stream"
_REMEDY = "send record batches as pyarrow.ipc.new_stream writes them, without compression"
_REASON = pa.struct(
    [("column", pa.string()), ("feature", pa.string()), ("contribution", pa.float64()), ("text", pa.string())]
)
_MOST_COLUMNS, _MOST_BATCHES = 10_000, 1_000


class ArrowRows:
    """Reads rows from an Arrow stream and writes the answer as one. Raises Rejected (413, 422)."""

    media_type = MEDIA_TYPE

    def __init__(self, model: ServedModel, body: bytes, limit: int) -> None:
        self._model = model
        self._table = read_stream(body, model.engine.schema, limit)
        self._columns: list[dict[str, pa.Array]] = []
        self._ids: pa.Array | None = None  # of the part that was read last, where the schema has an id column

    def __len__(self) -> int:
        return self._table.num_rows

    async def read(self, start: int, stop: int) -> Part:
        """Check the rows from `start` to `stop`."""
        schema, size = self._model.engine.schema, stop - start
        piece = self._table.slice(start, size)
        columns: dict[str, np.ndarray] = {}
        rejected: dict[int, list[dict[str, Any]]] = {}
        for column in schema.inputs:
            if column.name in piece.column_names:
                columns[column.name], faults = read_column(column, piece[column.name].combine_chunks())
            else:
                columns[column.name], faults = array_of(column, [None] * size), {}
            if column is schema.id:
                self._ids = pa.array(columns[column.name], pa.string(), mask=_mask(faults, size))
            for row, fault in faults.items():
                rejected.setdefault(row, []).append(fault)
        if schema.history and schema.timestamp:
            for row in np.flatnonzero(np.isnat(columns[schema.timestamp.name])).tolist():
                rejected.setdefault(row, self._time_problems(columns, row))
        if not rejected:
            return Part(columns, range(size), {})
        good = ~_mask(rejected, size)
        good_columns = {name: values[good] for name, values in columns.items()}
        return Part(
            good_columns, np.flatnonzero(good).tolist(), {row: tuple(problems) for row, problems in rejected.items()}
        )

    def add(self, start: int, scored: ScoredPart) -> None:
        """Append the answers of the part read last. A rejected row has an error and no score."""
        part, size = scored.part, scored.part.size
        missing = None
        if part.rejected:
            missing = np.ones(size, dtype=bool)
            missing[part.positions] = False
        columns: dict[str, pa.Array] = {}
        for name, values in scored.values.items():
            columns[name] = _spread(values, missing, pa.float64())
        columns["is_fraud"] = _spread(scored.is_fraud, missing, pa.bool_())
        history = scored.model.history
        is_live = scored.is_history_live if history is None else scored.is_history_live & (not history.is_behind)
        columns["is_history_live"] = _spread(is_live, missing, pa.bool_())
        columns["is_id_seen_before"] = _spread(scored.is_changed, missing, pa.bool_())
        errors = {
            row: "; ".join(_message_of(problem) for problem in problems) for row, problems in part.rejected.items()
        }
        messages = [errors.get(row) for row in range(size)] if errors else None
        columns["error"] = pa.nulls(size, pa.string()) if messages is None else pa.array(messages, pa.string())
        columns["model_version"] = pa.repeat(pa.scalar(scored.model.version, pa.string()), size)
        if self._ids is not None:
            columns["id"] = self._ids
        if scored.reasons is not None:
            reasons_by_row = dict(zip(part.positions, scored.reasons, strict=True))
            listed = [
                [vars(reason) for reason in reasons_by_row[i]] if i in reasons_by_row else None for i in range(size)
            ]
            columns["reasons"] = pa.array(listed, pa.list_(_REASON))
        self._columns.append(columns)

    def answer(self, summary: dict[str, Any]) -> bytes:
        """The complete response body. The summary and the threshold are in the schema metadata."""
        metadata = summary | {"threshold": self._model.engine.threshold.value}
        sink = pa.BufferOutputStream()
        first = pa.table(self._columns[0]) if self._columns else pa.table({"error": pa.array([], pa.string())})
        schema = first.schema.with_metadata({name: str(value) for name, value in metadata.items()})
        with pa.ipc.new_stream(sink, schema) as writer:
            for columns in self._columns:
                writer.write_table(pa.table(columns, schema=schema))
        return sink.getvalue().to_pybytes()

    def _time_problems(self, columns: dict[str, np.ndarray], row: int) -> list[dict[str, Any]]:
        one = {name: values[row : row + 1] for name, values in columns.items()}
        (transaction,) = Part(one, [0], {}).transactions
        try:
            check_time(self._model, transaction)
        except Rejected as error:
            return list(error.problems)
        return []


def read_stream(body: bytes, schema: Schema, limit: int) -> pa.Table:
    """Read a stream of at most `limit` rows and check its column names and types. Raises Rejected."""
    try:
        messages = pa.ipc.MessageReader.open_stream(pa.py_buffer(body))
        first = messages.read_next_message()
        if first.type != "schema":
            raise _not_arrow(f"it begins with a {first.type}")
        stream_schema = pa.ipc.read_schema(first)
        _check_columns(stream_schema, schema)
        batches: list[pa.RecordBatch] = []
        n_rows = 0
        for message in _rest(messages):
            if message.type != "record batch":
                raise _not_arrow(f"it holds a {message.type}")
            if len(batches) == _MOST_BATCHES:
                raise _not_arrow(f"it has more than {_MOST_BATCHES:,} record batches")
            if _is_compressed(message):
                raise _not_arrow("it is compressed")
            batch = pa.ipc.read_record_batch(message, stream_schema)
            n_rows += batch.num_rows
            if n_rows > limit:
                raise too_many(limit)
            batch.validate(full=True)
            batches.append(batch)
        return pa.Table.from_batches(batches, stream_schema)
    except (EOFError, StopIteration):
        raise _not_arrow("it is empty") from None
    except (pa.ArrowException, OSError, ValueError, struct.error) as error:
        raise _not_arrow(" ".join(str(error).split())[:200]) from None


def _rest(messages: Any) -> Any:
    while True:
        try:
            yield messages.read_next_message()
        except (StopIteration, EOFError):
            return


def _check_columns(stream_schema: pa.Schema, schema: Schema) -> None:
    """Raise Rejected with one problem per column that is missing, unknown, repeated or of the wrong type."""
    if len(stream_schema.names) > _MOST_COLUMNS:
        raise _not_arrow(f"it has more than {_MOST_COLUMNS:,} columns")
    sent_names = dict.fromkeys(stream_schema.names)
    known = {column.name: column for column in schema.inputs}
    problems = [
        problem("repeated_field", "the column is given twice", "send it once", field=name)
        for name in sent_names
        if name in known and stream_schema.names.count(name) > 1
    ]
    for column in schema.inputs:
        if column.name not in sent_names and not column.nullable:
            near = closest(column.name, [name for name in sent_names if name not in known])
            message = f"this column is required{near.replace('; did you mean ', '; is it what you called ')}"
            problems.append(problem("missing", message, remedy_of(column), field=column.name))
        elif column.name in sent_names and (
            fault := wrong_type(column, stream_schema.types[stream_schema.names.index(column.name)])
        ):
            problems.append(fault)
    for name in [name for name in sent_names if name not in known][:MOST_PROBLEMS]:
        problems.append(problem("extra_forbidden", *describe_unknown_field(name, schema, sent_names), field=name))
    if problems:
        raise Rejected(422, *problems[:MOST_PROBLEMS])


def _is_compressed(message: Any) -> bool:
    """Whether a record batch is compressed. pyarrow does not expose this, and decompresses without a limit.

    The metadata is a FlatBuffer that Arrow has validated (format/Message.fbs): field 3 of a Message is its header,
    field 4 of a RecordBatch its compression.
    """
    data = message.metadata.to_pybytes()
    header = _field_of(data, struct.unpack_from("<I", data)[0], 2)
    return header is None or _field_of(data, header + struct.unpack_from("<I", data, header)[0], 3) is not None


def _field_of(data: bytes, table: int, index: int) -> int | None:
    """Offset of field `index` of a FlatBuffer table; None if it is absent."""
    entries = table - struct.unpack_from("<i", data, table)[0]
    if 4 + 2 * index >= struct.unpack_from("<H", data, entries)[0]:
        return None
    offset = struct.unpack_from("<H", data, entries + 4 + 2 * index)[0]
    return table + offset if offset else None


def _spread(values: np.ndarray, missing: np.ndarray | None, kind: pa.DataType) -> pa.Array:
    """The values at the rows that are not `missing`, null elsewhere."""
    if missing is None:
        return pa.array(values, kind)
    spread = np.zeros(len(missing), dtype=values.dtype)
    spread[~missing] = values
    return pa.array(spread, kind, mask=missing)


def _mask(rows: Iterable[int], size: int) -> np.ndarray:
    """True at `rows`."""
    mask = np.zeros(size, dtype=bool)
    mask[list(rows)] = True
    return mask


def _message_of(problem: dict[str, Any]) -> str:
    return f"{problem['msg']} ({problem['remedy']})"


def _not_arrow(why: str) -> Rejected:
    return Rejected(422, problem("arrow_invalid", f"the body is no readable Arrow stream: {why}", _REMEDY))
