"""An LMDB file shared by all processes of a machine: opened once per process, synced regularly, replaced when damaged.

A commit writes to the page cache. A killed process loses nothing; a power cut loses at most the commits since the last
sync (`SYNC_S`). LMDB allows one open environment per process and one writer at a time. The operating system releases
the write lock when its holder dies.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from fraud.data.locks import exclusive
from fraud.errors import StoreError

logger = logging.getLogger(__name__)

SYNC_S = 1.0
# Address space only: the file grows with its content.
LARGEST_BYTES = 256 << 30
_READERS = 1024
_FILE, _LOCKS, _BOOT_MARK = "data.mdb", "lock.mdb", "boot"
_BOOT = Path("/proc/sys/kernel/random/boot_id")
# Reads every page. Runs in a subprocess, because a damaged page may crash it.
_CHECK = """
import lmdb, sys
with lmdb.open(sys.argv[1], readonly=True, lock=False, map_size=int(sys.argv[2])) as env, env.begin() as txn:
    for _ in txn.cursor(): pass
"""
_CHECK_S = 600.0
T = TypeVar("T")

_opened: dict[str, Environment] = {}
_opening = threading.Lock()


def shared(folder: Path) -> Environment:
    """The environment in `folder`, shared by all stores of this process. Call `Environment.close` once per call.

    Raises StoreError if it cannot be opened.
    """
    name = str(folder.resolve())
    with _opening:
        environment = _opened.get(name) or Environment(folder)
        environment.users += 1
        _opened[name] = environment
    return environment


class Environment:
    """An open LMDB file, created by `shared`. users: number of stores that use it. Thread-safe."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.users = folder, 0
        self._is_failing = False
        self._guard = threading.Lock()
        self._is_dirty, self._has_ended = threading.Event(), threading.Event()
        self._env: Any = self._open()
        self._thread = threading.Thread(target=self._sync_regularly, name="history-sync", daemon=True)
        self._thread.start()

    def write(self, work: Callable[[Any], T]) -> T:
        """Run `work` in a write transaction; an exception rolls it back. Raises StoreError."""
        result = self._try(work, write=True)
        self._is_dirty.set()
        return result

    def read(self, work: Callable[[Any], T]) -> T:
        """Run `work` in a read transaction: a consistent snapshot, without blocking writers. Raises StoreError."""
        return self._try(work, write=False)

    def sync(self) -> None:
        """Force all commits to disk. Raises StoreError."""
        import lmdb

        self._is_dirty.clear()
        try:
            self._env.sync(True)
        except lmdb.Error as error:
            self._is_dirty.set()
            raise self._failure(error) from error

    def copy(self, folder: Path) -> None:
        """Copy the content as of this moment into an empty folder, without blocking writers. Raises StoreError."""
        import lmdb

        try:
            self._env.copy(str(folder), compact=True)
        except lmdb.Error as error:
            raise self._failure(error) from error

    def recover(self) -> bool:
        """Free the slots of dead readers. If the file was replaced or removed, open the current one and return True.

        Raises StoreError.
        """
        import lmdb

        try:
            self._env.reader_check()
            is_same = (self.folder / _FILE).stat().st_ino == self._inode
        except FileNotFoundError:
            is_same = False
        except lmdb.Error as error:
            raise self._failure(error) from error
        if not is_same:
            self._reopen()
        return not is_same

    def close(self) -> None:
        """Release one use; the last one syncs and closes the file."""
        with _opening:
            self.users -= 1
            if self.users > 0:
                return
            _opened.pop(str(self.folder.resolve()), None)
        self._has_ended.set()
        self._is_dirty.set()
        self._thread.join()
        try:
            self.sync()
        except StoreError as error:
            logger.warning("the live history is not forced to disk: %s", error)
        self._env.close()

    def _try(self, work: Callable[[Any], T], *, write: bool) -> T:
        import lmdb

        try:
            with self._env.begin(write=write) as transaction:
                result = work(transaction)
        except (lmdb.PanicError, lmdb.CorruptedError, lmdb.PageNotFoundError) as error:
            failure = self._failure(error)
            self._reopen(is_suspect=True)
            raise failure from error
        except lmdb.Error as error:
            raise self._failure(error) from error
        if self._is_failing:
            logger.info("the live history in %s can be used again", self.folder)
            self._is_failing = False
        return result

    def _failure(self, error: Exception) -> StoreError:
        """The error to raise. Logs once per outage."""
        import lmdb

        remedy = "check the disk's free space and the folder's rights"
        if isinstance(error, lmdb.MapFullError):
            remedy = f"it reached its limit of {LARGEST_BYTES >> 30} GiB: use FRAUD_HISTORY_URL=redis://..."
        message = f"the live history in {self.folder} failed ({type(error).__name__}: {error}); {remedy}"
        if not self._is_failing:
            logger.warning("%s. Until it works, rows are scored with the model's own history", message)
        self._is_failing = True
        return StoreError(message)

    def _open(self, *, is_suspect: bool = False) -> Any:
        import lmdb

        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with exclusive(self.folder / "open.lock"):
                self._quarantine_if_damaged(is_suspect)
                env = lmdb.open(
                    str(self.folder), map_size=LARGEST_BYTES, mode=0o600, max_readers=_READERS,
                    sync=False, metasync=False, writemap=False, readahead=False, max_spare_txns=8,
                )  # fmt: skip
                self._inode = (self.folder / _FILE).stat().st_ino
                return env
        except (lmdb.Error, OSError) as error:
            raise StoreError(
                f"the live history in {self.folder} cannot be opened ({error}): it must be a folder of a local disk "
                "that this user may write, or set FRAUD_HISTORY_URL to another store"
            ) from error

    def _quarantine_if_damaged(self, is_suspect: bool) -> None:
        """Check a possibly damaged file by reading all of it, and rename it if damaged. The caller holds the lock."""
        path, mark = self.folder / _FILE, self.folder / _BOOT_MARK
        boot = _BOOT.read_text(encoding="utf-8").strip() if _BOOT.exists() else ""
        # Pages can be lost only if the machine stopped, not if a process was killed.
        has_restarted = mark.exists() and mark.read_text(encoding="utf-8").strip() != boot
        if path.exists() and (is_suspect or has_restarted or not _is_lmdb_file(path)):
            command = [sys.executable, "-c", _CHECK, str(self.folder), str(LARGEST_BYTES)]
            try:
                is_sound = subprocess.run(command, capture_output=True, timeout=_CHECK_S, check=False).returncode == 0
            except subprocess.TimeoutExpired:
                is_sound = False
            if not is_sound:
                aside = self.folder / f"damaged-{time.strftime('%Y%m%dT%H%M%S')}-{os.getpid()}.mdb"
                path.rename(aside)
                (self.folder / _LOCKS).unlink(missing_ok=True)
                logger.error("the live history in %s is damaged: moved to %s, starting an empty one", path, aside)
        mark.write_text(boot, encoding="utf-8")

    def _reopen(self, *, is_suspect: bool = False) -> None:
        """Close the file and open the one that is at its path now. Raises StoreError."""
        import lmdb

        with self._guard:
            try:
                self._env.close()
            except lmdb.Error as error:
                logger.warning("the old file of the live history cannot be closed: %s", error)
            self._env = self._open(is_suspect=is_suspect)

    def _sync_regularly(self) -> None:
        while not self._has_ended.is_set():
            self._is_dirty.wait()
            if self._has_ended.wait(SYNC_S):
                return
            try:
                self.sync()
            except StoreError:
                time.sleep(SYNC_S)  # logged already


def _is_lmdb_file(path: Path) -> bool:
    """Whether a file is empty or has LMDB's magic number in its first page."""
    with path.open("rb") as file:
        head = file.read(24)
    return not head or head[16:20] == (0xBEEFC0DE).to_bytes(4, sys.byteorder)
