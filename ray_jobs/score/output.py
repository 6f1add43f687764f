"""The job of batch scoring, and the collector of its stream: rows, parts, refused rows, counts, progress."""

from __future__ import annotations

import datetime as dt
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fraud.data.partitions import QUARANTINE
from fraud.errors import BundleError, ConfigError, DataError, FraudError, RegistryError, SchemaError
from ray_jobs.score.other_days import OtherDays, Policy
from ray_jobs.streaming.checked_blocks import notes_in, without_notes

logger = logging.getLogger(__name__)

ROW_GROUP = 262_144  # rows; fixed, so that the output bytes do not depend on the number of actors
PROGRESS_SECONDS = 5.0
Put = Callable[[str, dict[str, Any], memoryview], None]
_MOST_REFUSED = 1_000_000
_OTHER_KINDS = (".csv", ".gz", ".pq", ".parq", ".json", ".jsonl", ".ndjson", ".xlsx")
_FAILURES = {kind.__name__: kind for kind in (SchemaError, DataError, ConfigError, BundleError, RegistryError)}


@dataclass(frozen=True, kw_only=True)
class Job:
    """What to score, and where to write.

    data, out, quarantine: paths or URLs; an `out` without the ending .parquet is a folder with one folder per day.
    model: alias, version or bundle folder. reasons: explain flagged rows. date: write only the rows of this day (with a
    timestamp column). other_days: whether a day's file with rows of an adjacent day stops the job. history_partitions:
    parts of the replay of entity history; default by number of rows. history_data: daily transactions, to build missing
    days of the entity history. stale_history: score even if days are missing. rows_on_ray: number of rows above which
    Ray is used. force: replace an existing output.
    """

    data: str
    out: str
    quarantine: str | None = None
    model: str = "champion"
    reasons: bool = True
    date: dt.date | None = None
    other_days: Policy = "stop"
    history_partitions: int | None = None
    history_data: str | None = None
    stale_history: bool = False
    rows_on_ray: int | None = None
    force: bool = False

    def __post_init__(self) -> None:
        if self.is_partitioned:
            extension = PurePosixPath(self.out).suffix.lower()
            if extension in _OTHER_KINDS:
                raise ConfigError(
                    f"--out {self.out!r} ends in {extension}: name a file ending in .parquet, or a folder for many days"
                )
            if self.quarantine is not None:
                raise ConfigError(
                    "--quarantine is for a single file: refused rows go to _quarantine in the folder --out"
                )
        elif not self.refused.endswith(".parquet"):
            raise ConfigError(f"--quarantine {self.refused!r} must end in .parquet")
        if self.history_partitions is not None and self.history_partitions < 1:
            raise ConfigError(f"--history-partitions {self.history_partitions} must be 1 or more")
        if self.rows_on_ray is not None and self.rows_on_ray < 0:
            raise ConfigError(f"--rows-on-ray {self.rows_on_ray} must be 0 or more")
        if len({self.data, self.out, self.refused}) < 3:
            raise ConfigError("--data, --out and --quarantine must be three different files")

    @property
    def is_partitioned(self) -> bool:
        """Whether the output is a folder with one folder per day."""
        return not self.out.endswith(".parquet")

    @property
    def refused(self) -> str:
        """Where refused rows go: a file, or a folder with one folder per day."""
        if self.is_partitioned:
            return f"{self.out.rstrip('/')}/{QUARANTINE}"
        return self.quarantine or f"{self.out.removesuffix('.parquet')}.quarantine.parquet"


def parquet_options(schema: pa.Schema) -> dict[str, Any]:
    """Options for writing scored rows.

    Dictionaries help only for texts, and are slow for numbers. zstd makes files 25 % smaller and takes 60 % longer
    (0.44 against 0.27 us per row).
    """
    texts = [field.name for field in schema if pa.types.is_string(field.type) or pa.types.is_large_string(field.type)]
    return {"compression": "snappy", "use_dictionary": texts}


def counts(scored: int, flagged: int, refused: int, outside: int) -> dict[str, int]:
    """The `rows` entry of a manifest."""
    return {
        "read": scored + refused + outside,
        "scored": scored,
        "flagged": flagged,
        "quarantined": refused,
        "other_days": outside,
    }


_DIFFERENCES = {
    "input_fingerprint": "other data", "bundle_sha256": "another model", "model_version": "another model",
    "reasons": "another --reasons", "date": "another --date",
}  # fmt: skip


def made_otherwise(differing: Sequence[str]) -> str:
    """The end of an error about an output. differing: entries of its identity that this job has otherwise."""
    differences = dict.fromkeys(_DIFFERENCES.get(name, name) for name in differing)
    return f"was made with {', '.join(differences)}: give another --out, or --force to replace it"


def completion(began: float) -> dict[str, Any]:
    """End time and duration of a job, for its manifest. began: time.monotonic() at the start."""
    now = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    return {"created": now, "seconds": round(time.monotonic() - began, 2)}


