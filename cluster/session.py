"""A job's process: joined to Ray while it works, and unwound rather than cut off by SIGTERM."""

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
    """Join the caller's Ray or the job's (RAY_ADDRESS), or start one on this machine and stop it at the end.

    Raises ConfigError when RAY_ADDRESS leads nowhere.
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
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # one machine, which nobody takes away
    try:
        # What a user should see of the workers reaches the driver as data; Ray's own lines would drown it.
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
    """Let SIGTERM (`ray job stop`) unwind like ctrl-C and temporary files go; enter after ray.init sets its own."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
