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
from tuning.order import Resume, SweepRequest, read_command
from tuning.record.journal import locked_journal
from tuning.search import windows

logger = logging.getLogger(__name__)


def sweep(request: SweepRequest | Resume, settings: Settings) -> str:
    """Run or resume a sweep until its last trial or its time budget ends; return the result as text.

    A sweep that is interrupted raises KeyboardInterrupt after its journal is safe. Raises FraudError.
    """
    root = settings.state / "sweeps"
    with locked_journal(root, request.sweep_id, must_exist=isinstance(request, Resume)) as journal:
        order = (
            request
            if isinstance(request, SweepRequest)
            else request.applied_to(SweepRequest.from_dict(journal.read_order()))
        )
        fingerprint = tables.fingerprint(order.data)
        if order.fingerprint not in (None, fingerprint):
            raise ConfigError(
                f"--resume {order.sweep_id}: {order.data} is not what this sweep began with (fingerprint "
                f"{fingerprint[:12]} instead of {str(order.fingerprint)[:12]}): bring the old data back or start anew"
            )
        order = dataclasses.replace(order, fingerprint=fingerprint)
        logger.info("sweep %s: stop it with Ctrl-C, go on with --resume %s", order.sweep_id, order.sweep_id)
        # Ray takes seconds to start. Meanwhile read the data and load libraries.
        with ThreadPoolExecutor(1) as pool:
            reading = pool.submit(windows.read, order)
            pool.submit(import_module, "tuning.execution")
            # Tune's actors have their own environment, so processes that Ray starts in advance would stay unused.
            os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
            with connected(), terminable():
                from tuning import execution

                return execution.run(order, journal, settings, reading)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; see `--help`."""
    settings = Settings.from_environment()
    sys.stdout.write(sweep(read_command(argv, settings), settings))
    return 0


if __name__ == "__main__":
    run_command(main)
