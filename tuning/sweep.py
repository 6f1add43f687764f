"""`python -m tuning.sweep`: search both detectors and the thresholds in parallel, every trial in MLflow, resumable."""

from __future__ import annotations

import dataclasses
import logging
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module

from cluster.session import connected, terminable
from fraud.cli import run_command
from fraud.data import tables
from fraud.errors import ConfigError
from fraud.settings import Settings
from tuning.record.journal import locked_journal
from tuning.request import Resume, SweepRequest, read_command
from tuning.search import windows

logger = logging.getLogger(__name__)


def sweep(command: SweepRequest | Resume, settings: Settings) -> str:
    """Run or resume a sweep until its last trial or its time budget ends; return the result as text.

    Raises FraudError, and KeyboardInterrupt when interrupted; the journal is then complete.
    """
    root = settings.state / "sweeps"
    with locked_journal(root, command.sweep_id, must_exist=isinstance(command, Resume)) as journal:
        request = (
            command
            if isinstance(command, SweepRequest)
            else command.applied_to(SweepRequest.from_dict(journal.read_request()))
        )
        fingerprint = tables.fingerprint(request.data)
        if request.fingerprint not in (None, fingerprint):
            raise ConfigError(
                f"--resume {request.sweep_id}: {request.data} has changed since this sweep started "
                f"(fingerprint {fingerprint[:12]} instead of {str(request.fingerprint)[:12]}): "
                "restore the old data, or start a new sweep"
            )
        request = dataclasses.replace(request, fingerprint=fingerprint)
        logger.info("sweep %s: stop it with Ctrl-C, resume it with --resume %s", request.sweep_id, request.sweep_id)
        # Ray takes seconds to start. Meanwhile read the data and load libraries.
        with ThreadPoolExecutor(1) as pool:
            reading = pool.submit(windows.read, request)
            pool.submit(import_module, "tuning.execution")
            # Tune's actors have their own environment, so processes that Ray starts in advance would stay unused.
            os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
            with connected(), terminable():
                from tuning import execution

                return execution.run(request, journal, settings, reading)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; see `--help`."""
    settings = Settings.from_environment()
    sys.stdout.write(sweep(read_command(argv, settings), settings))
    return 0


if __name__ == "__main__":
    run_command(main)
