"""Converts a decision journal to Parquet files, one per UTC day, in date=YYYY-MM-DD/."""

from __future__ import annotations

import datetime as dt
import io
import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import IO

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj
import pyarrow.parquet as pq

from fraud.data import filesystems, tables
from serve_app.decisions.rows import INPUTS, MODEL, blocks_of, table_schemas

_BLOCK = 8 << 20  # bytes, the longest possible line; a transaction with a thousand columns has 1 MB at most


class UnreadableJournalError(Exception):
    """The journal has no header line, or its lines do not match the header."""


def publish(journal: Path, url: str, name: str) -> tuple[int, int]:
    """Write the decisions of `journal` to date=.../NAME.parquet under `url`; return (decisions, skipped lines).

    Atomic and idempotent: a retry after a crash replaces the file. Truncated lines are skipped. The journal is not
    changed. Raises UnreadableJournalError, or DataError if `url` cannot be written.
    """
    table, skipped = read(journal)
    _make_private(url)
    days = pc.cast(table["time"], pa.date32())
    dates = sorted(pc.unique(days).to_pylist())
    for day in dates:
        part = table if len(dates) == 1 else table.filter(pc.equal(days, pa.scalar(day, pa.date32())))
        _write(part, f"{url.rstrip('/')}/date={day or dt.date(1970, 1, 1)}/{name}.parquet")
    return len(table), skipped


def read(journal: Path) -> tuple[pa.Table, int]:
    """The decisions of a journal and the number of truncated lines. Raises UnreadableJournalError."""
    content = journal.read_bytes()
    start = content.find(b"\n") + 1
    schemas = _schemas(journal, content[:start])
    singles, blocks, skipped = blocks_of(content[start:], schemas[0])
    in_blocks = pa.Table.from_batches(blocks, schemas[0])
    try:
        return pa.concat_tables([_parsed(pa.py_buffer(singles), *schemas), in_blocks]), skipped
    except pa.ArrowInvalid:
        pass
    complete = []
    for line in singles.split(b"\n"):
        if _is_json(line):
            complete.append(line)
        elif line:
            skipped += 1
    try:
        return pa.concat_tables([_parsed(pa.py_buffer(b"\n".join(complete)), *schemas), in_blocks]), skipped
    except pa.ArrowInvalid as error:
        raise UnreadableJournalError(f"{journal}: its lines do not match its header ({error})") from None


def read_from(journal: Path, start: int, names: Collection[str], model: str) -> tuple[pa.Table, int]:
    """Read the inputs of a model's decisions in a journal from byte `start` (0: all); return them and the end offset.

    names: the input columns to read; those that the journal lacks are left out. model: the name of the model. The
    journal may still be written to. Truncated lines are skipped. Raises UnreadableJournalError, OSError.
    """
    with journal.open("rb") as file:
        header = file.readline()
        if not header.endswith(b"\n"):  # the header is not written yet
            return pa.table({}), start
        schemas = _schemas(journal, header)
        file.seek(max(start, len(header)))
        lines = file.read()
    lines = lines[: lines.rfind(b"\n") + 1]
    end = max(start, len(header)) + len(lines)
    if INPUTS not in schemas[0].names:
        return pa.table({}), end
    singles, blocks, _ = blocks_of(lines, schemas[0])
    # Parse the inputs and the model only: the thirty other fields of a decision cost ten times as much.
    asked, as_sent = (_only(schema.field(INPUTS).type, names) for schema in schemas)
    try:
        parsed = _parsed(pa.py_buffer(singles), asked, as_sent)
    except pa.ArrowInvalid:
        good = [line for line in singles.split(b"\n") if line and _is_json(line)]
        try:
            parsed = _parsed(pa.py_buffer(b"\n".join(good)), asked, as_sent)
        except pa.ArrowInvalid as error:
            raise UnreadableJournalError(f"{journal}: its lines do not match its header ({error})") from None
    kind = asked.field(INPUTS).type
    in_blocks = [pa.record_batch([block[MODEL], _fields(block[INPUTS], kind)], schema=asked) for block in blocks]
    rows = pa.concat_tables([parsed, pa.Table.from_batches(in_blocks, asked)])
    inputs = rows.filter(pc.equal(rows[MODEL], model))[INPUTS]
    return pa.table({field.name: pc.struct_field(inputs, field.name) for field in inputs.type}), end


def _only(inputs: pa.DataType, names: Collection[str]) -> pa.Schema:
    """The schema of the model's name and the inputs, with these columns."""
    columns = pa.struct([field for field in inputs if field.name in names])
    return pa.schema([pa.field(MODEL, pa.string()), pa.field(INPUTS, columns)])


def _fields(inputs: pa.StructArray, kind: pa.DataType) -> pa.StructArray:
    """Select the fields of `kind`, in its order."""
    return pa.StructArray.from_arrays([pc.struct_field(inputs, field.name) for field in kind], fields=list(kind))


def _schemas(journal: Path, header: bytes) -> tuple[pa.Schema, pa.Schema]:
    try:
        return table_schemas(header)
    except (msgspec.MsgspecError, KeyError, TypeError, AttributeError) as error:
        raise UnreadableJournalError(f"{journal}: the header line is missing or invalid ({error})") from None


def _is_json(line: bytes) -> bool:
    try:
        return isinstance(msgspec.json.decode(line), dict)
    except msgspec.MsgspecError:
        return False


def _parsed(lines: pa.Buffer, schema: pa.Schema, as_sent: pa.Schema) -> pa.Table:
    if not lines.size:
        return schema.empty_table()
    # Arrow parses without the GIL, so no request waits. One thread: requests need the other cores.
    table = pj.read_json(
        pa.BufferReader(lines),
        read_options=pj.ReadOptions(use_threads=False, block_size=_BLOCK),
        parse_options=pj.ParseOptions(explicit_schema=as_sent, unexpected_field_behavior="ignore"),
    )
    return table.select(schema.names).cast(schema)


def write_durably(path: str, put: Callable[[IO[bytes]], object]) -> None:
    """Write a file atomically and, on a disk, force it there: what it replaces is deleted next. Raises DataError."""

    def put_and_sync(stream: IO[bytes]) -> None:
        put(stream)
        if isinstance(stream, io.BufferedWriter):
            stream.flush()
            os.fsync(stream.fileno())

    tables.write(path, put_and_sync)
    filesystem, target = filesystems.of(path)
    if "file" in filesystem.protocol:
        folder = os.open(Path(target).parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _write(table: pa.Table, path: str) -> None:
    write_durably(path, lambda stream: pq.write_table(table, stream, compression="zstd"))


def _make_private(url: str) -> None:
    filesystem, target = filesystems.of(url)
    if "file" in filesystem.protocol:
        Path(target).mkdir(mode=0o700, parents=True, exist_ok=True)
