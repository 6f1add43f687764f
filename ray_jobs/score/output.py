"""What batch scoring is asked for, and what its stream brings: rows, parts, refused rows, counts, progress."""

from __future__ import annotations

import datetime as dt
import logging
import time
from collections.abc import Callable, Iterator
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

ROW_GROUP = 262_144  # rows; fixed, so that the same input and model give the same bytes however many actors scored
PROGRESS_SECONDS = 5.0
Put = Callable[[str, dict[str, Any], memoryview], None]
_MOST_REFUSED = 1_000_000
_OTHER_KINDS = (".csv", ".gz", ".pq", ".parq", ".json", ".jsonl", ".ndjson", ".xlsx")
_FAILURES = {kind.__name__: kind for kind in (SchemaError, DataError, ConfigError, BundleError, RegistryError)}


@dataclass(frozen=True, kw_only=True)
class Job:
    """What to score, and where the answers go.

    data, out, quarantine: paths or URLs; an `out` that does not end in .parquet is a folder with a folder a day in it.
    model: alias, version or bundle folder. reasons: explain flagged rows. date: with a timestamp column, only the rows
    of this day are written. other_days: whether a day's file with rows of a neighbouring day stops the job.
    history_partitions: parts of the replay of entity history; None lets their number follow the rows. history_data:
    daily transactions, to make missing days of the entity history. stale_history: score with the history that there is.
    rows_on_ray: from how many rows on Ray is started or joined. force: replace what is there.
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
            raise ConfigError(f"--quarantine {self.refused!r} has another ending: name a file ending in .parquet")
        if self.history_partitions is not None and self.history_partitions < 1:
            raise ConfigError(f"--history-partitions {self.history_partitions} must be 1 or more")
        if self.rows_on_ray is not None and self.rows_on_ray < 0:
            raise ConfigError(f"--rows-on-ray {self.rows_on_ray} must be 0 or more")
        if len({self.data, self.out, self.refused}) < 3:
            raise ConfigError("--data, --out and --quarantine must be three different files")

    @property
    def is_partitioned(self) -> bool:
        """Whether the output is a folder with a folder a day in it."""
        return not self.out.endswith(".parquet")

    @property
    def refused(self) -> str:
        """Where refused rows go: a file, or a folder with a folder a day in it."""
        if self.is_partitioned:
            return f"{self.out.rstrip('/')}/{QUARANTINE}"
        return self.quarantine or f"{self.out.removesuffix('.parquet')}.quarantine.parquet"


def parquet_options(schema: pa.Schema) -> dict[str, Any]:
    """How scored rows are written.

    A dictionary pays for texts only, and takes longer than all else on numbers. zstd would make files a quarter smaller
    and takes half as long again (0.44 against 0.27 us a row).
    """
    texts = [field.name for field in schema if pa.types.is_string(field.type) or pa.types.is_large_string(field.type)]
    return {"compression": "snappy", "use_dictionary": texts}


def counts(scored: int, flagged: int, refused: int, outside: int) -> dict[str, int]:
    """The rows of a manifest."""
    return {
        "read": scored + refused + outside,
        "scored": scored,
        "flagged": flagged,
        "quarantined": refused,
        "other_days": outside,
    }


def completion(began: float) -> dict[str, Any]:
    """End time and duration of a job, for its manifest. began: time.monotonic() at the start."""
    now = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    return {"created": now, "seconds": round(time.monotonic() - began, 2)}


class Collector:
    """Takes the stream apart: scored tables in whole row groups; counts, refused rows and warnings on the side.

    total: rows to read, where that is known. put: takes refused rows and parts of the output, each as the kind of its
    note, what the note says and the bytes of a Parquet file; without one, refused rows stay here (`refused_rows`).
    """

    def __init__(self, stream: Iterator[pa.Table], total: int | None = None, put: Put | None = None) -> None:
        self._stream = stream
        self._total = total
        self._put = put
        self.rows = self.flagged = self.refused = self.learnt = 0
        self.other_days = OtherDays()
        self._dated = 0  # refused rows whose day is known
        self.warnings: list[str] = []
        self._refused_tables: list[pa.Table] = []
        self._example = ""

    @property
    def outside(self) -> int:
        """Rows of other days than the one that was asked for."""
        return self.other_days.rows

    @property
    def read(self) -> int:
        """Rows that were read so far, good or not."""
        return self.rows + self.outside + self.refused

    def refused_rows(self) -> pa.Table | None:
        """Refused rows that were kept, in their order; None without one."""
        tables = self._refused_tables
        return pa.concat_tables(tables, promote_options="default").sort_by("row") if tables else None

    def blocks(self) -> Iterator[pa.Table]:
        """Yield what is rows in each block, and say now and then how far the work is."""
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
            if not reported:  # what came before was starting up, and its speed says nothing
                reported, before = now, self.read
            elif now - reported >= PROGRESS_SECONDS:
                self._report((self.read - before) / (now - reported))
                reported, before = now, self.read
        self._report(self.read / (time.monotonic() - began))

    def tables(self) -> Iterator[pa.Table]:
        """Yield the scored rows, `ROW_GROUP` a table but for the last; nothing if no row was good."""
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
        """Raise DataError where other rows came out than were to be read."""
        if self._total is not None and self.read != self._total:
            raise DataError(f"{self.read:,} rows came back of {self._total:,} that were read: run it again")

    def check_other_days(self, job: Job, zone: str) -> None:
        """Warn of rows of other days, or raise DataError, as `OtherDays.check` says. zone: in which days begin."""
        if job.date is not None and not self.are_all_refused:
            own_rows = self.rows + self.refused
            for warning in self.other_days.check(job.data, job.date, zone, own_rows, job.other_days):
                self._warn(warning)

    def check_learnt(self, learnt_until: str | None) -> None:
        """Warn where rows are no newer than what the model learnt from."""
        if self.learnt:
            self._warn(
                f"{self.learnt:,} of {self.rows:,} scored rows are from the time that the model learnt from (through "
                f"{learnt_until}): how well it does on them says nothing, and monitoring.performance leaves them out"
            )

    @property
    def are_all_refused(self) -> bool:
        """Whether no row was good and some of those that were asked for were refused."""
        return not self.rows and bool(self._dated or (self.refused and not self.outside))

    def no_rows_error(self, path: str) -> DataError:
        """Say why there is nothing to write."""
        if self.are_all_refused:
            return DataError(f"{path}: none of {self.refused:,} rows fits the schema; {self._example}")
        return DataError(f"{path}: none of {self.outside:,} rows is of the wanted --date; check the date")

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
