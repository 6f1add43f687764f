"""Wait until data are there and no longer grow: `python -m ray_jobs.await_data --data PATH --hours 6`.

Where they are is only known to the machines that read them, so the waiting is done there, by one idle process.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Sequence

from fraud.cli import run_command
from fraud.data.files import find, reading
from fraud.errors import ConfigError, DataError
from fraud.settings import Settings, turn_telemetry_off

logger = logging.getLogger(__name__)

NOT_THERE = 3  # exit code; 2 is a mistake in the command


def sizes(path: str) -> dict[str, int]:
    """{name: bytes} of the data files of `path`; empty while there are none."""
    try:
        with reading(path):
            filesystem, files = find(path)
            filesystem.invalidate_cache()
            return {name: int(filesystem.size(name) or 0) for name in files}
    except DataError as error:
        logger.debug("%s", error)
        return {}


def wait(path: str, *, hours: float, poll_s: float) -> bool:
    """Whether data came within `hours`: files with something in them, the same at two looks `poll_s` apart."""
    deadline = time.monotonic() + hours * 3600
    before: dict[str, int] = {}
    while True:
        now = sizes(path)
        if now and now == before and all(now.values()):
            logger.info("%s: %d files, %s bytes", path, len(now), f"{sum(now.values()):,}")
            return True
        if time.monotonic() >= deadline:
            return False
        if not now and not before:
            logger.info("waiting for %s", path)
        before = now
        time.sleep(poll_s)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; see `--help`. Returns 0 when the data are there, 3 when they did not come in time."""
    parser = argparse.ArgumentParser(
        prog="python -m ray_jobs.await_data",
        description="Wait until data are there and no longer grow. Exits with 3 when they do not come in time. "
        "Runs without Ray.",
        epilog="example:\n  python -m ray_jobs.await_data --data s3://bucket/2026-01-31.parquet --hours 6",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", required=True, help="CSV or Parquet: a file, folder, glob or URL")
    parser.add_argument("--hours", type=float, default=6.0, help="longest wait (default: %(default)s)")
    parser.add_argument("--poll-s", type=float, default=5.0, help="seconds between looks (default: %(default)s)")
    given = parser.parse_args(argv)
    if given.hours < 0 or given.poll_s <= 0:
        raise ConfigError(
            f"--hours {given.hours} --poll-s {given.poll_s}: give hours of 0 or more, and seconds above 0"
        )
    turn_telemetry_off()
    path = Settings.from_environment().locate(given.data)
    if wait(path, hours=given.hours, poll_s=given.poll_s):
        return 0
    logger.error("%s did not come within %g hours", path, given.hours)
    return NOT_THERE


if __name__ == "__main__":
    run_command(main)
