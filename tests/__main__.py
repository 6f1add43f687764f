"""Run the tests in parts, two at a time: `python -m tests [check | test | drills]`, which make calls.

check: what needs no Ray, no server and no browser, in two processes. test: everything but the long drills.
drills: killed nodes, killed drivers, `ray up` and other tests of minutes, one after the other.
Each line appears as it comes, with the name of its part before it. Two parts keep two cores busy; more would fight
for them. Only the part of the core measures coverage: tracing costs half as much again.
"""

from __future__ import annotations

import argparse
import logging
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence

from fraud.cli import examples

COVERAGE = ["--cov=fraud", "--cov-report=term:skip-covered", "--cov-fail-under=90"]
PYTEST = [sys.executable, "-u", "-m", "pytest", "--durations=10"]
EACH = [*PYTEST, "-vv"]  # a line for each test, where a test takes seconds
# Tests of the core, among them those of jobs that do little but call it.
CORE = ["tests/fraud", "tests/ray_jobs/gate", "tests/ray_jobs/history", "tests/ray_jobs/labels/test_labels.py"]
HALF = ["tests/fraud", "tests/ray_jobs", "tests/monitoring"]  # of the quick tests' processor time


def all_but(paths: Sequence[str]) -> list[str]:
    return ["tests", *(f"--ignore={path}" for path in paths)]


QUICK = "not (shared_ray or live or slow or drill)"
PARTS: dict[str, dict[str, list[str]]] = {  # tests/conftest.py adds shared_ray and live
    "check": {
        "core and jobs": [*PYTEST, "-m", QUICK, *HALF],
        "others": [*PYTEST, "-m", QUICK, *all_but(HALF)],
    },
    "test": {
        "live": [*EACH, "-m", "live and not (airflow or drill)"],
        "core": [*PYTEST, "-m", "not (shared_ray or live or drill)", *CORE, *COVERAGE],
        "others": [*PYTEST, "-m", "not (shared_ray or live or drill)", *all_but(CORE)],
        "shared Ray": [*EACH, "-m", "shared_ray and not drill"],
        "Airflow": [*EACH, "-m", "live and airflow and not drill"],
    },
    "drills": {
        "nodes and drivers": [*EACH, "-m", "drill and not shared_ray"],
        "sweeps and trainings": [*EACH, "-m", "drill and shared_ray"],
    },
}
AT_ONCE = {"check": 2, "test": 2, "drills": 1}
INTERRUPTED = 130
# Lines of pytest that say what failed and why. They are shown again at the end, where a cut log still has them.
WHAT_FAILED = re.compile(rb"(?:FAILED|ERROR) |E   ")
SHOWN_AGAIN, SHOWN_BYTES = 60, 300
UNWIND_SECONDS = 120  # an interrupted pytest stops the servers that its tests started

logger = logging.getLogger(__name__)


def run(parts: Mapping[str, Sequence[str]], at_once: int = 2) -> int:
    """Run commands in their order, some at once, and print each line as it comes, after the name of its part.

    Returns the largest exit code, or 130 after ctrl-C or SIGTERM, which every running command gets once.
    """
    began = time.monotonic()
    waiting = list(parts.items())
    running: dict[str, subprocess.Popen[bytes]] = {}
    codes: dict[str, int] = {}
    readers: dict[str, threading.Thread] = {}
    failures: dict[str, list[bytes]] = {}
    before = {number: signal.signal(number, signal.default_int_handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                name, command = waiting.pop(0)
                logger.info("=== %s: begins", name)
                # In a group of its own, or ctrl-C would reach it twice: from the terminal and from here.
                running[name] = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, process_group=0
                )
                lines = failures[name] = []
                readers[name] = threading.Thread(target=show, args=(name, running[name], lines), daemon=True)
                readers[name].start()
            time.sleep(0.1)
            for name in [name for name, process in running.items() if process.poll() is not None]:
                readers[name].join(5)  # a process that outlives its test may keep the pipe open
                codes[name] = abs(running.pop(name).returncode)
                logger.info("=== %s: exit code %d after %d s", name, codes[name], time.monotonic() - began)
    except KeyboardInterrupt:
        logger.info("interrupted: stopping what the tests started")
        return INTERRUPTED
    finally:
        stop(list(running.values()))
        for reader in readers.values():
            reader.join(5)
        for number, handler in before.items():
            signal.signal(number, handler)
    failed = [name for name, code in codes.items() if code]
    for name in failed:
        for line in failures[name][-SHOWN_AGAIN:]:
            write(name, line[:SHOWN_BYTES])
    outcome = f"failed in {', '.join(failed)}" if failed else "passed"
    logger.info("=== all tests: %s, %d s", outcome, time.monotonic() - began)
    return max(codes.values())


def show(name: str, process: subprocess.Popen[bytes], failures: list[bytes]) -> None:
    """Print a process's lines as they come, and add those that say what failed to `failures`."""
    assert process.stdout is not None
    for line in process.stdout:
        write(name, line.rstrip(b"\n"))
        if WHAT_FAILED.match(line):
            failures.append(line.rstrip(b"\n"))


def write(name: str, line: bytes) -> None:
    """Print a line of a part."""
    sys.stdout.buffer.write(f"{name} | ".encode() + line + b"\n")
    sys.stdout.flush()


def stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Interrupt what still runs and give it time to clear up."""
    left = [process for process in processes if process.poll() is None]
    for process in left:
        process.send_signal(signal.SIGINT)
    deadline = time.monotonic() + UNWIND_SECONDS
    for process in left:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests",
        description="Run the tests in parts, two at a time.",
        **examples("python -m tests check"),
    )
    parser.add_argument("parts", nargs="?", choices=PARTS, default="test", help="which (default: %(default)s)")
    chosen = parser.parse_args(arguments).parts
    return run(PARTS[chosen], AT_ONCE[chosen])


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    raise SystemExit(main())
