"""Stream synthetic transactions to a CSV or Parquet file; memory does not grow with the rows.

A file with other content is never replaced without --force. Because the same flags give the same bytes, running a
command again finds its file and leaves it.
"""

from __future__ import annotations

import argparse
import io
import logging
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any, NoReturn, cast

import pandas as pd

from cluster.session import terminable
from fraud.cli import examples, next_step, run_command
from fraud.data.simulation import check_settings, iter_cards, iter_transactions
from fraud.errors import ConfigError, DataError
from fraud.settings import Settings

logger = logging.getLogger(__name__)

ROW_GROUP = 262_144  # rows in memory, written at once
PROGRESS_SECONDS = 5.0
SOURCES = {"transactions": iter_transactions, "cards": iter_cards}
SCHEMAS = {"transactions": "transactions", "cards": "handbook"}  # the shipped schema of each kind
EXTENSIONS = (".csv", ".parquet")


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
    extension = PurePosixPath(path).suffix.lower()
    if extension not in EXTENSIONS:
        raise ConfigError(f"output (--out) {path!r} has an unknown ending: name a file ending in .csv or .parquet")
    frames = _regroup(SOURCES[kind](rows, seed, fraud_rate, drift))
    try:
        with _output(path, force) as file:
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


class _Parser(argparse.ArgumentParser):
    """Reports a wrong command line as a ConfigError, in one line."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; `python -m ray_jobs.generate --help` explains the flags")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m ray_jobs.generate",
        description="Write seeded synthetic transactions: the same flags give the same bytes, so a file that is there "
        "stays if it has them, and is refused if it has others. Runs without Ray.",
        **examples(
            "python -m ray_jobs.generate --rows 50000 --out data/transactions.csv",
            "python -m ray_jobs.generate --rows 50000 --seed 8 --drift 1 --out data/drifted.csv",
            "python -m ray_jobs.generate --rows 300000 --kind cards --out data/cards.parquet",
        ),
    )
    parser.add_argument("--rows", type=int, required=True, help="number of transactions to write")
    parser.add_argument("--out", required=True, help="file to write, ending in .csv or .parquet; a path or a URL")
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
    with terminable():
        generate(
            path,
            arguments.rows,
            kind=arguments.kind,
            seed=arguments.seed,
            fraud_rate=arguments.fraud_rate,
            drift=arguments.drift,
            force=arguments.force,
        )
    schema = SCHEMAS[arguments.kind]
    sys.stdout.write(next_step("python -m ray_jobs.train", "--data", arguments.out, "--schema", schema))
    return 0


if __name__ == "__main__":
    run_command(main)
