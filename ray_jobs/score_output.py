"""What batch scoring leaves behind: the scored file, the quarantine and the manifest, each whole or not at all."""

from __future__ import annotations

import datetime as dt
import json
import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import fsspec
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fraud import data
from fraud.errors import BundleError, ConfigError, DataError, FraudError, RegistryError, SchemaError

logger = logging.getLogger(__name__)

NOTE = "_note"  # the stream's column for what is said about rows rather than scored, as JSON
ROW_GROUP = 262_144  # rows; fixed, so that the same input and model give the same bytes however many actors scored
IDENTITY = b"fraud.score"  # key in the Parquet file's own metadata: what the file was made of
PROGRESS_SECONDS = 5.0
_MOST_REFUSED = 1_000_000
_FAILURES = {kind.__name__: kind for kind in (SchemaError, DataError, ConfigError, BundleError, RegistryError)}


@dataclass(frozen=True, kw_only=True)
class Job:
    """What to score, and where the answers go.

    data, out, quarantine: paths or URLs. model: alias, version or bundle folder. reasons: explain flagged rows. date:
    with a timestamp column, only the rows of this day (UTC) are written. history_partitions: parts of the replay of
    entity history; None lets their number follow the rows. force: replace what is there.
    """

    data: str
    out: str
    quarantine: str
    model: str = "champion"
    reasons: bool = True
    date: dt.date | None = None
    history_partitions: int | None = None
    force: bool = False

    def __post_init__(self) -> None:
        for flag, path in (("--out", self.out), ("--quarantine", self.quarantine)):
            if not path.endswith(".parquet"):
                raise ConfigError(f"{flag} {path!r} has another ending: name a file ending in .parquet")
        if self.history_partitions is not None and self.history_partitions < 1:
            raise ConfigError(f"--history-partitions {self.history_partitions} must be 1 or more")
        if len({self.data, self.out, self.quarantine}) < 3:
            raise ConfigError("--data, --out and --quarantine must be three different files")

    @property
    def manifest(self) -> str:
        """Where the manifest goes: beside the output."""
        return f"{self.out}.manifest.json"


def day(text: str) -> dt.date:
    """The day that --date names. Raises ConfigError."""
    try:
        return dt.date.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"--date {text!r} is not a day: write it as 2026-01-31") from None


class Collector:
    """Takes the stream apart: scored tables in whole row groups; counts, refused rows and warnings on the side."""

    def __init__(self, stream: Iterator[pa.Table]) -> None:
        self._stream = stream
        self.rows = self.flagged = self.outside = 0
        self.refused: list[dict[str, Any]] = []
        self.warnings: list[str] = []

    def tables(self) -> Iterator[pa.Table]:
        """Yield the scored rows, `ROW_GROUP` a table but for the last; nothing if no row was good."""
        start = reported = time.monotonic()
        waiting: list[pa.Table] = []
        for block in self._stream:
            is_note = pc.is_valid(block[NOTE])
            self._take_notes(block[NOTE].filter(is_note).to_pylist())
            rows = block.filter(pc.invert(is_note)).drop_columns([NOTE])
            if not rows.column_names:  # nothing but notes
                continue
            self.rows += len(rows)
            if "is_fraud" in rows.column_names:
                self.flagged += pc.sum(rows["is_fraud"]).as_py() or 0
            waiting.append(rows)
            if sum(map(len, waiting)) >= ROW_GROUP:
                whole = pa.concat_tables(waiting)
                cut = len(whole) // ROW_GROUP * ROW_GROUP
                for at in range(0, cut, ROW_GROUP):
                    yield whole.slice(at, ROW_GROUP).combine_chunks()
                waiting = [whole.slice(cut)]
            now = time.monotonic()
            if now - reported >= PROGRESS_SECONDS:
                reported = now
                logger.info("%s rows, %s rows/s", f"{self.rows:,}", f"{self.rows / (now - start):,.0f}")
        rest = pa.concat_tables(waiting) if waiting else None
        if rest is not None and len(rest):
            yield rest.combine_chunks()

    def complaint(self, path: str) -> DataError:
        """Say why there is nothing to write."""
        if not self.outside:
            return DataError(f"{path}: none of {len(self.refused):,} rows fits the schema; {self._example()}")
        return DataError(f"{path}: none of {self.outside:,} rows is of the wanted --date; check the date, which is UTC")

    def _take_notes(self, notes: list[str]) -> None:
        for note in map(json.loads, notes):
            if "failure" in note:
                raise _FAILURES.get(note["failure"], FraudError)(note["text"])
            if "refused" in note:
                self.refused.append(note["refused"])
            elif "warning" in note:
                self.warnings.append(note["warning"])
                logger.warning("%s", note["warning"])
            else:
                self.outside += note["outside"]
        if len(self.refused) > max(self.rows, _MOST_REFUSED):
            raise DataError(
                f"{len(self.refused):,} rows were refused and only {self.rows:,} scored: the file does not fit the "
                f"model's schema; most recently, {self._example()}"
            )

    def _example(self) -> str:
        last = self.refused[-1]
        return f"row {last['row']}, column {last['column']!r}: {last['value']!r} {last['reason']}"


def write(job: Job, found: Collector, identity: Mapping[str, Any]) -> None:
    """Drain the stream into the output and the quarantine. Raises DataError if there is no good row.

    identity: what the output is made of, kept in its own metadata so that one rename publishes both.
    """

    def put(file: Any) -> None:
        writer = None
        for table in found.tables():
            if writer is None:
                metadata = {IDENTITY: json.dumps(identity, sort_keys=True).encode()}
                writer = pq.ParquetWriter(file, table.schema.with_metadata(metadata), compression="zstd")
            writer.write_table(table.replace_schema_metadata(writer.schema.metadata), row_group_size=ROW_GROUP)
        if found.refused:
            data.write_parquet(pd.DataFrame(found.refused), job.quarantine)
        if writer is None:
            raise found.complaint(job.data)
        writer.close()

    data.write(job.out, put)
    if not found.refused:
        filesystem, stale = fsspec.core.url_to_fs(job.quarantine)
        if filesystem.exists(stale):
            filesystem.rm(stale)


def already_there(job: Job, identity: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the manifest of an output that is what this job would write; None when there is work to do.

    Raises DataError when the output is there, is something else, and may not be replaced.
    """
    filesystem, path = fsspec.core.url_to_fs(job.out)
    if job.force or not filesystem.exists(path):
        return None
    made_of = _identity(filesystem, path)
    if made_of is None:
        raise DataError(
            f"--out {job.out} exists and ray_jobs.score did not write it: name another file, or use --force"
        )
    differing = [name for name in identity if made_of.get(name) != identity[name]]
    if differing:
        raise DataError(
            f"--out {job.out} was made with another {', '.join(differing)}: name another file or replace it by --force"
        )
    manifest = _manifest(job)
    if manifest.get("output_fingerprint") == data.fingerprint(job.out):
        return manifest
    logger.warning("%s does not match its manifest (cut short, or altered): scoring again", job.out)
    return None


def _identity(filesystem: Any, path: str) -> dict[str, Any] | None:
    try:
        with filesystem.open(path, "rb") as file:
            return dict(json.loads((pq.ParquetFile(file).schema_arrow.metadata or {})[IDENTITY]))
    except (pa.ArrowException, OSError, KeyError, ValueError):
        return None


def _manifest(job: Job) -> dict[str, Any]:
    try:
        with fsspec.open(job.manifest, "rt") as text:
            return dict(json.load(text))
    except (OSError, ValueError, TypeError):
        return {}
