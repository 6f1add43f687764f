"""The thread of a replica that merges the decision log's small files, in a process of its own.

Every replica has one. A lock lets one of them work; the others find nothing left to merge.
"""

from __future__ import annotations

import logging
import os
import random
import subprocess
import sys
import threading
from pathlib import Path

from fraud.settings.serving import DecisionSettings

logger = logging.getLogger(__name__)

_ROOT = Path(__file__).resolve().parents[2]
_LAST_DAYS = 3  # older days change only if a machine was away; the command merges them
_POLL_S = 1.0


class Compactor:
    """Runs `python -m serve_app.decisions compact` every `settings.compact_s` seconds, unless that is 0."""

    def __init__(self, settings: DecisionSettings) -> None:
        self._settings = settings
        self._has_ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="decision-compactor", daemon=True)

    def start(self) -> None:
        """Start the thread, if there is a log."""
        if self._settings.url is not None and self._settings.compact_s:
            self._thread.start()

    def stop(self) -> None:
        """End the thread and its process, which may be interrupted at any point."""
        self._has_ended.set()
        if self._thread.is_alive():
            self._thread.join(2 * _POLL_S)

    def run_once(self) -> bool:
        """Merge once; whether that succeeded. An error is logged."""
        command = [sys.executable, "-m", "serve_app.decisions", "compact", "--last-days", str(_LAST_DAYS)]
        path = os.pathsep.join(part for part in (str(_ROOT), os.environ.get("PYTHONPATH", "")) if part)
        process = subprocess.Popen(
            [*command, "--decisions", str(self._settings.url)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "ARROW_NUM_THREADS": "1"},
            cwd=_ROOT,
            text=True,
        )
        while True:
            try:
                _, errors = process.communicate(timeout=_POLL_S)
                break
            except subprocess.TimeoutExpired:
                if self._has_ended.is_set():
                    process.kill()
        if process.returncode and not self._has_ended.is_set():
            last = errors.strip().splitlines()[-1:] or ["no message"]
            logger.warning("the files of the decision log were not merged (retrying later): %s", last[0])
        return process.returncode == 0

    def _run(self) -> None:
        pause = self._settings.compact_s
        # Not all replicas at once, and soon after a start, because a service may be deployed anew every day.
        wait = random.uniform(0.05, 0.5) * pause
        while not self._has_ended.wait(wait):
            self.run_once()
            wait = pause
