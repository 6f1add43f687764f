"""Stream synthetic transactions to a CSV or Parquet file; memory does not grow with the rows.

A file with other content is never replaced without --force. Because the same flags give the same bytes, running a
command again finds its file and leaves it.
"""

from __future__ import annotations

import argparse
import datetime as dt
import io
import logging
import sys
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

import pandas as pd

from cluster.session import terminable
from fraud.cli import Parser, examples, next_step, run_command
from fraud.data.partitions import day_named
from fraud.data.simulation import (
    CARD_CUSTOMERS,
    CARD_START,
    check_settings,
    iter_card_days,
    iter_cards,
    iter_transactions,
    with_day_ids,
)
from fraud.errors import ConfigError, DataError
from fraud.settings import Settings

logger = logging.getLogger(__name__)

ROW_GROUP = 262_144  # rows in memory, written at once
PROGRESS_SECONDS = 5.0
SOURCES = {"transactions": iter_transactions, "cards": iter_cards}
SCHEMAS = {"transactions": "transactions", "cards": "handbook"}  # the shipped schema of each kind
EXTENSIONS = (".csv", ".parquet")
FIRST_DAY: dt.date = CARD_START.astype("M8[D]").item()
DATE = "{date}"


def generate(
    path: str,
    rows: int,
    *,
    kind: str = "transactions",
    seed: int = 7,
    fraud_rate: float = 0.02,
    drift: float = 0.0,
    force: bool = False,
) -> int:
    """Write `rows` simulated rows to `path` and return the number of frauds.

    Parameters
    ----------
    path : local path or fsspec URL, ending in .csv or .parquet. Written atomically.
    rows : number of rows, at least 1.
    kind : "transactions" (five columns) or "cards" (customers, terminals, timestamps).
    seed, fraud_rate, drift : as in `fraud.data.simulation.transactions`.
    force : replace a file with other content.

    Raises
    ------
    ConfigError : a setting is out of range, or the file ending is unknown. Nothing is written.
    DataError : the file cannot be written, or has other content. Nothing of it remains on disk.
    """
    check_settings(rows, seed, fraud_rate, drift)
    if kind not in SOURCES:
        raise ConfigError(f"kind (--kind) is {kind!r}: choose one of {', '.join(SOURCES)}")
    return _save(SOURCES[kind](rows, seed, fraud_rate, drift), path, force, f"{rows:,}")


def generate_days(
    path: str,
    days: int,
    *,
    first: dt.date = FIRST_DAY,
    n_customers: int = CARD_CUSTOMERS,
    seed: int = 7,
    fraud_rate: float = 0.02,
    drift: float = 0.0,
    force: bool = False,
) -> int:
    """Write whole days of card transactions, in one file or, with {date} in `path`, one file a day; return the frauds.

    A day has the same rows and ids whichever days are made. first: the first day, from FIRST_DAY on. The rest, and what
    is raised, as in `generate`.
    """
    if days < 1:
        raise ConfigError(f"days (--days) is {days}: give at least 1")
    check_settings(n_customers, seed, fraud_rate, drift)
    dates = [first + dt.timedelta(days=number) for number in range(days)]
    frames = iter_card_days((first - FIRST_DAY).days, n_customers, seed, fraud_rate, drift)
    numbered = (with_day_ids(date, frame) for date, frame in zip(dates, frames, strict=False))
    if DATE not in path:
        return _save(numbered, path, force, "all")
    return sum(
        _save([frame], path.replace(DATE, f"{date}"), force, "all") for date, frame in zip(dates, numbered, strict=True)
    )


def _save(frames: Iterable[pd.DataFrame], path: str, force: bool, total: str) -> int:
    """Write the frames to `path` and return the number of frauds. total: the rows to come, for the progress."""
    extension = PurePosixPath(path).suffix.lower()
    if extension not in EXTENSIONS:
        raise ConfigError(f"output (--out) {path!r} has an unknown ending: name a file ending in .csv or .parquet")
    try:
        with _output(path, force) as file:
            return _write(_regroup(frames), file, extension, total)
    except OSError as error:
        reason = error.strerror or error
        raise DataError(f"cannot write (--out) {path!r}: {reason}; choose another folder or make room") from error


