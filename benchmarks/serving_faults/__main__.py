"""Fault injection on /score under load, on its own stack: failed requests and recovery times.

    python -m benchmarks.serving_faults                              # every part but the soak
    python -m benchmarks.serving_faults --part kills                 # SIGKILL a replica, HAProxy, Serve's actors
    python -m benchmarks.serving_faults --part soak --minutes 30     # half the peak rate, memory, decisions
    python -m benchmarks.serving_faults --fast                       # smoke test; writes nothing
    python -m benchmarks.serving_faults --table                      # rewrite the tables in docs/serving_faults.md

changes: model swap, threshold, redeploy and rollback under load. kills: SIGKILL under load. shadowing: cost of the
shadow at half the peak rate, and challengers that raise, are slow or hang. scaling: one replica under 1 to 64 callers,
then 1 to 3 replicas and back. soak: --minutes of load. The load is --share of the peak rate, which is measured first.
Needs wrk. Uses ports from 22000 and 33000, so it can run beside `make up`, but that distorts the figures.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import json
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.serving_faults import changes, kills, scaling, shadowing, soak, table
from benchmarks.serving_faults.background_load import peak_rate
from benchmarks.serving_faults.rig import Rig, running_stack
from fraud.cli import run_command
from fraud.errors import DataError

PARTS = ("changes", "kills", "shadowing", "scaling", "soak")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, write the JSON and print the tables."""
    arguments = _parser().parse_args(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the finally blocks clean up
    out = Path(arguments.out)
    if arguments.table and not out.exists():
        raise DataError(f"{out} is missing: run python -m benchmarks.serving_faults first")
    if not arguments.table and shutil.which("wrk") is None:
        raise DataError("wrk, the load generator, is not installed: apt-get install wrk")
    results = json.loads(out.read_text()) if out.exists() and not arguments.fast else {}
    if not arguments.table:
        folder = Path(tempfile.mkdtemp(prefix="faults-"))
        try:
            with running_stack(folder, log) as rig:
                for part in arguments.part:
                    log(f"== {part}")
                    results[part] = _PARTS[part](rig, arguments)
                    if not arguments.fast:
                        out.parent.mkdir(parents=True, exist_ok=True)
                        out.write_text(json.dumps(results, indent=1) + "\n")
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    sys.stdout.write(table.markdown(results) + "\n")
    if arguments.table:
        table.write(results)
    return 0


def log(text: str) -> None:
    """Print a message with the time."""
    sys.stdout.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stdout.flush()


def _rate(rig: Rig, arguments: argparse.Namespace) -> float:
    if arguments.rate is None:
        rig.serve()
        most = peak_rate(rig, 4 if arguments.fast else 10)
        arguments.rate = most * arguments.share
        log(f"peak rate {most:.0f} requests per second; the load is {arguments.rate:.0f}")
    return float(arguments.rate)


_PARTS: dict[str, Callable[[Rig, argparse.Namespace], dict[str, Any]]] = {
    "changes": lambda rig, flags: changes.measure(
        rig, rate=_rate(rig, flags), requests=1_000 if flags.fast else flags.requests, fast=flags.fast
    ),
    "kills": lambda rig, flags: kills.measure(rig, rate=_rate(rig, flags), kills=1 if flags.fast else flags.kills),
    "shadowing": lambda rig, flags: shadowing.measure(
        rig, rate=_rate(rig, flags), rounds=1 if flags.fast else 5, fault_s=5 if flags.fast else 20
    ),
    "scaling": lambda rig, flags: scaling.measure(rig, seconds=3 if flags.fast else 8, target=flags.target),
    "soak": lambda rig, flags: soak.measure(rig, rate=_rate(rig, flags), minutes=0.5 if flags.fast else flags.minutes),
}  # fmt: skip


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.serving_faults",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--part", nargs="+", choices=PARTS, default=list(PARTS[:-1]), help="parts to measure (default: all but soak)")
    add(
        "--requests",
        type=int,
        default=50_000,
        help="minimum number of requests during the changes (default %(default)s)",
    )
    add("--kills", type=int, default=3, help="kills of each kind of process (default %(default)s)")
    add("--minutes", type=float, default=30, help="minutes of the soak (default %(default)s)")
    add("--share", type=float, default=0.5, help="load as a share of the peak rate (default %(default)s)")
    add("--rate", type=float, help="load, requests per second; skips measuring the peak rate")
    add(
        "--target", type=float, default=0.6, help="CPU share per replica that autoscaling aims at (default %(default)s)"
    )
    add("--fast", action="store_true", help="short rounds, one kill each; write no results")
    add("--table", action="store_true", help="do not measure; write the tables in docs/serving_faults.md from --out")
    add("--out", default=str(table.RESULTS), help="results, JSON")
    return parser


if __name__ == "__main__":
    run_command(main, uses_stack=False)
