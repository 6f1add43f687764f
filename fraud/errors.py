"""The one family of errors a user can cause: each says what is wrong, where, and what to do about it."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from importlib import metadata


class FraudError(Exception):
    """A mistake in what the user gave us; its text is one line that names the field, value, row and remedy."""


class SchemaError(FraudError):
    """The schema YAML is wrong, or the data cannot be the data it describes (a missing or misspelt column)."""


class DataError(FraudError):
    """A file is missing, empty, unreadable, or holds no usable row."""


class ObjectStoreError(DataError, OSError):
    """An object store cannot be reached, lacks the bucket, or fails. An OSError too, as a disk's faults are."""


class ObjectStoreRefusedError(ObjectStoreError, PermissionError):
    """An object store does not let these keys do this."""


class ConfigError(FraudError):
    """A setting, flag or YAML key is unknown or out of range."""


class BundleError(FraudError):
    """A saved detector is incomplete, tampered with, or of a format this version does not know."""


class RegistryError(FraudError):
    """The model registry has no such version or alias, or cannot be reached."""


class RegistryUnreachableError(RegistryError):
    """MLflow gave no answer, as opposed to answering that there is no such thing."""


class StoreError(FraudError):
    """The store of the live history cannot be reached, or answers too late."""


class LibraryChangedError(FraudError):
    """A library's private part is not what it was in the version that we read. docs/security.md lists these parts."""


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
    """Return "; did you mean 'x'?" for the most similar of `known`, or an empty string when nothing is near."""
    by_lower_case = {name.lower(): name for name in known}
    found = difflib.get_close_matches(word.lower(), list(by_lower_case), n=1, cutoff=0.6)
    return f"; did you mean {by_lower_case[found[0]]!r}?" if found else ""
