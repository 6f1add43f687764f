"""Append-only journals that hold decisions until they become Parquet.

Each writer has a folder `<host>-<process>-<random>/` with numbered journals and a file `lock`. It holds the lock while
it lives, and the operating system releases it when the process dies, so others can recover the journals of a dead
writer. A journal has one JSON document per line; the first line is a header that describes the others.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_LOCK = "lock"
SUFFIX = ".jsonl"


class Journal:
    """A journal open for writing. rows: decisions in it; size: bytes, always complete lines.

    Raises OSError if the file cannot be created or written. Lines appended before stay intact.
    """

    def __init__(self, path: Path, header: bytes) -> None:
        self.path, self.rows, self.size = path, 0, 0
        self.is_synced = False
        self._is_torn = False
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        try:
            self._write(header)
        except OSError:
            os.close(self._file)
            path.unlink(missing_ok=True)
            raise

    def append(self, lines: list[bytes], rows: int) -> None:
        """Write newline-terminated lines that hold `rows` decisions. All or nothing, even on a full disk."""
        self._write(b"".join(lines))
        self.rows += rows

    def sync(self) -> None:
        """Flush to disk (fdatasync)."""
        if not self.is_synced:
            os.fdatasync(self._file)
            self.is_synced = True

    def close(self) -> None:
        os.close(self._file)

    def _write(self, data: bytes) -> None:
        if self._is_torn:  # terminate the torn line; readers skip it
            data = b"\n" + data
        rest, done = memoryview(data), 0
        self.is_synced = False
        try:
            while done < len(rest):
                done += os.write(self._file, rest[done:])
        except OSError:
            self._is_torn = done > 0
            with suppress(OSError):
                os.ftruncate(self._file, self.size)
                self._is_torn = False
            raise
        self._is_torn = False
        self.size += len(data)


class WriterFolder:
    """The locked folder of a live writer. name: unique. Raises OSError."""

    def __init__(self, root: Path) -> None:
        host = re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname())[:40]
        self.name = f"{host}-{os.getpid()}-{secrets.token_hex(4)}"
        self.path = root / self.name
        for folder in (root.parent, root):  # `mode` applies only to the last folder created
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Publish the folder only after locking it; others would consider the writer dead.
        draft = root / f".{self.name}"
        draft.mkdir(mode=0o700)
        try:
            self._lock = os.open(draft / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            draft.rename(self.path)
        except OSError:
            shutil.rmtree(draft, ignore_errors=True)
            raise
        self._count = 0

    def next_path(self) -> Path:
        """The path of the next journal."""
        self._count += 1
        return self.path / f"{self._count:06d}{SUFFIX}"

    def close(self) -> None:
        """Release the folder; remove it if no journal is left. The next start recovers what is left."""
        _remove_if_empty(self.path)
        os.close(self._lock)


@contextmanager
def dead_writer(folder: Path) -> Iterator[list[Path]]:
    """Lock `folder` if its writer is dead and yield its journals, oldest first; else yield none.

    Removes the folder at the end if no journal is left.
    """
    try:
        lock = os.open(folder / _LOCK, os.O_RDWR)
    except OSError:  # another process has just removed it, or it is not a writer's folder
        yield []
        return
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield []
            return
        yield sorted(folder.glob(f"*{SUFFIX}"))
        _remove_if_empty(folder)
    finally:
        os.close(lock)


def writer_folders(root: Path) -> list[Path]:
    """The folders of all writers, dead or alive, in alphabetical order."""
    if not root.is_dir():
        return []
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def _remove_if_empty(folder: Path) -> None:
    if not any(folder.glob(f"*{SUFFIX}*")):
        shutil.rmtree(folder, ignore_errors=True)
