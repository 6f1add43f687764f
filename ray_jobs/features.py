"""Export every row's raw features, with calendar and entity history."""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import posixpath
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cluster.session import connected, terminable
from fraud.cli import examples, run_command
from fraud.counts import counted
from fraud.data import filesystems, tables
from fraud.data.partitions import day_named
from fraud.detectors.features import MICROSECONDS_A_DAY, calendar, raw_names
from fraud.errors import ConfigError, DataError
from fraud.history.records import microseconds_since_epoch
from fraud.schema import Schema, shipped_names
from fraud.schema.zone import agreed, zone_of
from fraud.scoring import scored
from fraud.settings import Settings, turn_telemetry_off
from ray_jobs.score.output import Collector

# Readers of a folder skip names that begin with an underscore (fraud.data.tables, Spark, pyarrow).
MANIFEST, REFUSED = "_features.json", "_refused.parquet"


def write_features(
    path: str, out: str, schema: Schema, *, partitions: int | None = None, date: dt.date | None = None
) -> dict[str, Any]:
    """Write the features of a data file to the folder `out` atomically, and return its manifest.

    Parts of 262,144 rows in the order of the file: row number, the schema's columns (canonical, categories as text),
    history features, calendar features; refused rows and the manifest beside them. Replaces an `out` that this wrote.
    partitions: of the replay of entity history; default: one per million rows. date: rows of other days only feed
    the history. Connects to Ray if needed. Raises DataError, SchemaError.
    """
    began = time.monotonic()
    filesystem, target = filesystems.of(out)
    target = target.rstrip("/")
    if filesystem.exists(target) and not filesystem.exists(f"{target}/{MANIFEST}"):
        raise DataError(f"--out {out} exists and ray_jobs.features did not write it: name another folder")
    partial = f"{target.rpartition('/')[0]}/.{target.rpartition('/')[2]}.{os.getpid()}.tmp"
    try:
        filesystem.makedirs(partial)
        with connected(), terminable():
            collector = Collector(_blocks(path, schema, partitions, date))
            parts = _write_parts(collector, schema, filesystem, partial)
        refused = collector.refused_rows()
        if refused is not None:
            with filesystem.open(f"{partial}/{REFUSED}", "wb") as file:
                pq.write_table(refused, file, compression="zstd")
        if not parts:
            raise collector.no_rows_error(path)
        manifest = {
            "input": path,
            "input_fingerprint": tables.fingerprint(path),
            "schema_name": schema.name,
            "schema_fingerprint": schema.fingerprint,
            "date": date.isoformat() if date else None,
            "rows": {"written": collector.rows, "quarantined": collector.refused, "other_days": collector.outside},
            "features": len(raw_names(schema)[0]),
            "parts": parts,
            "warnings": collector.warnings,
            "created": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - began, 2),
        }
        with filesystem.open(f"{partial}/{MANIFEST}", "wb") as file:
            file.write((json.dumps(manifest, indent=2) + "\n").encode())
        if filesystem.exists(target):
            filesystem.rm(target, recursive=True)
        if filesystems.is_s3(filesystem):  # a move is not atomic there: the manifest goes last
            for name in sorted(filesystem.find(partial), key=lambda name: (name.endswith(f"/{MANIFEST}"), name)):
                filesystem.mv(name, f"{target}/{posixpath.basename(name)}")
        else:
            filesystem.mv(partial, target, recursive=True)
    except OSError as error:
        raise DataError(f"--out {out} cannot be written: {error}; check the folder and its permissions") from None
    finally:
        if filesystem.exists(partial):
            filesystem.rm(partial, recursive=True)
    return manifest


