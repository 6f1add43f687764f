"""Sweeps on published data: quality of the chosen configuration, savings by early stopping, speed beside peers.

    python -m benchmarks.sweep --part quality                        # 40 trials and nine trainings per data set
    python -m benchmarks.sweep --part asha --seeds 0 1               # the same sweep with and without early stopping
    python -m benchmarks.sweep --part speed --rounds 2               # the same fits by ours, Optuna and scikit-learn
    python -m benchmarks.sweep --part quality --data sparkov --fast  # smoke test; writes nothing
    python -m benchmarks.sweep --table                               # rewrite the tables in docs/sweeps.md

Every sweep is a new `python -m tuning.sweep` process with temporary folders. No choice uses the test window: a sweep
does not read it. The README of the data folder, FRAUD_SHARED_DATA (default ../shared/data), has the sources of the
files. Parts and data sets that are not measured are kept in the JSON.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import json
import shutil
import signal
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.detection.protocols import DATA_SETS
from benchmarks.sweep import asha, quality, speed, table
from fraud.cli import run_command
from fraud.errors import DataError
from fraud.settings import Settings

PARTS: dict[str, Callable[..., dict[str, Any]]] = {
    "quality": quality.measure, "asha": asha.measure, "speed": speed.measure,
}  # fmt: skip
# Default seeds: of the fits in quality, of the sweeps in asha.
SEEDS = {"quality": [0, 1, 2], "asha": [0]}
DATA = {"quality": list(DATA_SETS), "asha": ["handbook"], "speed": ["handbook"]}
ROUNDS = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, write the JSON and print the tables."""
    arguments = _parser().parse_args(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the finally blocks clean up
    out = Path(arguments.out)
    if arguments.table and not out.exists():
        raise DataError(f"{out} is missing: run python -m benchmarks.sweep first")
    results = json.loads(out.read_text()) if out.exists() and not arguments.fast else {}
    folder = Settings.from_environment().shared_data
    for part in [] if arguments.table else arguments.part:
        for name in arguments.data or DATA[part]:
            scratch = Path(tempfile.mkdtemp(prefix="bench-sweep-"))
            try:
                repeated = (
                    {"rounds": arguments.rounds} if part == "speed" else {"seeds": arguments.seeds or SEEDS[part]}
                )
                result = PARTS[part](
                    DATA_SETS[name], folder, scratch, trials=arguments.trials or (6 if arguments.fast else 40),
                    fast=arguments.fast, log=lambda text: print(text, flush=True), **repeated,
                )  # fmt: skip
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
            results.setdefault(part, {})[name] = result
            if not arguments.fast:
                out.parent.mkdir(parents=True, exist_ok=True)
                out.write_text(json.dumps(results, indent=1) + "\n")
    print(table.markdown(results))
    if arguments.table:
        table.write(results)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.sweep", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--part", nargs="+", choices=list(PARTS), default=list(PARTS), help="parts to measure (default: all)")
    add("--data", nargs="+", choices=list(DATA_SETS), help="data sets (default: all for quality, else handbook)")
    add("--trials", type=int, help="trials per sweep (default 40)")
    add(
        "--seeds",
        nargs="+",
        type=int,
        help="seeds of the fits in quality (default 0 1 2) and of the sweeps in asha (default 0)",
    )
    add("--rounds", type=int, default=ROUNDS, help=f"timed rounds of speed (default {ROUNDS}), after one for memory")
    add("--fast", action="store_true", help="tiny space, models and sweeps; write no results")
    add("--table", action="store_true", help="do not measure; write the tables in docs/sweeps.md from --out")
    add("--out", default=str(table.RESULTS), help="results, JSON")
    return parser


if __name__ == "__main__":
    run_command(main, uses_stack=False)
