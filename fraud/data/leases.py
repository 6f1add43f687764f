"""A lock in S3, where there are no locks: a file that one process makes, keeps fresh, and takes away.

It is made on condition that there is none, and changed on condition that it is still ours (conditional writes). A
process that died freshens it no more, and who has seen it unchanged for `LEASE_S` seconds by his own clock takes it
over. One that was only asleep finds at its next `check` that it lost the lease.
"""

from __future__ import annotations

import datetime as dt
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from fraud.errors import DataError, ObjectStoreError

logger = logging.getLogger(__name__)

LEASE_S, FRESHEN_S, LOOK_S = 60.0, 15.0, 1.0


class Lease:
    """A lease that this process got; `held` makes one."""

    def __init__(self, filesystem: Any, path: str, etag: str) -> None:
        self._filesystem, self._path, self._etag = filesystem, path, etag
        self._count, self._is_lost = 0, False
        self._guard = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._keep_fresh, name="lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Freshen the lease. Raises DataError where another process has taken it over meanwhile."""
        with self._guard:
            if not self._is_lost:
                self._count += 1
                etag = self._filesystem.put_if(self._path, _holder(self._count), self._etag)
                self._is_lost, self._etag = etag is None, etag or self._etag
            if self._is_lost:
                raise DataError(
                    f"{self._path}: another job took this lock over, because this one did not answer for "
                    f"{LEASE_S:.0f} s; run it again"
                )

    def release(self) -> None:
        """Let others have it. What cannot be removed runs out by itself."""
        self._over.set()
        self._thread.join()
        with suppress(ObjectStoreError, OSError, DataError):
            self.check()
            self._filesystem.rm_file(self._path)

    def _keep_fresh(self) -> None:
        while not self._over.wait(FRESHEN_S):
            try:
                self.check()
            except ObjectStoreError as error:
                logger.warning("the lock %s cannot be kept fresh (%s); trying again", self._path, error)
            except DataError as error:
                logger.error("%s", error)
                return


@contextmanager
def held(filesystem: Any, path: str) -> Iterator[Lease]:
    """Hold the lease at `path` while working; wait for whoever has it. Raises ObjectStoreError."""
    lease = Lease(filesystem, path, _taken(filesystem, path))
    try:
        yield lease
    finally:
        lease.release()


def _taken(filesystem: Any, path: str) -> str:
    """Wait for the lease, and return its ETag."""
    seen, since, has_told = None, time.monotonic(), False
    while True:
        etag = filesystem.put_if(path, _holder(0), None)
        if etag is not None:
            return str(etag)
        current = filesystem.etag(path)
        if current != seen:
            seen, since = current, time.monotonic()
        elif current is not None and time.monotonic() - since > LEASE_S:
            logger.warning("%s was not freshened for %.0f s: its holder is dead, taking it over", path, LEASE_S)
            etag = filesystem.put_if(path, _holder(0), current)
            if etag is not None:
                return str(etag)
        if not has_told:
            has_told = True
            logger.info("waiting for another job, which holds %s", path)
        time.sleep(LOOK_S)


def _holder(count: int) -> bytes:
    now = dt.datetime.now(dt.UTC).isoformat(" ", "milliseconds")
    return f"process {os.getpid()} on {socket.gethostname()}, {now}, freshened {count} times\n".encode()
