"""A lock in S3: a lease file, created and renewed by conditional writes.

A holder renews every `RENEW_S` seconds. After `LEASE_S` seconds without renewal, by the waiter's clock, a waiter takes
the lease over. A holder that was only suspended learns at its next `renew` that it lost the lease.
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

LEASE_S, RENEW_S, POLL_S = 60.0, 15.0, 1.0


class Lease:
    """A lease that this process holds; see `acquire`."""

    def __init__(self, filesystem: Any, path: str, etag: str) -> None:
        self._filesystem, self._path, self._etag = filesystem, path, etag
        self._count, self._is_lost = 0, False
        self._guard = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._keep_renewing, name="lease", daemon=True)
        self._thread.start()

    def renew(self) -> None:
        """Renew the lease. Raises DataError if another process took it over."""
        with self._guard:
            if not self._is_lost:
                self._count += 1
                etag = self._filesystem.put_if(self._path, _holder(self._count), self._etag)
                self._is_lost, self._etag = etag is None, etag or self._etag
            if self._is_lost:
                raise DataError(
                    f"{self._path}: another job took over this lock, because this job did not renew it for "
                    f"{LEASE_S:.0f} s; run it again"
                )

    def release(self) -> None:
        """Remove the lease. If that fails, it expires."""
        self._over.set()
        self._thread.join()
        with suppress(ObjectStoreError, OSError, DataError):
            self.renew()
            self._filesystem.rm_file(self._path)

    def _keep_renewing(self) -> None:
        while not self._over.wait(RENEW_S):
            try:
                self.renew()
            except ObjectStoreError as error:
                logger.warning("the lock %s cannot be renewed (%s); trying again", self._path, error)
            except DataError as error:
                logger.error("%s", error)
                return


@contextmanager
def acquire(filesystem: Any, path: str) -> Iterator[Lease]:
    """Hold the lease at `path`, waiting for another holder if necessary. Raises ObjectStoreError."""
    lease = Lease(filesystem, path, _wait_for(filesystem, path))
    try:
        yield lease
    finally:
        lease.release()


def _wait_for(filesystem: Any, path: str) -> str:
    """Wait for the lease, and return its ETag."""
    seen, since, has_logged = None, time.monotonic(), False
    while True:
        etag = filesystem.put_if(path, _holder(0), None)
        if etag is not None:
            return str(etag)
        current = filesystem.etag(path)
        if current != seen:
            seen, since = current, time.monotonic()
        elif current is not None and time.monotonic() - since > LEASE_S:
            logger.warning("%s was not renewed for %.0f s: its holder is dead, taking it over", path, LEASE_S)
            etag = filesystem.put_if(path, _holder(0), current)
            if etag is not None:
                return str(etag)
        if not has_logged:
            has_logged = True
            logger.info("waiting for another job that holds %s", path)
        time.sleep(POLL_S)


def _holder(count: int) -> bytes:
    now = dt.datetime.now(dt.UTC).isoformat(" ", "milliseconds")
    return f"process {os.getpid()} on {socket.gethostname()}, {now}, renewed {count} times\n".encode()
