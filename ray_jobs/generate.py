"""Stream synthetic transactions to a CSV or Parquet file; memory does not grow with the rows."""

from __future__ import annotations

import argparse
import logging
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, NoReturn

import pandas as pd

from cluster.session import terminable
from fraud.cli import run_command
from fraud.data.simulation import check_settings, iter_cards, iter_transactions
from fraud.errors import ConfigError, DataError
from fraud.settings import Settings

logger = logging.getLogger(__name__)

ROW_GROUP = 262_144  # rows in memory, written at once
PROGRESS_SECONDS = 5.0
SOURCES = {"transactions": iter_transactions, "cards": iter_cards}
EXTENSIONS = (".csv", ".parquet")


def generate(
    path: str, rows: int, *, kind: str = "transactions", seed: int = 7, fraud_rate: float = 0.02, drift: float = 0.0
) -> int:
    """Write `rows` simulated rows to `path` and return the number of frauds.

    Parameters
    ----------
    path : local path or fsspec URL, ending in .csv or .parquet. Written atomically.
    rows : number of rows, at least 1.
    kind : "transactions" (five columns) or "cards" (customers, terminals, timestamps).
    seed, fraud_rate, drift : as in `fraud.data.simulation.transactions`.

    Raises
    ------
    ConfigError : a setting is out of range, or the file ending is unknown. Nothing is written.
    DataError : the file cannot be written. Nothing remains on disk.
    """
    check_settings(rows, seed, fraud_rate, drift)
    if kind not in SOURCES:
        raise ConfigError(f"kind (--kind) is {kind!r}: choose one of {', '.join(SOURCES)}")
    extension = PurePosixPath(path).suffix.lower()
    if extension not in EXTENSIONS:
        raise ConfigError(f"output (--out) {path!r} has an unknown ending: name a file ending in .csv or .parquet")
    frames = _regroup(SOURCES[kind](rows, seed, fraud_rate, drift))
    try:
        with _atomic(path) as file:
            return _write(frames, file, extension, rows)
    except OSError as error:
        reason = error.strerror or error
        raise DataError(f"cannot write (--out) {path!r}: {reason}; choose another folder or make room") from error


def _regroup(frames: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
    """Join small frames into frames of at least ROW_GROUP rows; the last may be smaller."""
    waiting: list[pd.DataFrame] = []
    for frame in frames:
        waiting.append(frame)
        if sum(map(len, waiting)) >= ROW_GROUP:
            yield pd.concat(waiting, ignore_index=True)
            waiting = []
    if waiting:
        yield pd.concat(waiting, ignore_index=True)


def _write(frames: Iterator[pd.DataFrame], file: IO[bytes], extension: str, rows: int) -> int:
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
                logger.info("%s of %s rows, %s rows/s", f"{written:,}", f"{rows:,}", f"{rate:,.0f}")
    finally:
        if writer is not None:
            writer.close()
    logger.info("%s rows, %s of them fraud, in %.1f s", f"{written:,}", f"{frauds:,}", time.monotonic() - start)
    return frauds


@contextmanager
def _atomic(path: str) -> Iterator[IO[bytes]]:
    """Open a temporary file beside `path`; rename it on success, remove it on failure."""
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


class _Parser(argparse.ArgumentParser):
    """Reports a wrong command line as a ConfigError, in one line."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; `python -m ray_jobs.generate --help` explains the flags")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m ray_jobs.generate",
        description="Write seeded synthetic transactions: the same flags give the same bytes. Runs without Ray.",
        epilog="examples:\n"
        "  python -m ray_jobs.generate --rows 50000 --out data/transactions.csv\n"
        "  python -m ray_jobs.generate --rows 50000 --seed 8 --drift 1 --out data/drifted.csv\n"
        "  python -m ray_jobs.generate --rows 300000 --kind cards --out data/cards.parquet",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rows", type=int, required=True, help="number of transactions to write")
    parser.add_argument("--out", required=True, help="file to write, ending in .csv or .parquet; a path or a URL")
    parser.add_argument(
        "--kind",
        choices=tuple(SOURCES),
        default="transactions",
        help="transactions (the default): amount, hour, distance, device_score, country_mismatch, is_fraud; "
        "cards: raw card transactions with customers, terminals and timestamps over about 120 days",
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
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; see `--help`."""
    arguments = _parser().parse_args(argv)
    path = Settings.from_environment().locate(arguments.out)
    with terminable():
        generate(
            path,
            arguments.rows,
            kind=arguments.kind,
            seed=arguments.seed,
            fraud_rate=arguments.fraud_rate,
            drift=arguments.drift,
        )
    return 0


if __name__ == "__main__":
    run_command(main)