def _blocks(path: str, schema: Schema, partitions: int | None, date: dt.date | None) -> Iterator[pa.Table]:
    from ray_jobs.streaming.checked_stream import blocks_of, checked_rows, cpus_of_a_task, stream_settings
    from ray_jobs.streaming.history_shuffle import with_history

    with stream_settings(path):
        cpus, _ = cpus_of_a_task()
        if not schema.history:
            yield from blocks_of(checked_rows(path, schema, date, cpus))
            return
        rows = checked_rows(path, schema, None, cpus)
        yield from blocks_of(with_history(rows, schema, partitions=partitions, date=date, cpus=cpus).dataset)


def _write_parts(collector: Collector, schema: Schema, filesystem: Any, folder: str) -> int:
    parts = 0
    for table in collector.tables():
        with filesystem.open(f"{folder}/part-{parts:05d}.parquet", "wb") as file:
            pq.write_table(_with_calendar(table, schema), file, compression="zstd")
        parts += 1
    return parts


def _with_calendar(table: pa.Table, schema: Schema) -> pa.Table:
    """The table with its calendar features; NaN where the time is missing."""
    if schema.timestamp is None or not schema.timestamp.calendar:
        return table
    times = table[scored.name_of(schema.timestamp.name)].to_numpy()
    local = zone_of(schema).local_us(times)
    values = calendar(microseconds_since_epoch(local) / MICROSECONDS_A_DAY, schema.timestamp.calendar)
    values[np.isnat(times)] = np.nan
    names = raw_names(schema)[0][len(schema.features) :]
    for name, column in zip(names, values.T, strict=False):  # after them come the history features
        table = table.append_column(name, pa.array(column))
    return table


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ray_jobs.features",
        description="Write the raw features of every row as Parquet: row number, the schema's columns, entity history "
        "and calendar, by name. Memory is bounded: history is replayed in partitions by entity hash. Rows that violate "
        f"the schema go to {REFUSED} in the folder, with the reason. The folder appears when it is complete.",
        **examples(
            "python -m ray_jobs.features --data data/cards.parquet --schema handbook --out features",
            "python -m ray_jobs.features --data 'days/*.parquet' --schema my.yaml --out today --date 2026-01-31",
        ),
    )
    parser.add_argument("--data", required=True, help="CSV or Parquet: a file, folder, glob or URL")
    parser.add_argument(
        "--schema", default="transactions", help=f"a shipped name ({', '.join(shipped_names())}) or a .yaml path"
    )
    parser.add_argument("--out", required=True, help="folder to write; one that this command wrote is replaced")
    parser.add_argument(
        "--history-partitions",
        type=int,
        metavar="N",
        help="replay entity history in N partitions; one partition must fit in memory (default: one per million "
        "rows). The features do not depend on it",
    )
    parser.add_argument(
        "--date",
        type=day_named,
        metavar="YYYY-MM-DD",
        help="write only the rows of this day (in the schema's day_zone); earlier rows still feed entity history",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; see `--help`."""
    arguments = _parser().parse_args(argv)
    if arguments.history_partitions is not None and arguments.history_partitions < 1:
        raise ConfigError(f"--history-partitions {arguments.history_partitions} must be 1 or more")
    settings = Settings.from_environment()
    turn_telemetry_off()
    name = arguments.schema
    schema = Schema.load(settings.locate(name) if name.endswith((".yaml", ".yml")) else name)
    agreed(schema, settings.day_zone)
    out = settings.locate(arguments.out)
    manifest = write_features(
        settings.locate(arguments.data), out, schema, partitions=arguments.history_partitions, date=arguments.date
    )
    rows = manifest["rows"]
    summary = f"{counted(rows['written'], 'row')} with {counted(manifest['features'], 'feature')}"
    summary += f"; {rows['quarantined']:,} refused, see {REFUSED}" if rows["quarantined"] else ""
    summary += f"; {rows['other_days']:,} of other days" if rows["other_days"] else ""
    sys.stdout.write(f"{summary} → {out} ({manifest['seconds']:.1f} s)\n")
    return 0


if __name__ == "__main__":
    run_command(main)
