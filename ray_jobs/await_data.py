"""Wait until data exist and no longer grow: `python -m ray_jobs.await_data --data PATH --hours 6`.

Runs as a job, because only the cluster's machines are sure to reach the data.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Sequence

from fraud.cli import examples, run_command
from fraud.data.files import find, reading
from fraud.errors import ConfigError, DataError
from fraud.settings import Settings, turn_telemetry_off

logger = logging.getLogger(__name__)

NOT_THERE = 3  # exit code; 2 is a mistake in the command


def sizes(path: str) -> dict[str, int]:
    """{name: bytes} of the data files in `path`; empty while there are none."""
    try:
        with reading(path):
            filesystem, files = find(path)
            filesystem.invalidate_cache()
            return {name: int(filesystem.size(name) or 0) for name in files}
    except DataError as error:
        logger.debug("%s", error)
        return {}


def wait(path: str, *, hours: float, poll_s: float) -> bool:
    """Whether data arrived within `hours`: no file is empty, and two polls `poll_s` apart see the same sizes."""
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
    """Run the command; see `--help`. Returns 0 when the data are complete, 3 after the longest wait."""
    parser = argparse.ArgumentParser(
        prog="python -m ray_jobs.await_data",
        description="Wait until data exist and no longer grow. Exits with 3 when they do not arrive in time. "
        "Runs without Ray.",
        **examples("python -m ray_jobs.await_data --data s3://bucket/2026-01-31.parquet --hours 6"),
    )
    parser.add_argument("--data", required=True, help="CSV or Parquet: a file, folder, glob or URL")
    parser.add_argument("--hours", type=float, default=6.0, help="longest wait (default: %(default)s)")
    parser.add_argument("--poll-s", type=float, default=5.0, help="seconds between polls (default: %(default)s)")
    arguments = parser.parse_args(argv)
    if arguments.hours < 0 or arguments.poll_s <= 0:
        raise ConfigError(
            f"--hours {arguments.hours} --poll-s {arguments.poll_s}: give hours of 0 or more, and seconds above 0"
        )
    turn_telemetry_off()
    path = Settings.from_environment().locate(arguments.data)
    if wait(path, hours=arguments.hours, poll_s=arguments.poll_s):
        return 0
    logger.error("%s did not arrive within %g hours", path, arguments.hours)
    return NOT_THERE


if __name__ == "__main__":
    run_command(main)
