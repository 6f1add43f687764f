"""Throughput and latency of our /score beside other servers, under the same load in one run.

    python -m benchmarks.serving                                          # everything, 5 rounds: about half an hour
    python -m benchmarks.serving --only ours fastapi --rounds 1 --fast    # smoke test
    python -m benchmarks.serving --part single --only ours fastapi seed   # a part: prints, writes nothing
    python -m benchmarks.serving --table                                  # rewrite the tables in the docs

Every server runs on 127.0.0.1, started as its documentation says, with the same model (the seed style trains its own).
One server is loaded at a time, by wrk (apt-get install wrk). Each round restarts every server, in another order.
Figures are medians over the rounds; ratios are taken within a round. Peers outside our environment are installed by pip
from benchmarks/serving/requirements into FRAUD_STATE/benchmarks/peers. The first run installs and trains: some minutes.
Run nothing else meanwhile.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import json
import platform
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.serving import measure, table, workload
from benchmarks.serving.servers import SERVERS, USUAL
from fraud.cli import run_command
from fraud.errors import DataError
from fraud.settings import Settings, git_commit

ROUNDS, SECONDS = 5, 2


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, write the JSON and print the tables."""
    arguments = _parser().parse_args(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the finally blocks clean up
    out = Path(arguments.out or table.RESULTS)
    if arguments.table:
        if not out.exists():
            raise DataError(f"{out} is missing: run python -m benchmarks.serving first")
        results = json.loads(out.read_text())
        print(table.markdown(results))
        table.write(results)
        return 0
    began = time.monotonic()
    settings = Settings.from_environment()
    _log("preparing the model and the peers' environments ...")
    rounds, seconds = (1, 1) if arguments.fast else (arguments.rounds, arguments.seconds)
    sent = workload.prepare(settings)
    measured = measure.run(
        arguments.only, sent, settings, parts=arguments.part, rounds=rounds, seconds=seconds, log=_log
    )
    described = {
        "rounds": rounds, "seconds": seconds, "minutes": round((time.monotonic() - began) / 60, 1),
        "cpus": os.cpu_count(), "python": platform.python_version(), "git_commit": git_commit(),
    }  # fmt: skip
    results = {"run": described, "servers": measured}
    print(table.markdown(results))
    is_full_run = arguments.only == USUAL and arguments.part == list(measure.PARTS) and not arguments.fast
    if arguments.out or is_full_run:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(results, indent=1) + "\n")
    return 0


def _log(text: str) -> None:
    print(text, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.serving", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    titles = "; ".join(f"{name}: {server.title}" for name, server in SERVERS.items())
    add(
        "--only",
        nargs="+",
        choices=list(SERVERS),
        default=USUAL,
        metavar="NAME",
        help=f"servers (default: all but serve-1). {titles}",
    )
    add("--part", nargs="+", choices=measure.PARTS, default=list(measure.PARTS), help="parts to measure (default: all)")
    add("--rounds", type=int, default=ROUNDS, help=f"rounds (default {ROUNDS})")
    add(
        "--seconds",
        type=int,
        default=SECONDS,
        help=f"seconds of each load (default {SECONDS}), after one second of warm-up",
    )
    add("--fast", action="store_true", help="one round, one second per load")
    add("--table", action="store_true", help="do not measure; write the tables in docs/serving_speed.md from --out")
    add("--out", help=f"results, JSON (default {table.RESULTS.name}; a partial run writes none)")
    return parser


if __name__ == "__main__":
    run_command(main, uses_stack=False)
