"""A lock file for one process at a time. The operating system releases it when the process dies."""

from __future__ import annotations

import datetime as dt
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


class AlreadyLockedError(Exception):
    """Another process holds the lock; the message has process, host and time."""


@contextmanager
def exclusive(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Lock the file `path`, creating it if missing, and write the holder into it.

    Raises AlreadyLockedError if another process holds it and `wait` is False; OSError on a file system without locks.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # filelock falls back to soft locks, which survive a killed process.
    lock = FileLock(path, blocking=wait, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout:
        raise AlreadyLockedError(path.read_text(encoding="utf-8").strip() or "another process") from None
    try:
        now = dt.datetime.now().isoformat(" ", "seconds")
        path.write_text(f"process {os.getpid()} on {socket.gethostname()} since {now}\n", encoding="utf-8")
        try:
            yield
        finally:
            path.write_text("", encoding="utf-8")
    finally:
        lock.release()
