"""A command's output folder: new, empty, or one that the same command filled before."""

from __future__ import annotations

import uuid
from collections.abc import Collection
from pathlib import Path

from fraud.errors import ConfigError


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
