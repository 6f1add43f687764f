"""The one family of errors a user can cause: each says what is wrong, where, and what to do about it."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence


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
