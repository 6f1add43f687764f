"""Keep the logs of Ray's jobs and of Serve when Ray's session folder is removed."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

LONGEST = 5 * 2**20  # bytes kept of one log, from its end
MOST = 100  # logs kept of a kind, the newest


def keep(session: Path, folder: Path) -> None:
    """Copy the ends of the logs below Ray's session folder to folder/jobs and folder/serve. Old copies are removed."""
    logs = session / "r" / "session_latest" / "logs"
    for kind, paths in (("jobs", logs.glob("job-driver-*.log")), ("serve", (logs / "serve").glob("*.log"))):
        _copy(paths, folder / kind)


def _copy(paths: Iterable[Path], folder: Path) -> None:
    newest = sorted((path for path in paths if path.stat().st_size), key=_age)[:MOST]
    if not newest:
        return
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for path in newest:
        with path.open("rb") as log:
            log.seek(max(0, path.stat().st_size - LONGEST))
            (folder / path.name).write_bytes(log.read(LONGEST))
    for path in sorted(folder.glob("*.log"), key=_age)[MOST:]:
        path.unlink()


def _age(path: Path) -> float:
    return -path.stat().st_mtime
