"""Publish a folder of parts: by one rename on a local disk, file by file in a store that cannot rename."""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import posixpath
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from fraud.data import filesystems, leases
from fraud.data.leases import Lease
from fraud.data.locks import AlreadyLockedError, exclusive
from fraud.errors import DataError

logger = logging.getLogger(__name__)

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # of linux/fs.h


def is_local(filesystem: Any) -> bool:
    """Whether this is a mounted file system (also a shared one), which can rename a folder in one step."""
    return "file" in filesystem.protocol


@contextmanager
def locked(filesystem: Any, path: str) -> Iterator[Lease | None]:
    """Hold a lock file, or a lease in S3; wait for another holder. Other stores have no locks.

    Yields the lease. Renew it before every write that matters.
    """
    if filesystems.is_s3(filesystem):
        with leases.acquire(filesystem, path) as lease:
            yield lease
        return
    if not is_local(filesystem):
        yield None
        return
    with ExitStack() as stack:
        try:
            try:
                stack.enter_context(exclusive(Path(path), wait=False))
            except AlreadyLockedError as error:
                logger.info("waiting for another scoring job (%s)", error)
                stack.enter_context(exclusive(Path(path)))
        except OSError as error:
            raise DataError(f"{path} cannot be written: {error}; check permissions and free space") from None
        yield None


def replace_folder(filesystem: Any, staged: str, target: str) -> None:
    """Replace `target` by the staged folder; remove `target` if there is none.

    Local: in one step; `staged` then has the old files. Elsewhere: remove the old files, then move file by file.
    """
    if not is_local(filesystem):
        if filesystem.exists(target):
            filesystem.rm(target, recursive=True)
        if filesystem.exists(staged):
            for path in sorted(filesystem.find(staged)):
                filesystem.mv(path, f"{target}/{posixpath.basename(path)}")
        return
    new, old = Path(staged), Path(target)
    if not new.exists():
        if old.exists():
            away = new.with_name(f"{new.name}.old")
            away.parent.mkdir(parents=True, exist_ok=True)
            old.rename(away)
        return
    old.parent.mkdir(parents=True, exist_ok=True)
    if not old.exists():
        new.rename(old)
    elif not _exchange(new, old):
        away = new.with_name(f"{new.name}.old")
        old.rename(away)
        new.rename(old)
        shutil.rmtree(away)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two folders in one step; False if the system or the disk cannot."""
    try:
        swap = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:
        return False
    done = swap(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), ctypes.c_uint(_RENAME_EXCHANGE))
    return bool(done == 0)


def mismatch(filesystem: Any, folder: str, parts: Sequence[Mapping[str, Any]]) -> str:
    """The first difference between the parts in a folder and in the manifest; empty if none."""
    there = filesystem.ls(folder, detail=False) if filesystem.exists(folder) else []
    names = {posixpath.basename(path) for path in there}
    names = {name for name in names if not name.startswith((".", "_"))}
    expected = {part["name"] for part in parts}
    if names != expected:
        odd = sorted(names ^ expected)
        return f"{odd[0]} is {'missing' if odd[0] in expected else 'not in it'}"
    for part in parts:
        path = f"{folder}/{part['name']}"
        if filesystem.size(path) != part["bytes"] or _sha256(filesystem, path) != part["sha256"]:
            return f"{part['name']} was altered or cut short"
    return ""


def _sha256(filesystem: Any, path: str) -> str:
    digest = hashlib.sha256()
    with filesystem.open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
