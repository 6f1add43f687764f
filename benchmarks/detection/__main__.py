"""Detection on published data: our detectors, common models measured in the same run, and published figures.

    python -m benchmarks.detection                                  # everything; minutes per data set
    python -m benchmarks.detection --data sparkov --seeds 0 --fast  # smoke test
    python -m benchmarks.detection --table                          # rewrite docs/detection.md from the last run

The README of the data folder, FRAUD_SHARED_DATA (default ../shared/data), has the protocols, targets and sources. No
choice uses a test window: settings are the shipped configurations, weights and thresholds come from validation. A run
of all data sets and seeds also writes the tables.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.detection import measure, table
from benchmarks.detection.protocols import DATA_SETS
from fraud.cli import run_command
from fraud.errors import DataError
from fraud.settings import Settings

SEEDS = [0, 1, 2]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, write the JSON and print the tables."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.detection", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", nargs="+", choices=list(DATA_SETS), default=list(DATA_SETS), help="data sets")
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS, help="seeds of every fit (default 0 1 2)")
    parser.add_argument("--fast", action="store_true", help="tiny models on the newest window; writes no results")
    parser.add_argument("--table", action="store_true", help="do not measure; write docs/detection.md from --out")
    parser.add_argument("--out", default=str(table.RESULTS), help="results, JSON; other data sets in it are kept")
    arguments = parser.parse_args(argv)
    out = Path(arguments.out)
    if arguments.table and not out.exists():
        raise DataError(f"{out} is missing: run python -m benchmarks.detection first")
    results = json.loads(out.read_text()) if out.exists() else {}
    if not arguments.table:
        torch.set_num_threads(1)
        folder = Settings.from_environment().shared_data
        for name in arguments.data:
            begin = time.perf_counter()
            measured = measure.run(
                DATA_SETS[name], folder, arguments.seeds, fast=arguments.fast, log=lambda text: print(text, flush=True)
            )
            results[name] = {"seeds": arguments.seeds, **measured}
            print(f"{name}: {time.perf_counter() - begin:.0f} s\n\n{table.markdown(name, results[name])}", flush=True)
            if not arguments.fast:
                out.parent.mkdir(parents=True, exist_ok=True)
                out.write_text(json.dumps(results, indent=1) + "\n")
        if arguments.fast or set(arguments.data) != set(DATA_SETS) or arguments.seeds != SEEDS:
            return 0
    table.write(results)
    return 0


if __name__ == "__main__":
    run_command(main, uses_stack=False)
