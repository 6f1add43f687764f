"""Entity history of a large file: one replay in one process against partitions on Ray; peak memory and seconds.

    python -m benchmarks.bench_history_stream [--copies 5] [--store-gib 1.0] [--partitions N] [--out FILE.json]

The handbook's 1.3 million rows are repeated with other customers, terminals and ids; both sides read the file, check it
and compute its history features, Ray also writes them. Memory is PSS over all processes of a side (for Ray the raylet,
its store in shared memory and the workers too), sampled each second; the features of both sides must be equal.
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

from fraud import data
from fraud.errors import run_command
from fraud.history import feature_names, replay
from fraud.schema import Schema
from fraud.settings import Settings
from ray_jobs.features import write_features
from ray_jobs.score_output import ROW_GROUP

SOURCE = "handbook_2018-04-01_2018-08-14.parquet"


def enlarge(source: Path, target: Path, copies: int) -> int:
    """Write `copies` of the handbook's rows, each with customers, terminals and ids of its own; return the rows."""
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
    """CRC-32 of each row group."""
    groups = range(0, len(features), ROW_GROUP)
    return [zlib.crc32(np.ascontiguousarray(features[start : start + ROW_GROUP])) for start in groups]


def one_process(path: str) -> dict[str, Any]:
    """The whole file in one frame, one replay."""
    schema = Schema.load("handbook")
    began = time.perf_counter()
    rows = data.load(path, schema).rows
    features, _ = replay(rows, schema)
    return {"seconds": time.perf_counter() - began, "checksums": checksums(features)}


def on_ray(path: str, out: str, store_gib: float, partitions: int | None) -> dict[str, Any]:
    """`ray_jobs.features` on a Ray of two CPUs."""
    import ray

    ray.init(
        address="local", num_cpus=2, include_dashboard=False, log_to_driver=False,
        object_store_memory=int(store_gib * 2**30),
    )  # fmt: skip
    schema = Schema.load("handbook")
    began = time.perf_counter()
    write_features(path, out, schema, partitions=partitions)
    seconds = time.perf_counter() - began
    ray.shutdown()
    names = feature_names(schema)
    parts = sorted(Path(out).glob("part-*.parquet"))
    found = [checksums(pd.read_parquet(part, columns=names)[names].to_numpy())[0] for part in parts]
    return {"seconds": seconds, "checksums": found}


def measured(arguments: list[str]) -> dict[str, Any]:
    """Run a side in a child, and add its peaks of memory in MiB: PSS of all processes, private of the largest one."""
    child = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.bench_history_stream", *arguments], stdout=subprocess.PIPE, text=True
    )
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
    text = child.stdout.read().strip()
    if child.returncode:
        raise SystemExit(f"{' '.join(arguments)} failed")
    return {**json.loads(text.splitlines()[-1]), "peak_mib": peak / 2**20, "largest_process_mib": largest / 2**20}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--copies", type=int, default=5, help="how often the handbook's rows are repeated (default 5)")
    parser.add_argument("--store-gib", type=float, default=1.0, help="Ray's object store; the rest goes to disk")
    parser.add_argument("--partitions", type=int, help="of the replay (default: one for a million rows)")
    parser.add_argument("--out", default="benchmarks/results/history_stream.json", help="where the JSON goes")
    parser.add_argument("--side", choices=("one", "ray"), help=argparse.SUPPRESS)
    parser.add_argument("--file", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.side:
        side = (
            one_process(arguments.file)
            if arguments.side == "one"
            else on_ray(arguments.file, arguments.folder, arguments.store_gib, arguments.partitions)
        )
        print(json.dumps(side))
        return 0
    source = Settings.from_environment().shared_data / SOURCE
    if not source.exists():
        raise SystemExit(f"{source} is not there: set FRAUD_SHARED_DATA to the folder of the published data sets")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.parquet"
        rows = enlarge(source, path, arguments.copies)
        options = ["--store-gib", str(arguments.store_gib)]
        options += ["--partitions", str(arguments.partitions)] if arguments.partitions else []
        sides = {
            "one process": measured(["--side", "one", "--file", str(path)]),
            "on Ray": measured(["--side", "ray", "--file", str(path), "--folder", f"{folder}/features", *options]),
        }
    equal = sides["one process"].pop("checksums") == sides["on Ray"].pop("checksums")
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
    run_command(main)
