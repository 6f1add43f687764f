"""Errors that a user can cause. Each message names the problem, where it is, and the remedy."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from importlib import metadata


class FraudError(Exception):
    """Invalid input from the user. The message is one line with field, value, row and remedy."""


class SchemaError(FraudError):
    """The schema YAML is invalid, or the data do not match it (a missing or misspelt column)."""


class DataError(FraudError):
    """A file is missing, empty, unreadable, or holds no usable row."""


class ObjectStoreError(DataError, OSError):
    """An object store fails, cannot be reached, or lacks the bucket. Also an OSError, like a disk failure."""


class ObjectStoreRefusedError(ObjectStoreError, PermissionError):
    """The object store denies access with these keys."""


class ConfigError(FraudError):
    """A setting, flag or YAML key is unknown or out of range."""


class BundleError(FraudError):
    """A saved detector is incomplete, altered, or of an unknown format."""


class RegistryError(FraudError):
    """The model registry has no such version or alias, or cannot be reached."""


class RegistryUnreachableError(RegistryError):
    """MLflow did not answer."""


class StoreError(FraudError):
    """The live history store cannot be reached or timed out."""


class LibraryChangedError(FraudError):
    """A private API of a library differs from the version this code was written for; see docs/security.md."""


def library_changed(library: str, version_read: str, change: str) -> LibraryChangedError:
    """The error that names the library, the installed version, the version read, and what changed."""
    try:
        installed = metadata.version(library)
    except metadata.PackageNotFoundError:
        installed = "of an unknown version"
    return LibraryChangedError(
        f"{library} {installed} {change}; this code was written for {library} {version_read}: install that version, or "
        "see docs/security.md, 'Private parts of libraries'"
    )


def closest(word: str, known: Collection[str]) -> str:
    """Return "; did you mean 'x'?" for the most similar name in `known`, or "" if none is similar."""
    by_lower_case = {name.lower(): name for name in known}
    matches = difflib.get_close_matches(word.lower(), list(by_lower_case), n=1, cutoff=0.6)
    return f"; did you mean {by_lower_case[matches[0]]!r}?" if matches else ""
