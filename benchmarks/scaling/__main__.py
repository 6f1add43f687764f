"""Cost of a million transactions per stage on one CPU and on two, and a prediction for a hundred nodes.

    python -m benchmarks.scaling            # about ten minutes on 2 idle CPUs
    python -m benchmarks.scaling --table    # rewrite the tables in docs/scaling.md

Each stage runs as its own command on a Ray of one CPU, then of two, at two sizes: the difference is the cost per row,
the rest is the fixed cost. The price of a CPU hour is an assumption: set yours with --usd-per-cpu-hour.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import signal
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.scaling import measure, table
from fraud.cli import run_command
from fraud.errors import DataError
from fraud.settings import turn_telemetry_off


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, write the JSON and the tables."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scaling", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--rounds", type=int, default=2, help="runs of each stage; the fastest counts (default %(default)s)")
    add("--usd-per-cpu-hour", type=float, default=0.05, help="price of a CPU hour (default %(default)s)")
    add("--table", action="store_true", help="do not measure; write the tables in docs/scaling.md from --out")
    add("--out", default=str(table.RESULTS), help="results, JSON")
    arguments = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the finally blocks clean up
    turn_telemetry_off()
    out = Path(arguments.out)
    if arguments.table:
        if not out.exists():
            raise DataError(f"{out} is missing: run python -m benchmarks.scaling first")
        results = json.loads(out.read_text())
        table.write(results)
    else:
        from benchmarks.scoring.measure import prepare

        scratch = Path(tempfile.mkdtemp(prefix="bs-"))  # short: Ray's socket paths are limited to 107 bytes
        try:
            prepare(scratch)
            runs = measure.measure(
                measure.STAGES, (1, 2), scratch, arguments.rounds, lambda text: print(text, flush=True)
            )
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        results = {
            "usd_per_cpu_hour": arguments.usd_per_cpu_hour,
            "stages": {name: [dataclasses.asdict(run) for run in of] for name, of in runs.items()},
        }
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(results, indent=1) + "\n")
    print(table.markdown(results))
    return 0


if __name__ == "__main__":
    run_command(main, uses_stack=False)
