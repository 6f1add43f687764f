"""The append-only files in which decisions wait to become Parquet, and who they belong to.

Every writer has a folder of its own, `<host>-<process>-<random>/`, with numbered journals and a file `lock` that it
holds as long as it lives; the operating system lets go of it however the process dies. So another process can tell a
dead writer's journals from a live one's. A journal is one JSON document a line; the first says what the others hold.
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
    """One journal that is being written. rows: decisions in it; size: bytes, always whole lines.

    Raises OSError where the file cannot be made or written; what was appended before stays whole.
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
        """Write lines that hold so many decisions, each ended by a newline: all, or where the disk is full none."""
        self._write(b"".join(lines))
        self.rows += rows

    def sync(self) -> None:
        """Return once everything written is on the disk."""
        if not self.is_synced:
            os.fdatasync(self._file)
            self.is_synced = True

    def close(self) -> None:
        """Write no more."""
        os.close(self._file)

    def _write(self, data: bytes) -> None:
        if self._is_torn:  # ends the half line, which readers then skip
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
    """The folder of one live writer, held until `close`. name: unique to it. Raises OSError."""

    def __init__(self, root: Path) -> None:
        host = re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname())[:40]
        self.name = f"{host}-{os.getpid()}-{secrets.token_hex(4)}"
        self.path = root / self.name
        for folder in (root.parent, root):  # the mode is that of the last folder made
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Nobody may see the folder before its lock is held, or would take the writer for dead.
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
        """Where the next journal goes."""
        self._count += 1
        return self.path / f"{self._count:06d}{SUFFIX}"

    def close(self) -> None:
        """Let go of the folder, and remove it where no journal is left; one that is left is the next start's."""
        _remove_if_empty(self.path)
        os.close(self._lock)


@contextmanager
def dead_writer(folder: Path) -> Iterator[list[Path]]:
    """Give the journals of `folder`, oldest first, if its writer is dead, and hold it meanwhile; else none.

    The folder is removed at the end where no journal is left.
    """
    try:
        lock = os.open(folder / _LOCK, os.O_RDWR)
    except OSError:  # another process has just finished with it, or somebody else's folder
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
