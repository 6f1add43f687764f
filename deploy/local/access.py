"""Access to the local stack: its listening address, its token and its private folders."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path

from cluster import exposure
from fraud.errors import ConfigError
from fraud.settings.operations import StackSettings
from fraud.settings.serving import KeySettings

_EVERY_ADDRESS = {"0.0.0.0": exposure.LOOPBACK, "::": "[::1]"}


def host() -> str:
    """The address of Ray's dashboard and /score (FRAUD_HOST). Everything else listens on loopback."""
    return StackSettings.from_environment().host


def local_address() -> str:
    """The address at which this machine reaches what listens on `host`."""
    return _EVERY_ADDRESS.get(host(), host())


def check(environment: Mapping[str, str]) -> str:
    """The warning to show when a stack with these variables listens on `host`; "" for loopback.

    Raises ConfigError if `host` is public and the token or the API keys are missing.
    """
    has_keys = KeySettings.from_environment(environment).has_keys
    has_token = exposure.requires_token(environment)
    return exposure.check(host(), has_token=has_token, has_keys=has_keys, what="the local stack")


def make_token(path: Path) -> None:
    """Write a new token with mode 0600, unless the file exists. Raises ConfigError if others can read the file."""
    with contextlib.suppress(FileExistsError):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(secrets.token_hex(32))
    exposure.read_token(path)


def make_private_folder(folder: Path) -> Path:
    """Recreate `folder` with mode 0700. Ray itself lets everybody use its sockets and read its jobs' logs.

    Raises ConfigError if the old folder cannot be removed.
    """
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        raise ConfigError(
            f"{folder} exists and cannot be removed, perhaps it is another user's: set TMPDIR to a folder of yours"
        ) from None
    return folder
