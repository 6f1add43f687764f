"""The process that bounds the logs of a state folder: `python -m deploy.log_keeper STATE`, started by `make up`.

If it ends, the servers go on; the next `make up` starts another.
"""

from __future__ import annotations

import fcntl
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from deploy import processes
from deploy.logs import rotate_large

_CHECK_S, _IS_USED_S = 1.0, 60.0
_LOCK = ".keeper.lock"


def keep(state: Path, environment: Mapping[str, str]) -> None:
    """Start the process that bounds the logs of this state folder, unless it runs."""
    folder = state / "log"
    folder.mkdir(parents=True, exist_ok=True)
    lock = _lock(folder)
    if lock is not None:
        os.close(lock)
        command = [sys.executable, "-m", "deploy.log_keeper", str(state)]
        processes.start("log-keeper", command, state=state, environment=environment, ports={})


def main() -> int:
    """Check every second, until nothing of ours runs or another process does it."""
    state = Path(sys.argv[1])
    if _lock(state / "log") is None:
        return 0
    checked = time.monotonic()
    while True:
        rotate_large(state / "log")
        time.sleep(_CHECK_S)
        if time.monotonic() - checked > _IS_USED_S:
            checked = time.monotonic()
            if not processes.find(state):
                return 0


def _lock(folder: Path) -> int | None:
    """The open lock file of the keeper, None if another process holds it. Released when the process ends."""
    lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock


if __name__ == "__main__":
    sys.exit(main())