def _regroup(frames: Iterable[pd.DataFrame]) -> Iterator[pd.DataFrame]:
    """Join small frames into frames of at least ROW_GROUP rows; the last may be smaller."""
    waiting: list[pd.DataFrame] = []
    for frame in frames:
        waiting.append(frame)
        if sum(map(len, waiting)) >= ROW_GROUP:
            yield pd.concat(waiting, ignore_index=True)
            waiting = []
    if waiting:
        yield pd.concat(waiting, ignore_index=True)


def _write(frames: Iterator[pd.DataFrame], file: IO[bytes], extension: str, total: str) -> int:
    """Write the frames and return the number of frauds: the sum of each frame's last column."""
    import pyarrow as pa
    from pyarrow import csv, parquet

    writer, written, frauds = None, 0, 0
    start = reported = time.monotonic()
    try:
        for frame in frames:
            table = pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None)
            if writer is None and extension == ".csv":
                options = csv.WriteOptions(quoting_header="none", quoting_style="none")
                writer = csv.CSVWriter(file, table.schema, write_options=options)
            elif writer is None:
                writer = parquet.ParquetWriter(file, table.schema, compression="zstd")
            writer.write_table(table)
            written += len(frame)
            frauds += int(frame.iloc[:, -1].sum())
            now = time.monotonic()
            if now - reported >= PROGRESS_SECONDS:
                reported = now
                rate = written / (now - start)
                logger.info("%s of %s rows, %s rows/s", f"{written:,}", total, f"{rate:,.0f}")
    finally:
        if writer is not None:
            writer.close()
    logger.info("%s rows, %s of them fraud, in %.1f s", f"{written:,}", f"{frauds:,}", time.monotonic() - start)
    return frauds


class _Comparison(io.RawIOBase):
    """Takes what would be written, and raises DataError at the first byte that the file at `path` has otherwise."""

    def __init__(self, existing: IO[bytes], path: str) -> None:
        super().__init__()
        self._existing, self._path = existing, path
        self._is_over = False

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        block = bytes(data)
        if not self._is_over:  # pyarrow closes its writer, maybe in a destructor, after the first difference
            self._expect(block, self._existing.read(len(block)))
        return len(block)

    def check_end(self) -> None:
        self._expect(b"", self._existing.read(1))
        self._is_over = True

    def _expect(self, block: bytes, there: bytes) -> None:
        if block != there:
            self._is_over = True
            raise DataError(
                f"output (--out) {self._path!r} exists and holds other rows than these flags give: name another file, "
                "or replace it by --force"
            )


