"""Who reaches the local stack: the address it listens on, and the secrets that it asks for."""

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
    """The address on which Ray's dashboard and /score listen (FRAUD_HOST); all else stays on loopback."""
    return StackSettings.from_environment().host


def local_address() -> str:
    """Where this machine itself reaches what listens on `host`."""
    return _EVERY_ADDRESS.get(host(), host())


def check(environment: Mapping[str, str]) -> str:
    """What to warn of when a stack with these variables listens on `host`.

    Raises ConfigError where others would reach it without token and API keys.
    """
    has_keys = KeySettings.from_environment(environment).has_keys
    has_token = exposure.requires_token(environment)
    return exposure.check(host(), has_token=has_token, has_keys=has_keys, what="the local stack")


def make_token(path: Path) -> None:
    """Draw a token into a file that only we can read, where there is none. Raises ConfigError for one others can."""
    with contextlib.suppress(FileExistsError):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(secrets.token_hex(32))
    exposure.read_token(path)


def make_private_folder(folder: Path) -> Path:
    """Make it anew, closed to others. Ray lets everybody write to its session's sockets and read its jobs' logs.

    Raises ConfigError where it cannot be removed.
    """
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        raise ConfigError(
            f"{folder} is there and cannot be removed: another user's? Set TMPDIR to a folder of yours"
        ) from None
    return folder
