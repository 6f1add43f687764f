"""Batches as an Arrow IPC stream: record batches with the schema's columns in, the scores as record batches out.

The stream comes from outside. Refused are compressed and dictionary-encoded ones, which can grow without limit, columns
of other types than the schema's kinds, and what Arrow's own full validation finds wrong.
"""

from __future__ import annotations

import struct
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
from serve_app.request.problems import MOST_PROBLEMS, Rejected, about_extra, problem

MEDIA_TYPE = "application/vnd.apache.arrow.stream"
_REMEDY = "send record batches as pyarrow.ipc.new_stream writes them, without compression"
_REASON = pa.struct(
    [("column", pa.string()), ("feature", pa.string()), ("contribution", pa.float64()), ("text", pa.string())]
)
_MOST_COLUMNS, _MOST_BATCHES = 10_000, 1_000


class ArrowRows:
    """The rows of an Arrow stream, and the answer as another. Raises Rejected (413, 422)."""

    media_type = MEDIA_TYPE

    def __init__(self, model: ServedModel, body: bytes, limit: int) -> None:
        self._model = model
        self._table = read_stream(body, model.engine.schema, limit)
        self._columns: list[dict[str, pa.Array]] = []

    def __len__(self) -> int:
        return self._table.num_rows

    async def take(self, start: int, stop: int) -> Part:
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
            for place, told in faults.items():
                rejected.setdefault(place, []).append(told)
        if schema.history and schema.timestamp:
            for place in np.flatnonzero(np.isnat(columns[schema.timestamp.name])).tolist():
                rejected.setdefault(place, self._without_time(columns, place))
        if not rejected:
            return Part(columns, range(size), {})
        good = np.ones(size, dtype=bool)
        good[list(rejected)] = False
        kept = {name: values[good] for name, values in columns.items()}
        return Part(kept, np.flatnonzero(good).tolist(), {place: tuple(told) for place, told in rejected.items()})

    def add(self, start: int, scored: ScoredPart) -> None:
        """Put the answers to a part behind those to the rows before it; a rejected row has an error and no score."""
        part, size = scored.part, scored.part.size
        missing = None
        if part.rejected:
            missing = np.ones(size, dtype=bool)
            missing[part.places] = False
        columns: dict[str, pa.Array] = {}
        for name, values in scored.values.items():
            columns[name] = _spread(values, missing, pa.float64())
        columns["is_fraud"] = _spread(scored.is_fraud, missing, pa.bool_())
        history = scored.model.history
        is_live = scored.is_history_live if history is None else scored.is_history_live & (not history.is_behind)
        columns["is_history_live"] = _spread(is_live, missing, pa.bool_())
        columns["is_id_seen_before"] = _spread(scored.is_changed, missing, pa.bool_())
        errors = {place: "; ".join(_told(problem) for problem in told) for place, told in part.rejected.items()}
        told_of = [errors.get(place) for place in range(size)] if errors else None
        columns["error"] = pa.nulls(size, pa.string()) if told_of is None else pa.array(told_of, pa.string())
        if scored.reasons is not None:
            told = dict(zip(part.places, scored.reasons, strict=True))
            listed = [[vars(reason) for reason in told[i]] if i in told else None for i in range(size)]
            columns["reasons"] = pa.array(listed, pa.list_(_REASON))
        self._columns.append(columns)

    def answer(self, summary: dict[str, Any]) -> bytes:
        """The whole answer; the summary, the threshold too, is in the metadata of the stream's schema."""
        told = summary | {"threshold": self._model.engine.threshold.value}
        sink = pa.BufferOutputStream()
        first = pa.table(self._columns[0]) if self._columns else pa.table({"error": pa.array([], pa.string())})
        schema = first.schema.with_metadata({name: str(value) for name, value in told.items()})
        with pa.ipc.new_stream(sink, schema) as writer:
            for columns in self._columns:
                writer.write_table(pa.table(columns, schema=schema))
        return sink.getvalue().to_pybytes()

    def _without_time(self, columns: dict[str, np.ndarray], place: int) -> list[dict[str, Any]]:
        one = {name: values[place : place + 1] for name, values in columns.items()}
        (transaction,) = Part(one, [0], {}).transactions
        try:
            check_time(self._model, transaction)
        except Rejected as error:
            return list(error.problems)
        return []


