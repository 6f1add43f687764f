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
from fraud.settings import Settings, context, turn_telemetry_off

logger = logging.getLogger(__name__)


@contextmanager
def connected(*, has_actor_pool: bool = False) -> Iterator[None]:
    """Use the caller's Ray, or connect to RAY_ADDRESS, or start a local Ray and stop it at the end.

    RAY_ADDRESS is that of the running stack, unless the environment says otherwise (fraud.settings.context). Raises
    ConfigError if nothing answers there.

    has_actor_pool: the command runs a pool of Ray Data, for which Ray's core prints an ERROR in red that is none (ray
    issue 53727). Errors of Ray's Python stay.
    """
    address = os.environ.get("RAY_ADDRESS") or "local"
    if address == "local":
        # Keeps a Ray of our own on loopback. Ray 2.60.0 reads it when it is imported (docs/security.md).
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    import ray

    if ray.is_initialized():
        yield
        return
    turn_telemetry_off()
    options: dict[str, Any] = {}
    if address == "local":
        options["include_dashboard"] = False
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # a local Ray is never preempted
        logger.info("starting a Ray for this command only")
    else:
        source = context.source(Settings.from_environment(), "RAY_ADDRESS", address)
        if source and not context.is_answering(address):
            raise ConfigError(context.not_running(source))
        logger.info("Ray at %s%s", address, f" ({source})" if source else "")
        if has_actor_pool:
            os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
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
