"""Reads transactions from the decision log: the journals of this machine, then all Parquet files, each once."""

from __future__ import annotations

import datetime as dt
import logging
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds

from fraud.data import filesystems, partitions
from fraud.errors import DataError, FraudError
from fraud.schema import Column, Schema
from fraud.settings.serving import DecisionSettings
from serve_app.decisions.files import UnreadableJournalError, read_from
from serve_app.decisions.journal import SUFFIX, writer_folders
from serve_app.decisions.rows import INPUTS, MODEL

logger = logging.getLogger(__name__)

_TRIES = 5
_DAY = dt.timedelta(days=1)
_TYPES = {"numeric": pa.float64(), "boolean": pa.float64(), "timestamp": pa.timestamp("us")}


class DecisionReader:
    """Reads the columns `names` of the transactions that `model` decided. Each call continues where the last one ended.

    model: a name of the registry; every version of it counts. Two models may share a log: the cards of one are not
    those of the other. Decisions of other machines appear when they become Parquet, within a minute. Not thread-safe.
    """

    def __init__(self, settings: DecisionSettings, schema: Schema, names: Sequence[str], *, model: str) -> None:
        self._settings, self._model = settings, model
        self._columns = [column for column in schema.columns if column.name in names]
        self._seen: set[str] = set()
        self._offsets: dict[Path, int] = {}
        self._unreadable: set[str] = set()

    @property
    def hidden(self) -> list[str]:
        """Requested columns that the log omits or hashes."""
        return [c.name for c in self._columns if c.name in (*self._settings.omitted, *self._settings.hashed)]

    @property
    def is_on(self) -> bool:
        """Whether there is a decision log."""
        return self._settings.url is not None

    def read(self, since: dt.date | None = None) -> Iterator[pa.Table]:
        """Yield the unread transactions, one table per file, with the columns `names`; missing ones are null.

        since: first day (UTC) to read, default all. Raises DataError if the log cannot be read.
        """
        if not self.is_on:
            return
        yield from self._journals()  # journals first: one that is published meanwhile is then among the files
        try:
            yield from self._files(since)
        except (OSError, ValueError, ImportError, pa.ArrowException, FraudError) as error:
            raise DataError(f"the decision log {self._settings.url} cannot be read ({error})") from error

    def _files(self, since: dt.date | None) -> Iterator[pa.Table]:
        filesystem, root = filesystems.of(str(self._settings.url))
        filesystem.invalidate_cache()
        if not filesystem.exists(root):
            return
        folders = [path for path in filesystem.ls(root, detail=False) if "/date=" in path]
        if since is not None:  # a request's time may be slightly ahead of its decision's day
            folders = [path for path in folders if path.rpartition("/date=")[2] >= (since - _DAY).isoformat()]
        for folder in sorted(folders):
            for _ in range(_TRIES):
                try:
                    yield from self._day(filesystem, folder)
                    break
                except FileNotFoundError:  # merged or deleted since it was listed: list again
                    continue

    def _day(self, filesystem: Any, folder: str) -> Iterator[pa.Table]:
        """Yield what is unread of a day. A merged file is skipped if all files in it were read."""
        paths = [path for path in sorted(filesystem.ls(folder, detail=False)) if path.endswith(".parquet")]
        if self._seen.issuperset(paths):
            return
        index = partitions.read_index(filesystem, folder) if any(map(partitions.is_merged, paths)) else {}
        for path in partitions.current(paths, index):
            sources = {f"{folder}/{name}": n for name, n in index.get(posixpath.basename(path), {}).items()}
            table = None
            if path not in self._seen and not (sources and self._seen.issuperset(s for s, n in sources.items() if n)):
                table = self._readable(filesystem, path)
            if table is not None and sources:
                table = self._unread(table, sources)
            self._seen.update((path, *sources))
            if table is not None:
                yield table

    def _unread(self, table: pa.Table, sources: Mapping[str, int]) -> pa.Table:
        """The rows of a merged file that come from files not read yet."""
        parts, start = [table.slice(0, 0)], 0
        for source, n in sources.items():
            parts += [] if source in self._seen else [table.slice(start, n)]
            start += n
        return pa.concat_tables(parts)

    def _readable(self, filesystem: Any, path: str) -> pa.Table | None:
        try:
            return self._read_file(filesystem, path)
        except (pa.ArrowInvalid, pa.ArrowTypeError, KeyError) as error:
            self._warn_once(path, error)
            return None

    def _read_file(self, filesystem: object, path: str) -> pa.Table | None:
        file = ds.dataset(path, filesystem=filesystem, format="parquet")
        if INPUTS not in file.schema.names:
            return None
        logged = {field.name for field in file.schema.field(INPUTS).type}
        fields = {c.name: ds.field(INPUTS, c.name) for c in self._columns if c.name in logged}
        of_model = ds.field(MODEL) == self._model
        return self._with_all(file.to_table(columns=fields, filter=of_model), self._columns) if fields else None

    def _journals(self) -> Iterator[pa.Table]:
        paths = {path: None for folder in writer_folders(self._settings.journal) for path in folder.glob(f"*{SUFFIX}")}
        self._offsets = {path: end for path, end in self._offsets.items() if path in paths}
        for path in sorted(paths):
            start = self._offsets.get(path, 0)
            try:
                if path.stat().st_size <= start:
                    continue
                table, self._offsets[path] = read_from(path, start, {c.name for c in self._columns}, self._model)
                if len(table):
                    yield self._with_all(table, self._columns)
            except FileNotFoundError:
                continue
            except (OSError, UnreadableJournalError, pa.ArrowException) as error:
                self._warn_once(str(path), error)

    @staticmethod
    def _with_all(table: pa.Table, columns: Sequence[Column]) -> pa.Table:
        kinds = [(c.name, _TYPES.get(c.kind, pa.string())) for c in columns]
        return pa.table(
            {name: table[name].cast(kind) if name in table.column_names else pa.nulls(len(table), kind)
             for name, kind in kinds}
        )  # fmt: skip

    def _warn_once(self, path: str, error: Exception) -> None:
        if path not in self._unreadable:
            self._unreadable.add(path)
            logger.warning("decisions in %s cannot be read and are skipped (%s)", path, error)


def frame_of(table: pa.Table, schema: Schema) -> pd.DataFrame:
    """Convert a table to rows as fraud.schema.validation returns them. Drops rows without a time."""
    frame = table.to_pandas()
    for column in schema.columns:
        if column.name in frame:
            if column.kind in ("numeric", "boolean"):
                frame[column.name] = frame[column.name].astype("float64")
            elif column.kind == "timestamp":
                frame[column.name] = frame[column.name].astype("datetime64[us]")
            elif column.kind != "label":
                frame[column.name] = frame[column.name].astype("str")
    assert schema.timestamp is not None
    return frame[frame[schema.timestamp.name].notna()].reset_index(drop=True)
