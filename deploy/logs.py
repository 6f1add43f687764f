"""Rotate the logs of our servers.

A server writes its log through a file descriptor that it keeps, so its file cannot be renamed: it is copied to
NAME.log.1 and emptied. deploy.log_keeper does that while the servers run.
"""

from __future__ import annotations

import shutil
from pathlib import Path

MOST_BYTES, OLD_LOGS = 8 << 20, 3  # so 32 MiB per server, and what it writes in one second
# Ray rotates its own logs and those of Serve, at 512 MiB and 5 old files each unless these say otherwise.
RAY_ROTATION = {"RAY_ROTATION_MAX_BYTES": str(MOST_BYTES), "RAY_ROTATION_BACKUP_COUNT": str(OLD_LOGS)}


def rotate(log: Path, *, old_logs: int = OLD_LOGS) -> None:
    """Copy `log` to `log`.1 and empty it; .1 becomes .2 and so on, and the oldest is deleted.

    The writer must append (O_APPEND). Lines written between the copy and the emptying, some microseconds, are lost.
    """
    for number in range(old_logs - 1, 0, -1):
        old = log.with_name(f"{log.name}.{number}")
        if old.exists():
            old.replace(log.with_name(f"{log.name}.{number + 1}"))
    draft = log.with_name(f".{log.name}.draft")
    with log.open("r+b") as source, draft.open("wb") as copy:
        shutil.copyfileobj(source, copy, 1 << 20)
        source.truncate(0)
    draft.replace(log.with_name(f"{log.name}.1"))


def rotate_large(folder: Path, *, most_bytes: int = MOST_BYTES) -> list[Path]:
    """Rotate every *.log in `folder` that is larger than `most_bytes`. Returns them."""
    large = [log for log in sorted(folder.glob("*.log")) if log.stat().st_size > most_bytes]
    for log in large:
        rotate(log)
    return large
