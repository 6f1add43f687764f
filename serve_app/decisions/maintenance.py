"""Merges the small files of the decision log into one per day, and deletes old days.

Readers see every decision once at each moment; fraud.data.partitions says how. Works on every store. On a disk and in
S3 one process at a time does it.
"""

from __future__ import annotations

import datetime as dt
import json
import logging
import posixpath
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from fraud.data import filesystems, leases, partitions
from fraud.data.locks import exclusive
from fraud.errors import ConfigError, DataError
from serve_app.decisions.files import write_durably

logger = logging.getLogger(__name__)

FEWEST_FILES = 60  # of a day that is not over: fewer are not worth a merge
MOST_ROWS = 5_000_000  # of a merged file
_GROUP_ROWS = 100_000  # of a row group, and in memory
_LATE = dt.timedelta(hours=1)  # a day is over, and its last files are written


@dataclass(frozen=True, kw_only=True)
class Day:
    """The Parquet files of one UTC day, with the name of the folder's file system. n_bytes: their size."""

    date: str
    folder: str
    files: tuple[str, ...]
    n_bytes: int


class DecisionFolder:
    """The Parquet files of a decision log. url: folder or URL. Raises ConfigError for an unknown kind of URL."""

    def __init__(self, url: str) -> None:
        try:
            self._filesystem, root = filesystems.of(url)
        except (ImportError, ValueError) as error:
            raise ConfigError(f"{url}: {error}; name the folder or URL of FRAUD_DECISIONS") from None
        self._url, self._root = url, root.rstrip("/")

    def days(self) -> list[Day]:
        """Every day with a file, oldest first. Raises DataError."""
        self._filesystem.invalidate_cache()
        try:
            paths = self._filesystem.ls(self._root, detail=False) if self._filesystem.exists(self._root) else []
            folders = sorted(path.rstrip("/") for path in paths if "/date=" in path)
            return [day for day in map(self._day, folders) if day.files]  # some stores keep empty folders
        except OSError as error:
            raise DataError(f"{self._url} cannot be read as a decision log ({error})") from None

    def merge(
        self, *, now: dt.datetime, last_days: int | None = None, fewest: int = FEWEST_FILES
    ) -> list[tuple[Day, Day]]:
        """Merge all files of each day that is over, and those of today that are not merged if there are `fewest`.

        now: UTC. last_days: so many days before today, default all. Returns (before, after) of each day that changed.
        Raises DataError; AlreadyLockedError if another process merges or deletes.
        """
        first = "" if last_days is None else f"{now.date() - dt.timedelta(days=last_days)}"
        changed = []
        with self.locked() as confirm:
            for day in self.days():
                is_over = day.date < f"{(now - _LATE).date()}"
                if day.date >= first and self._merge(day, is_over, fewest, confirm):
                    changed.append((day, self._day(day.folder)))
        return changed

    def older_than(self, age: dt.timedelta, *, now: dt.datetime) -> list[Day]:
        """The days that ended at least `age` before `now` (UTC)."""
        first_kept = f"{(now - age).date()}"
        return [day for day in self.days() if day.date < first_kept]

    def delete(self, days: Sequence[Day]) -> None:
        """Delete these days."""
        with self.locked():
            for day in days:
                self._filesystem.rm(day.folder, recursive=True)

    @contextmanager
    def locked(self) -> Iterator[Callable[[], None]]:
        """Keep other processes from merging and deleting; yields a check that this is still so.

        On a disk raises AlreadyLockedError if another process holds the lock; in S3 waits for it.
        """
        if "file" in self._filesystem.protocol:
            with exclusive(Path(self._root) / partitions.MAINTENANCE_LOCK, wait=False):
                yield lambda: None
        elif filesystems.is_s3(self._filesystem):
            with leases.acquire(self._filesystem, f"{self._root}/{partitions.MAINTENANCE_LOCK}") as lease:
                yield lease.renew
        else:
            yield lambda: None

    def _day(self, folder: str) -> Day:
        entries = [e for e in self._filesystem.ls(folder, detail=True) if e["name"].endswith(".parquet")]
        return Day(
            date=folder.rpartition("/date=")[2],
            folder=folder,
            files=tuple(sorted(entry["name"] for entry in entries)),
            n_bytes=sum(entry["size"] or 0 for entry in entries),
        )

    def _merge(self, day: Day, is_over: bool, fewest: int, confirm: Callable[[], None]) -> bool:
        index = partitions.read_index(self._filesystem, day.folder)
        current = partitions.current(day.files, index)
        left = [path for path in day.files if path not in set(current)]  # by a merge that was interrupted
        self._remove(left)
        candidates = current if is_over else [path for path in current if not partitions.is_merged(path)]
        chunks = self._chunks(candidates) if len(candidates) >= (2 if is_over else fewest) else []
        for chunk in chunks:
            name = f"{partitions.MERGED_PREFIX}{dt.datetime.now(dt.UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}.parquet"
            rows = self._write(chunk, f"{day.folder}/{name}")
            sources: dict[str, int] = {}
            for source in map(posixpath.basename, chunk):
                inner = index.pop(source, None)
                sources |= {source: rows[source]} if inner is None else {**inner, source: 0}
            index[name] = sources
        if chunks:
            confirm()
            content = json.dumps(index).encode()
            write_durably(
                self._address(f"{day.folder}/{partitions.MERGED_INDEX}"), lambda stream: stream.write(content)
            )
            self._remove([path for chunk in chunks for path in chunk])
        return bool(left or chunks)

    def _chunks(self, paths: Sequence[str]) -> list[list[str]]:
        """Files to merge with one another, in order of time: of one Arrow schema, MOST_ROWS or fewer in all."""
        footers = []
        for path in paths:
            try:
                with self._filesystem.open(path, "rb") as raw:
                    file = pq.ParquetFile(raw)
                    schema, rows = str(file.schema_arrow.remove_metadata()), file.metadata.num_rows
                    footers.append((_first_time(file.metadata), path, schema, rows))
            except (pa.ArrowException, OSError) as error:
                logger.warning("%s cannot be read and stays as it is (%s)", path, error)
        chunks: list[list[str]] = []
        newest: dict[str, tuple[list[str], int]] = {}
        for _, path, schema, rows in sorted(footers):
            chunk, n = newest.get(schema, ([], MOST_ROWS + 1))
            if n + rows > MOST_ROWS:
                chunk, n = [], 0
                chunks.append(chunk)
            chunk.append(path)
            newest[schema] = chunk, n + rows
        return [chunk for chunk in chunks if len(chunk) > 1]

    def _write(self, paths: Sequence[str], target: str) -> dict[str, int]:
        """Write the rows of `paths` one after the other; return the number of each by name."""
        rows: dict[str, int] = {}

        def put(stream: IO[bytes]) -> None:
            writer: pq.ParquetWriter | None = None
            waiting: list[pa.Table] = []
            for path in paths:
                with self._filesystem.open(path, "rb") as raw:
                    table = pq.ParquetFile(raw).read()
                writer = writer or pq.ParquetWriter(stream, table.schema, compression="zstd")
                rows[posixpath.basename(path)] = len(table)
                waiting.append(table)
                if sum(map(len, waiting)) >= _GROUP_ROWS:
                    writer.write_table(pa.concat_tables(waiting), row_group_size=_GROUP_ROWS)
                    waiting = []
            assert writer is not None
            if waiting:
                writer.write_table(pa.concat_tables(waiting), row_group_size=_GROUP_ROWS)
            writer.close()

        write_durably(self._address(target), put)
        with self._filesystem.open(target, "rb") as raw:
            written = pq.ParquetFile(raw).metadata.num_rows
        if written != sum(rows.values()):
            self._remove([target])
            raise DataError(f"{target} has {written:,} of {sum(rows.values()):,} rows: nothing was merged; try again")
        return rows

    def _address(self, path: str) -> str:
        return str(self._filesystem.unstrip_protocol(path))

    def _remove(self, paths: Sequence[str]) -> None:
        for path in paths:
            self._filesystem.rm_file(path)


def _first_time(metadata: pq.FileMetaData) -> str:
    """The earliest "time" of a file, from the statistics of its row groups; "" if it has none."""
    columns = [metadata.row_group(i).column(0) for i in range(metadata.num_row_groups)]
    times = [c.statistics.min for c in columns if c.path_in_schema == "time" and c.statistics is not None]
    return f"{min(times)}" if times else ""
