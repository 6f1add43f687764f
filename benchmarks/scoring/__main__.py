"""Batch scoring of 10 million rows against pandas + scikit-learn + torch in one process: time, memory, fixed costs.

    python -m benchmarks.scoring                  # about six minutes on 2 idle CPUs
    python -m benchmarks.scoring --rows 1000000   # faster
    python -m benchmarks.scoring --table          # rewrite the tables in docs/scoring.md

Both sides score the same rows and are timed from process start to end. The baseline's fitting time is subtracted: in
production it would load its models from a file. The table also shows the baseline's time with warm models.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.scoring import measure, table
from fraud.cli import run_command
from fraud.errors import DataError


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, write the JSON and the tables."""
    arguments = _parser().parse_args(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the finally blocks clean up
    out = Path(arguments.out)
    if arguments.table:
        if not out.exists():
            raise DataError(f"{out} is missing: run python -m benchmarks.scoring first")
        results = json.loads(out.read_text())
        table.write(results)
    else:
        scratch = Path(tempfile.mkdtemp(prefix="bench-scoring-"))
        try:
            sample = min(arguments.sample, arguments.rows)
            results = measure.measure(
                measure.prepare(scratch), arguments.rows, sample, arguments.rounds, lambda text: print(text, flush=True)
            )
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(results, indent=1) + "\n")
    print(table.markdown(results))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scoring", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--rows", type=int, default=10_000_000, help="rows of our job (default %(default)s)")
    add("--sample", type=int, default=1_000_000, help="rows of the smaller job, also for memory")
    add("--rounds", type=int, default=2, help="timed rounds (default %(default)s)")
    add("--table", action="store_true", help="do not measure; write the tables in docs/scoring.md from --out")
    add("--out", default=str(table.RESULTS), help="results, JSON")
    return parser


if __name__ == "__main__":
    run_command(main, uses_stack=False)