@contextmanager
def _output(path: str, force: bool) -> Iterator[IO[bytes]]:
    """Open a temporary file beside `path`; rename it on success, remove it on failure.

    An existing file is compared with what is written, unless `force`; the same content stays as it is.
    """
    from fsspec.implementations.local import LocalFileSystem

    from fraud.data import filesystems

    try:
        filesystem, target = filesystems.of(path)
    except (ValueError, ImportError) as error:
        raise ConfigError(
            f"output (--out) {path!r} cannot be opened: {error}; use a local path or install the filesystem's package"
        ) from error
    if filesystem.isdir(target):
        raise ConfigError(f"output (--out) {path!r} is a folder: name a file in it, such as {path}/transactions.csv")
    if not force and filesystem.exists(target):
        with filesystem.open(target, "rb") as existing:
            comparison = _Comparison(existing, path)
            yield cast("IO[bytes]", comparison)
            comparison.check_end()
        logger.info("%s holds these rows already", path)
        return
    if filesystems.is_s3(filesystem):
        with filesystem.write_atomically(target) as file:
            yield file
        return
    folder, _, name = target.rpartition("/")
    partial = f"{folder}/.{name}.{uuid.uuid4().hex}.partial"
    filesystem.makedirs(folder, exist_ok=True)
    try:
        with filesystem.open(partial, "wb") as file:
            yield file
        if isinstance(filesystem, LocalFileSystem):
            Path(partial).replace(target)
        else:
            filesystem.mv(partial, target)
    except BaseException:
        if filesystem.exists(partial):
            filesystem.rm(partial)
        raise


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m ray_jobs.generate",
        description="Write seeded synthetic transactions: the same flags give the same bytes, so a file that is there "
        "stays if it has them, and is refused if it has others. Runs without Ray.",
        **examples(
            "python -m ray_jobs.generate --rows 50000 --out data/transactions.csv",
            "python -m ray_jobs.generate --rows 50000 --seed 8 --drift 1 --out data/drifted.csv",
            "python -m ray_jobs.generate --kind cards --days 120 --out data/cards.parquet",
            "python -m ray_jobs.generate --kind cards --date 2024-04-30 --days 9 --out 'daily/{date}.parquet'",
        ),
    )
    amount = parser.add_mutually_exclusive_group(required=True)
    amount.add_argument("--rows", type=int, help="number of transactions to write")
    amount.add_argument("--days", type=int, help="number of whole days to write, of the kind cards")
    parser.add_argument("--date", help=f"with --days: the first day (default {FIRST_DAY}). The days of one seed and "
                        "one number of customers are one world: each has its rows whichever days are made")  # fmt: skip
    parser.add_argument("--customers", type=int, help=f"with --days: cards in that world (default {CARD_CUSTOMERS}, "
                        "about 500 transactions a day)")  # fmt: skip
    parser.add_argument("--out", required=True, help="file to write, ending in .csv or .parquet; a path or a URL. With "
                        "--days and {date} in it: one file a day")  # fmt: skip
    parser.add_argument(
        "--kind",
        choices=tuple(SOURCES),
        default="transactions",
        help="transactions (the default): amount, hour, distance, device_score, country_mismatch, is_fraud (schema "
        "transactions); cards: card transactions with customers, terminals and timestamps over about 120 days (schema "
        "handbook). The schemas ulb and sparkov are for published data, which this does not make",
    )
    parser.add_argument("--seed", type=int, default=7, help="same seed, same rows (default 7)")
    parser.add_argument(
        "--fraud-rate", type=float, default=0.02, help="share of frauds, above 0, below 0.5 (default 0.02)"
    )
    parser.add_argument(
        "--drift",
        type=float,
        default=0.0,
        help="shift of the legitimate transactions: 0 (default) is none; 1 means amounts +35 %%, two hours later and "
        "riskier device scores",
    )
    parser.add_argument("--force", action="store_true", help="replace a file with other rows")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; see `--help`."""
    arguments = _parser().parse_args(argv)
    path = Settings.from_environment().locate(arguments.out)
    settings: dict[str, Any] = {name: getattr(arguments, name) for name in ("seed", "fraud_rate", "drift", "force")}
    first = day_named(arguments.date) if arguments.date else FIRST_DAY
    with terminable():
        if arguments.days is None:
            if arguments.date or arguments.customers:
                raise ConfigError("--date and --customers belong to --days: give --days instead of --rows")
            generate(path, arguments.rows, kind=arguments.kind, **settings)
        elif arguments.kind != "cards":
            raise ConfigError(f"--days makes card transactions, and --kind is {arguments.kind}: add --kind cards")
        else:
            customers = CARD_CUSTOMERS if arguments.customers is None else arguments.customers
            generate_days(path, arguments.days, first=first, n_customers=customers, **settings)
    data = arguments.out.replace(DATE, "*")
    if arguments.date:
        sys.stdout.write(next_step("python -m ray_jobs.score", "--data", data, "--out", "scored", "--date", first))
    else:
        sys.stdout.write(next_step("python -m ray_jobs.train", "--data", data, "--schema", SCHEMAS[arguments.kind]))
    return 0


if __name__ == "__main__":
    run_command(main)
