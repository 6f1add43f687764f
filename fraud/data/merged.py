"""Files of a folder that were merged into larger ones, and which of them count.

    date=2026-01-31/merged-6b1c9d2e.parquet    the rows of many small files
    date=2026-01-31/_merged.json               {"merged-6b1c9d2e.parquet": {"host-12-ab-000001.parquet": 60, ...}}

A merged file counts from the moment that the index names it, and the files in it no longer do. So a reader of ours sees
every row once, also while files are merged. The index has the number of rows of each, in the order of the rows, so that
a reader can leave out those that it has read before. Names stay in it, because a publication that is repeated after a
crash may bring a file back.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from fraud.errors import DataError

INDEX = "_merged.json"
PREFIX = "merged-"
LOCK = "_maintenance.lock"  # beside the days: held by whoever merges, deletes or copies
_TRIES = 5
T = TypeVar("T")
Index = dict[str, dict[str, int]]


def is_merged(path: str) -> bool:
    """Whether a path is named like a merged file."""
    return posixpath.basename(path).startswith(PREFIX)


def read_index(filesystem: Any, folder: str) -> Index:
    """{merged file: {file in it: rows}} of a folder; empty without an index. Raises DataError."""
    path = f"{folder}/{INDEX}"
    try:
        with filesystem.open(path, "rb") as file:
            content = json.load(file)
        return {str(name): {str(each): int(n) for each, n in sources.items()} for name, sources in content.items()}
    except FileNotFoundError:
        return {}
    except (ValueError, AttributeError, TypeError) as error:
        raise DataError(
            f"{path} is damaged ({error}): restore it from a backup, or remove it and the files {PREFIX}*.parquet "
            "beside it if the files in them are still there"
        ) from None


def current(paths: Iterable[str], index: Index) -> list[str]:
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
