"""Layout of scored data: one folder per day, valid once it has a manifest.

    scored/date=2026-01-31/part-000000000000.parquet    scored rows; the number is the first row's in the input
    scored/date=2026-01-31/_manifest.json               counts, model, input, and each part with its SHA-256
    scored/_quarantine/date=2026-01-31/part-....parquet refused rows with their reasons

Readers skip names that start with `_`. Parts in a folder without a manifest do not count: they remain from an
interrupted publication in a store that cannot rename folders.
"""

from __future__ import annotations

import datetime as dt
import json
import posixpath
import re
from collections.abc import Iterable
from typing import Any

from fraud.data import filesystems, merged
from fraud.errors import ConfigError, ObjectStoreError

MANIFEST = "_manifest.json"
QUARANTINE = "_quarantine"
UNKNOWN = "unknown"  # the day of rows whose time is missing or cannot be read
_PART = re.compile(r"part-\d{12}\.parquet")
_FOLDER = re.compile(r"date=(\d{4}-\d\d-\d\d|unknown)")


def day_named(text: str, flag: str = "--date") -> dt.date:
    """Parse a day argument. Raises ConfigError."""
    try:
        return dt.date.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"{flag} {text!r} is not a day: write it as 2026-01-31") from None


def folder_of(day: str) -> str:
    """The name of a day's folder."""
    return f"date={day}"


def part_of(first_row: int) -> str:
    """The name of the part that begins with this input row. Sorting by name sorts by row."""
    return f"part-{first_row:012d}.parquet"


def is_part(path: str) -> bool:
    """Whether a path is named like a part in a day's folder."""
    folder, name = posixpath.split(path)
    return bool(_PART.fullmatch(name) and _FOLDER.fullmatch(posixpath.basename(folder)))


def published(filesystem: Any, files: Iterable[str]) -> list[str]:
    """`files` without parts of days that have no manifest, and without those that were merged into another."""
    counts: dict[str, bool] = {}
    counted = []
    for path in files:
        folder = posixpath.dirname(path)
        if is_part(path) and folder not in counts:
            counts[folder] = filesystem.exists(f"{folder}/{MANIFEST}")
        if counts.get(folder, True) or not is_part(path):
            counted.append(path)
    return merged.counted(filesystem, counted)


def manifests(path: str) -> list[dict[str, Any]]:
    """The manifests of scored output at `path`, by day; may be empty.

    path: a scored file (the manifest lies beside it), a day's folder, or a folder of days.
    """
    filesystem, root = filesystems.of(path)
    root = root.rstrip("/")
    if path.endswith(".parquet"):
        files = [f"{root}.manifest.json"]
    elif _FOLDER.fullmatch(posixpath.basename(root)):
        files = [f"{root}/{MANIFEST}"]
    else:
        files = sorted(filesystem.glob(f"{root}/date=*/{MANIFEST}"))
    return [manifest for file in files if (manifest := read_json(filesystem, file))]


def read_json(filesystem: Any, path: str) -> dict[str, Any]:
    """Read a JSON object; empty if the file is missing or unreadable. Raises ObjectStoreError."""
    try:
        with filesystem.open(path, "rb") as file:
            return dict(json.load(file))
    except ObjectStoreError:  # unreachable is not the same as missing
        raise
    except (OSError, ValueError, TypeError):
        return {}