class Collector:
    """Collects a stream: scored tables in full row groups, counts, refused rows and warnings.

    total: rows to read, if known. put: called with each batch of refused rows and each part: kind, note, and the bytes
    of a Parquet file. Without it, refused rows are in `refused_rows`.
    """

    def __init__(self, stream: Iterator[pa.Table], total: int | None = None, put: Put | None = None) -> None:
        self._stream = stream
        self._total = total
        self._put = put
        self.rows = self.flagged = self.refused = self.learnt = 0
        self.other_days = OtherDays()
        self._dated = 0  # refused rows with a known day
        self.warnings: list[str] = []
        self._refused_tables: list[pa.Table] = []
        self._example = ""

    @property
    def outside(self) -> int:
        """Rows of other days than the requested one."""
        return self.other_days.rows

    @property
    def read(self) -> int:
        """Rows read so far, good or bad."""
        return self.rows + self.outside + self.refused

    def refused_rows(self) -> pa.Table | None:
        """The refused rows in order; None if there are none."""
        tables = self._refused_tables
        return pa.concat_tables(tables, promote_options="default").sort_by("row") if tables else None

    def blocks(self) -> Iterator[pa.Table]:
        """Yield the rows of each block, and log progress."""
        began, reported, before = time.monotonic(), 0.0, 0
        for block in self._stream:
            rows, notes = without_notes(block)
            for note, content in notes_in(notes):
                self._take(note, content)
            if rows.column_names and len(rows):
                self.rows += len(rows)
                if "is_fraud" in rows.column_names:
                    self.flagged += pc.sum(rows["is_fraud"]).as_py() or 0
                yield rows
            now = time.monotonic()
            if not reported:  # the time before this includes the start, so it gives no rate
                reported, before = now, self.read
            elif now - reported >= PROGRESS_SECONDS:
                self._report((self.read - before) / (now - reported))
                reported, before = now, self.read
        self._report(self.read / (time.monotonic() - began))

    def tables(self) -> Iterator[pa.Table]:
        """Yield the scored rows in tables of `ROW_GROUP` rows; the last may be shorter."""
        waiting: list[pa.Table] = []
        for rows in self.blocks():
            waiting.append(rows)
            if sum(map(len, waiting)) >= ROW_GROUP:
                joined = pa.concat_tables(waiting)
                cut = len(joined) // ROW_GROUP * ROW_GROUP
                for at in range(0, cut, ROW_GROUP):
                    yield joined.slice(at, ROW_GROUP).combine_chunks()
                waiting = [joined.slice(cut)]
        rest = pa.concat_tables(waiting) if waiting else None
        if rest is not None and len(rest):
            yield rest.combine_chunks()

    def check_total(self) -> None:
        """Raise DataError if the number of rows differs from `total`."""
        if self._total is not None and self.read != self._total:
            raise DataError(f"{self.read:,} of {self._total:,} rows came back: run it again")

    def check_other_days(self, job: Job, zone: str) -> None:
        """Warn about rows of other days, or raise DataError; see `OtherDays.check`. zone: of the days."""
        if job.date is not None and not self.are_all_refused:
            own_rows = self.rows + self.refused
            for warning in self.other_days.check(job.data, job.date, zone, own_rows, job.other_days):
                self._warn(warning)

    def check_learnt(self, learnt_until: str | None) -> None:
        """Warn if rows are from the time that the model learned from."""
        if self.learnt:
            self._warn(
                f"{self.learnt:,} of {self.rows:,} scored rows are from the time that the model learned from (through "
                f"{learnt_until}): its performance on them means nothing, and monitoring.performance ignores them"
            )

    @property
    def are_all_refused(self) -> bool:
        """Whether no row was good, and rows of the requested day were refused."""
        return not self.rows and bool(self._dated or (self.refused and not self.outside))

    def no_rows_error(self, path: str) -> DataError:
        """The error if there is nothing to write."""
        if self.are_all_refused:
            return DataError(f"{path}: none of {self.refused:,} rows fits the schema; {self._example}")
        return DataError(f"{path}: none of {self.outside:,} rows is of the --date; check the date")

    def _report(self, rate: float) -> None:
        if self._total:
            share, left = self.read / self._total, (self._total - self.read) / max(rate, 1.0)
            progress = (
                f"{self.read:,} of {self._total:,} rows ({share:.0%}), {rate:,.0f} rows/s, about {left:,.0f} s left"
            )
        else:
            progress = f"{self.read:,} rows, {rate:,.0f} rows/s"
        logger.info("%s", progress)

    def _warn(self, warning: str) -> None:
        if warning not in self.warnings:
            self.warnings.append(warning)
            logger.warning("%s", warning)

    def _take(self, note: dict[str, Any], content: pa.Buffer | None) -> None:
        if "failure" in note:
            raise _FAILURES.get(note["failure"], FraudError)(note["text"])
        if "part" in note:
            self.rows += note["part"]["rows"]
            self.flagged += note["part"]["flagged"]
            self.learnt += note["part"]["learnt"]
            assert self._put is not None and content is not None
            self._put("part", note["part"], memoryview(content))
        elif "quarantine" in note:
            about, rows = note["quarantine"], pa.ipc.open_stream(content).read_all()
            self.refused += about["rows"]
            self._dated += about["rows"] if about.pop("is_dated") else 0
            self._example = about.pop("example")
            if self._put is not None:
                sink = pa.BufferOutputStream()
                pq.write_table(rows, sink, compression="zstd")
                self._put("quarantine", about, memoryview(sink.getvalue()))
            else:
                self._refused_tables.append(rows)
            if self.refused > max(self.rows, _MOST_REFUSED):
                raise DataError(
                    f"{self.refused:,} rows were refused and only {self.rows:,} scored: the file does not fit the "
                    f"model's schema; most recently, {self._example}"
                )
        elif "warning" in note:
            self._warn(note["warning"])
        elif "learnt" in note:
            self.learnt += note["learnt"]
        else:
            self.other_days.take(note)
