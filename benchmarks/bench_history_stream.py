"""Entity history of a large file: one replay in one process against partitions on Ray; peak memory and time.

    python -m benchmarks.bench_history_stream [--copies 5] [--store-gib 1.0] [--partitions N] [--out FILE.json]

The handbook's 1.3 million rows are copied with new customers, terminals and ids. Both sides read and validate the file
and compute its history features; Ray also writes them. Memory is the PSS of all processes of a side, sampled each
second (Ray: including raylet, shared-memory store and workers). The features of both sides must be equal.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from fraud.cli import run_command
from fraud.data import tables
from fraud.history.definition import feature_names
from fraud.history.replay import replay
from fraud.schema import Schema
from fraud.settings import Settings

PART_ROWS = 262_144  # of ray_jobs.features
SOURCE = "handbook_2018-04-01_2018-08-14.parquet"


def enlarge(source: Path, target: Path, copies: int) -> int:
    """Write `copies` of the handbook's rows, each with new customers, terminals and ids; return the row count."""
    rows = pd.read_parquet(source)
    with pq.ParquetWriter(target, pa.Schema.from_pandas(rows, preserve_index=False), compression="zstd") as writer:
        for copy in range(copies):
            other = rows.assign(
                TRANSACTION_ID=rows["TRANSACTION_ID"].astype("int64") + copy * 10_000_000,
                CUSTOMER_ID=rows["CUSTOMER_ID"].astype("int64") + copy * 100_000,
                TERMINAL_ID=rows["TERMINAL_ID"].astype("int64") + copy * 100_000,
            ).astype(rows.dtypes)
            writer.write_table(pa.Table.from_pandas(other, schema=writer.schema, preserve_index=False))
    return len(rows) * copies


def checksums(features: np.ndarray) -> list[int]:
    """CRC-32 of each part's rows."""
    groups = range(0, len(features), PART_ROWS)
    return [zlib.crc32(np.ascontiguousarray(features[start : start + PART_ROWS])) for start in groups]


def one_process(path: str) -> dict[str, Any]:
    """Replay the file as one frame."""
    schema = Schema.load("handbook")
    began = time.perf_counter()
    rows = tables.load(path, schema).rows
    features, _ = replay(rows, schema)
    return {"seconds": time.perf_counter() - began, "checksums": checksums(features)}


def measured(module: str, arguments: list[str], **variables: str) -> tuple[str, dict[str, float]]:
    """Run a module; return its stdout and its peak memory, MiB: PSS of all processes, USS of the largest process."""
    environment = {**os.environ, **variables}
    command = [sys.executable, "-m", module, *arguments]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    peak, largest = 0, 0
    while child.poll() is None:
        total = 0
        for process in [psutil.Process(child.pid), *psutil.Process(child.pid).children(recursive=True)]:
            try:
                used = process.memory_full_info()
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
            total, largest = total + used.pss, max(largest, used.uss)
        peak = max(peak, total)
        time.sleep(1.0)
    assert child.stdout is not None
    if child.returncode:
        raise SystemExit(f"{module} failed")
    return child.stdout.read(), {"peak_mib": peak / 2**20, "largest_process_mib": largest / 2**20}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--copies", type=int, default=5, help="copies of the handbook's rows (default 5)")
    parser.add_argument("--store-gib", type=float, default=1.0, help="size of Ray's object store; it spills to disk")
    parser.add_argument("--partitions", type=int, help="history partitions (default: one per million rows)")
    parser.add_argument("--out", default="benchmarks/results/history_stream.json", help="results, JSON")
    parser.add_argument("--one-process", metavar="FILE", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.one_process:
        print(json.dumps(one_process(arguments.one_process)))
        return 0
    source = Settings.from_environment().shared_data / SOURCE
    if not source.exists():
        raise SystemExit(f"{source} is missing: set FRAUD_SHARED_DATA to the folder of the published data sets")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.parquet"
        rows = enlarge(source, path, arguments.copies)
        text, memory = measured("benchmarks.bench_history_stream", ["--one-process", str(path)])
        alone = json.loads(text)
        expected = alone.pop("checksums")
        features = Path(folder) / "features"
        flags = ["--data", str(path), "--schema", "handbook", "--out", str(features)]
        flags += ["--history-partitions", str(arguments.partitions)] if arguments.partitions else []
        store = str(int(arguments.store_gib * 2**30))
        _, memory_on_ray = measured("ray_jobs.features", flags, RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES=store)
        seconds = json.loads((features / "_features.json").read_text())["seconds"]
        sides = {"one process": {**alone, **memory}, "on Ray": {"seconds": seconds, **memory_on_ray}}
        names = feature_names(Schema.load("handbook"))
        parts = sorted(features.glob("part-*.parquet"))
        equal = expected == [checksums(pd.read_parquet(part, columns=names)[names].to_numpy())[0] for part in parts]
    print(f"{rows:,} rows, {len(feature_names(Schema.load('handbook')))} features; equal: {equal}")
    print(f"{'side':<14}{'seconds':>10}{'rows/s':>12}{'peak MiB':>12}{'largest process MiB':>22}")
    for name, side in sides.items():
        print(
            f"{name:<14}{side['seconds']:>10,.0f}{rows / side['seconds']:>12,.0f}{side['peak_mib']:>12,.0f}"
            f"{side['largest_process_mib']:>22,.0f}"
        )
    result = {"rows": rows, "equal": equal, "store_gib": arguments.store_gib, "sides": sides}
    Path(arguments.out).parent.mkdir(parents=True, exist_ok=True)
    Path(arguments.out).write_text(json.dumps(result, indent=2) + "\n")
    return 0 if equal else 1


if __name__ == "__main__":
    run_command(main, uses_stack=False)
