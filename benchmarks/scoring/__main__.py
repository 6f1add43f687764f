"""Batch scoring of 10 million rows beside pandas, scikit-learn and torch in one process; its memory; its fixed costs.

    python -m benchmarks.scoring                  # about six minutes on 2 quiet CPUs
    python -m benchmarks.scoring --rows 1000000   # quicker
    python -m benchmarks.scoring --table          # the tables of docs/scoring.md anew

Both sides score the same rows and are timed as a whole, from the start of their process to its end; only the fitting of
the usual way's models is taken off, which it would load from a file. What it takes once they are warm stands beside it.
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
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # end what was started, delete what was written
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
    add("--sample", type=int, default=1_000_000, help="rows of the smaller job and of the smaller look at memory")
    add("--rounds", type=int, default=2, help="timed rounds (default %(default)s)")
    add("--table", action="store_true", help="measure nothing, write the tables of docs/scoring.md from --out")
    add("--out", default=str(table.RESULTS), help="JSON of results")
    return parser


if __name__ == "__main__":
    run_command(main)
