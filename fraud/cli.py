"""What every command shares: its exit code, its output folder, and how long each stage took."""

from __future__ import annotations

import logging
import sys
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from fraud.errors import ConfigError, FraudError

USER_ERROR_EXIT_CODE = 2


def run_command(main: Callable[[Sequence[str] | None], int]) -> None:
    """Run a command's `main(argv)` and exit: its own code, or 2 with one line on stderr for a FraudError."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    for name in ("aiobotocore", "botocore"):  # who say at every start where they found the keys
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        code = main(None)
    except FraudError as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        code = USER_ERROR_EXIT_CODE
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        code = 130
    raise SystemExit(code)


@contextmanager
def stage(title: str, logger: logging.Logger) -> Iterator[Callable[[str], None]]:
    """Log how long a stage took; call the yielded function to add what it did."""
    started = time.perf_counter()
    note: list[str] = []
    yield note.append
    logger.info("%s: %.1f s", ", ".join([title, *note]), time.perf_counter() - started)


def check_outdir(path: str, ours: Collection[str]) -> Path:
    """Make the folder, or accept an empty one or one with results of ours.

    ours: names that the command writes there. Raises ConfigError, before any work, for a URL, a folder that cannot be
    written, or one that holds something else.
    """
    folder = Path(path)
    if "://" in path:
        raise ConfigError(f"--outdir {path} must be a local folder: name one, and copy it from there")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".{uuid.uuid4().hex}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ConfigError(f"--outdir {path} cannot be written ({error.strerror}): name another folder") from None
    present = {entry.name for entry in folder.iterdir() if not entry.name.startswith(".")}
    if present and not present & set(ours):
        raise not_ours(folder)
    return folder


def not_ours(folder: Path) -> ConfigError:
    """The error for a folder that holds somebody else's files."""
    present = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    return ConfigError(
        f"--outdir {folder} holds something else ({', '.join(present[:3])}): name a new or empty folder, or that of an "
        "earlier run of this command"
    )
