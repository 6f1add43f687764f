"""Run every test as three pytest processes side by side: `python -m tests`, which is what `make test` does.

One computes; one shares a Ray for its tests; one starts Rays, servers, browsers and commands that it mostly waits for.
What needs Airflow, whose processes are many, begins when the first has ended.
Two cores are kept busy so, which one process after the other would leave idle half of the time. Only the first
measures coverage: Python's tracer costs half as much again, and sees nothing of what runs in Ray's workers.
"""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

COVERAGE = ["--cov=fraud", "--cov-report=term:skip-covered", "--cov-fail-under=90"]
PYTEST = [sys.executable, "-m", "pytest", "--durations=10"]
PARTS = {  # tests/conftest.py marks modules so
    "quick": [*PYTEST, "-m", "not (shared_ray or live)", *COVERAGE],
    "shared Ray": [*PYTEST, "-m", "shared_ray"],
    "live": [*PYTEST, "-m", "live and not airflow"],
}
LATER = {"Airflow": [*PYTEST, "-m", "live and airflow"]}
INTERRUPTED = 130
UNWIND_SECONDS = 120  # a pytest that is interrupted stops the servers that its tests started

logger = logging.getLogger(__name__)


def run(commands: Mapping[str, Sequence[str]], later: Mapping[str, Sequence[str]] | None = None) -> int:
    """Run commands at the same time and show their outputs one after the other, the first as it comes.

    later: commands that begin when the first one has ended. Returns the largest exit code, or 130 after ctrl-C or
    SIGTERM, which every command gets once.
    """
    began = time.monotonic()
    running: dict[str, subprocess.Popen[bytes]] = {}
    before = {number: signal.signal(number, signal.default_int_handler) for number in (signal.SIGINT, signal.SIGTERM)}
    with tempfile.TemporaryDirectory(prefix="fraud-tests-") as folder:

        def begin(parts: Mapping[str, Sequence[str]]) -> None:
            for name, command in parts.items():
                with (Path(folder) / name).open("wb") as output:
                    # In a group of its own, or ctrl-C would reach it twice: from the terminal and from here.
                    running[name] = subprocess.Popen(
                        command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, process_group=0
                    )

        try:
            begin(commands)
            for place, name in enumerate([*commands, *(later or {})]):
                logger.info("=== %s tests", name)
                for piece in follow(Path(folder) / name, running[name]):
                    sys.stdout.buffer.write(piece)
                    sys.stdout.flush()
                logger.info("=== %s tests: exit code %d", name, running[name].returncode)
                if place == 0:
                    begin(later or {})
        except KeyboardInterrupt:
            logger.info("interrupted: stopping what the tests started")
            return INTERRUPTED
        finally:
            stop(list(running.values()))
            for number, handler in before.items():
                signal.signal(number, handler)
    codes = {name: process.returncode for name, process in running.items()}
    logger.info("=== all tests: %s, %d s", "failed" if any(codes.values()) else "passed", time.monotonic() - began)
    return max(abs(code) for code in codes.values())


def follow(path: Path, process: subprocess.Popen[bytes]) -> Iterator[bytes]:
    """What a process writes to a file, until it has ended."""
    with path.open("rb") as output:
        while True:
            has_ended = process.poll() is not None
            yield output.read()
            if has_ended:
                return
            time.sleep(0.2)


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


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    raise SystemExit(run(PARTS, LATER))
