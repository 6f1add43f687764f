"""Connect a job's process to Ray, and let SIGTERM unwind it like ctrl-C."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fraud.errors import ConfigError
from fraud.settings import turn_telemetry_off


@contextmanager
def connected() -> Iterator[None]:
    """Use the caller's Ray, or connect to RAY_ADDRESS, or start a local Ray and stop it at the end.

    Raises ConfigError if nothing answers at RAY_ADDRESS.
    """
    import ray

    if ray.is_initialized():
        yield
        return
    turn_telemetry_off()
    address = os.environ.get("RAY_ADDRESS") or "local"
    options: dict[str, Any] = {}
    if address == "local":
        options["include_dashboard"] = False
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # a local Ray is never preempted
    try:
        # Workers report to the driver as data. Ray's own log lines would hide it.
        ray.init(address=address, logging_level=logging.WARNING, log_to_driver=False, **options)
    except (ConnectionError, RuntimeError, ValueError) as error:  # RuntimeError: an unknown scheme, or no answer
        line = " ".join(str(error).split())[:200]
        raise ConfigError(f"no Ray at RAY_ADDRESS={address!r} ({line}): start it, or unset RAY_ADDRESS") from error
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def terminable() -> Iterator[None]:
    """Let SIGTERM (`ray job stop`) unwind like ctrl-C, so temporary files are removed. Enter it after ray.init."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
