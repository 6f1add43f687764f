"""A file that one process at a time can hold, which the operating system releases however the process dies."""

from __future__ import annotations

import datetime as dt
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


class HeldElsewhereError(Exception):
    """Another process holds the lock; the text says which, on which host, since when."""


@contextmanager
def exclusive(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold `path` as a lock file, made if it is missing, and write into it who holds it.

    Raises HeldElsewhereError when another process holds it and `wait` is False; OSError on a file system without locks.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # A soft lock, which filelock would take where there are no others, outlives a killed process.
    lock = FileLock(path, blocking=wait, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout:
        raise HeldElsewhereError(path.read_text(encoding="utf-8").strip() or "another process") from None
    try:
        now = dt.datetime.now().isoformat(" ", "seconds")
        path.write_text(f"process {os.getpid()} on {socket.gethostname()} since {now}\n", encoding="utf-8")
        try:
            yield
        finally:
            path.write_text("", encoding="utf-8")
    finally:
        lock.release()
