"""Layout of scored data: one folder per day, valid once it has a manifest.

    scored/date=2026-01-31/part-000000000000.parquet    scored rows; the number is the first row's in the input
    scored/date=2026-01-31/_manifest.json               counts, model, input, and each part with its SHA-256
    scored/_quarantine/date=2026-01-31/part-....parquet refused rows with their reasons

    decisions/date=2026-01-31/merged-6b1c9d2e.parquet   the rows of many small files of the decision log
    decisions/date=2026-01-31/_merged.json              {"merged-6b1c9d2e.parquet": {"host-12-ab-000001.parquet": 60}}

Readers skip names that start with `_`. Parts in a folder without a manifest do not count: they remain from an
interrupted publication in a store that cannot rename folders.

A merged file counts from the moment that the index names it, and the files in it no longer do. So a reader of ours sees
every row once, also while files are merged. The index has the number of rows of each, in the order of the rows, so that
a reader can leave out those that it has read before. Names stay in it, because a publication that is repeated after a
crash may bring a file back.
"""

from __future__ import annotations

import datetime as dt
import json
import posixpath
import re
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from fraud.data import filesystems
from fraud.errors import ConfigError, DataError, ObjectStoreError

MANIFEST = "_manifest.json"
QUARANTINE = "_quarantine"
UNKNOWN = "unknown"  # the day of rows whose time is missing or cannot be read
MERGED_INDEX, MERGED_PREFIX = "_merged.json", "merged-"
MAINTENANCE_LOCK = "_maintenance.lock"  # beside the days: held by whoever merges, deletes or copies
_TRIES = 5
_PART = re.compile(r"part-\d{12}\.parquet")
_FOLDER = re.compile(r"date=(\d{4}-\d\d-\d\d|unknown)")

T = TypeVar("T")
MergedIndex = dict[str, dict[str, int]]


def day_named(text: str, flag: str = "--date") -> dt.date:
    """Parse a day argument. Raises ConfigError."""
    try:
        return dt.date.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"{flag} {text!r} is not a day: write it as 2026-01-31") from None


def folder_of(day: str) -> str:
    """The name of a day's folder."""
    return f"date={day}"


def day_of(path: str) -> dt.date | None:
    """The day of the folder that a file is in; None if it is in none, or in that of unknown days."""
    match = _FOLDER.fullmatch(posixpath.basename(posixpath.dirname(path)))
    return dt.date.fromisoformat(match[1]) if match and match[1] != UNKNOWN else None


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
    valid = []
    for path in files:
        folder = posixpath.dirname(path)
        if is_part(path) and folder not in counts:
            counts[folder] = filesystem.exists(f"{folder}/{MANIFEST}")
        if counts.get(folder, True) or not is_part(path):
            valid.append(path)
    return counted(filesystem, valid)


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


def is_merged(path: str) -> bool:
    """Whether a path is named like a merged file."""
    return posixpath.basename(path).startswith(MERGED_PREFIX)


def read_index(filesystem: Any, folder: str) -> MergedIndex:
    """{merged file: {file in it: rows}} of a folder; empty without an index. Raises DataError."""
    path = f"{folder}/{MERGED_INDEX}"
    try:
        with filesystem.open(path, "rb") as file:
            content = json.load(file)
        return {str(name): {str(each): int(n) for each, n in sources.items()} for name, sources in content.items()}
    except FileNotFoundError:
        return {}
    except (ValueError, AttributeError, TypeError) as error:
        raise DataError(
            f"{path} is damaged ({error}): restore it from a backup, or, if the files in the {MERGED_PREFIX}*.parquet "
            "beside it are still there, remove it and those"
        ) from None


def current(paths: Iterable[str], index: MergedIndex) -> list[str]:
    """The files of one folder that count: neither in a merged file nor merged without being in the index."""
    replaced = {source for sources in index.values() for source in sources}
    names = {path: posixpath.basename(path) for path in paths}
    return [path for path, name in names.items() if name not in replaced and (name in index or not is_merged(name))]


def counted(filesystem: Any, paths: Iterable[str]) -> list[str]:
    """The files of several folders that count, in order of the folders. Raises DataError.

    Reads the index of each folder that has a merged file.
    """
    folders: dict[str, list[str]] = {}
    for path in paths:
        folders.setdefault(posixpath.dirname(path), []).append(path)
    result: list[str] = []
    for folder, files in folders.items():
        index = read_index(filesystem, folder) if any(map(is_merged, files)) else None
        result += files if index is None else current(files, index)
    return result


def relisting(read: Callable[[], T]) -> T:
    """Call `read`, which lists files and reads them; again if a file was merged meanwhile. Raises what it raises."""
    for _ in range(_TRIES - 1):
        try:
            return read()
        except FileNotFoundError:
            continue
    return read()