def read_stream(body: bytes, schema: Schema, limit: int) -> pa.Table:
    """Read a stream of at most `limit` rows whose columns have the right names and types. Raises Rejected."""
    try:
        messages = pa.ipc.MessageReader.open_stream(pa.py_buffer(body))
        first = messages.read_next_message()
        if first.type != "schema":
            raise _not_arrow(f"it begins with a {first.type}")
        found = pa.ipc.read_schema(first)
        _check_columns(found, schema)
        batches: list[pa.RecordBatch] = []
        n_rows = 0
        for message in _rest(messages):
            if message.type != "record batch":
                raise _not_arrow(f"it holds a {message.type}")
            if len(batches) == _MOST_BATCHES:
                raise _not_arrow(f"it has more than {_MOST_BATCHES:,} record batches")
            if _is_compressed(message):
                raise _not_arrow("it is compressed")
            batch = pa.ipc.read_record_batch(message, found)
            n_rows += batch.num_rows
            if n_rows > limit:
                raise too_many(limit)
            batch.validate(full=True)
            batches.append(batch)
        return pa.Table.from_batches(batches, found)
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


def _check_columns(found: pa.Schema, schema: Schema) -> None:
    """Raise Rejected for columns that are missing, unknown, twice there or of another type, a problem for each."""
    if len(found.names) > _MOST_COLUMNS:
        raise _not_arrow(f"it has more than {_MOST_COLUMNS:,} columns")
    given = dict.fromkeys(found.names)
    known = {column.name: column for column in schema.inputs}
    problems = [
        problem("repeated_field", "the column is given twice", "send it once", field=name)
        for name in given
        if name in known and found.names.count(name) > 1
    ]
    for column in schema.inputs:
        if column.name not in given and not column.nullable:
            near = closest(column.name, [name for name in given if name not in known])
            message = f"this column is required{near.replace('; did you mean ', '; is it what you called ')}"
            problems.append(problem("missing", message, remedy_of(column), field=column.name))
        elif column.name in given and (told := wrong_type(column, found.types[found.names.index(column.name)])):
            problems.append(told)
    for name in [name for name in given if name not in known][:MOST_PROBLEMS]:
        problems.append(problem("extra_forbidden", *about_extra(name, schema, given), field=name))
    if problems:
        raise Rejected(422, *problems[:MOST_PROBLEMS])


def _is_compressed(message: Any) -> bool:
    """Whether a record batch says how it is compressed; pyarrow does not tell, and unpacks without a limit.

    The metadata is a FlatBuffer that Arrow has checked (format/Message.fbs): the third field of a Message is its
    header, the fourth of a RecordBatch its compression.
    """
    data = message.metadata.to_pybytes()
    header = _field_of(data, struct.unpack_from("<I", data)[0], 2)
    return header is None or _field_of(data, header + struct.unpack_from("<I", data, header)[0], 3) is not None


def _field_of(data: bytes, table: int, index: int) -> int | None:
    """Where the field with this index of a FlatBuffer's table is; None where it has none."""
    entries = table - struct.unpack_from("<i", data, table)[0]
    if 4 + 2 * index >= struct.unpack_from("<H", data, entries)[0]:
        return None
    place = struct.unpack_from("<H", data, entries + 4 + 2 * index)[0]
    return table + place if place else None


def _spread(values: np.ndarray, missing: np.ndarray | None, kind: pa.DataType) -> pa.Array:
    """The values in their places, null in the others."""
    if missing is None:
        return pa.array(values, kind)
    spread = np.zeros(len(missing), dtype=values.dtype)
    spread[~missing] = values
    return pa.array(spread, kind, mask=missing)


def _told(problem: dict[str, Any]) -> str:
    return f"{problem['msg']} ({problem['remedy']})"


def _not_arrow(why: str) -> Rejected:
    return Rejected(422, problem("arrow_invalid", f"the body is no readable Arrow stream: {why}", _REMEDY))
