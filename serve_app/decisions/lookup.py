"""Finds single decisions by id: in the Parquet files, and in the journals of this machine."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds

from fraud.data import partitions
from fraud.data.files import find, is_empty, reading
from fraud.settings.serving import DecisionSettings
from serve_app.decisions.files import UnreadableJournalError, read
from serve_app.decisions.journal import SUFFIX, writer_folders
from serve_app.decisions.rows import INPUTS


def look_up(
    settings: DecisionSettings, value: str, column: str | None = None, since: dt.date | None = None
) -> list[dict[str, Any]]:
    """The decisions with this request id, or with this value in the input `column`; oldest first.

    since: first UTC day to search. Raises DataError if the log cannot be read.
    """
    tables = [*_in_journals(settings, value, column)]  # first: one that is published meanwhile is then in both
    tables += partitions.relisting(lambda: list(_in_files(str(settings.url), value, column, since)))
    rows = {json.dumps(row, default=str): row for table in tables for row in table.to_pylist()}
    return sorted(rows.values(), key=lambda row: row["time"])


def _in_files(url: str, value: str, column: str | None, since: dt.date | None) -> Iterator[pa.Table]:
    if is_empty(url):
        return
    filesystem, paths = find(url)
    for path in paths:
        day = partitions.day_of(path)
        if since is None or day is None or day >= since:
            with reading(path):
                yield _matching(ds.dataset(path, filesystem=filesystem, format="parquet"), value, column)


def _in_journals(settings: DecisionSettings, value: str, column: str | None) -> Iterator[pa.Table]:
    for folder in writer_folders(settings.journal):
        for path in sorted(folder.glob(f"*{SUFFIX}")):
            try:
                table, _ = read(path)
            except (FileNotFoundError, UnreadableJournalError):  # published meanwhile; or set aside by its replica
                continue
            yield _matching(ds.dataset(table), value, column)


def _matching(rows: ds.Dataset, value: str, column: str | None) -> pa.Table:
    field = ds.field("request_id")
    if column is not None:
        inputs = rows.schema.field(INPUTS).type if INPUTS in rows.schema.names else pa.struct([])
        if inputs.get_field_index(column) < 0:
            return rows.schema.empty_table()
        field = ds.field(INPUTS, column).cast(pa.string())
    return rows.to_table(filter=field == value)
