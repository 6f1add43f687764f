"""A file that one process at a time can hold, which the operating system releases however the process dies."""

from __future__ import annotations

import datetime as dt
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class HeldElsewhereError(Exception):
    """Another process holds the lock; the text says which, on which host, since when."""


@contextmanager
def exclusive(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold `path` as a lock file, made if it is missing, and write into it who holds it.

    Raises HeldElsewhereError when another process holds it and `wait` is False.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            file.seek(0)
            raise HeldElsewhereError(file.read().strip() or "another process") from None
        file.truncate(0)
        file.write(
            f"process {os.getpid()} on {socket.gethostname()} since {dt.datetime.now().isoformat(' ', 'seconds')}\n"
        )
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)
