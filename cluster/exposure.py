"""Refuse to listen on a public address unless Ray requires its token and /score requires an API key."""

from __future__ import annotations

import ipaddress
import os
import stat
from collections.abc import Mapping
from pathlib import Path

from fraud.errors import ConfigError

LOOPBACK = "127.0.0.1"
_SHORTEST_TOKEN = 16


def is_loopback(host: str) -> bool:
    """Whether `host` (an IP address or localhost) is reachable from this machine only. Other names count as public."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def check(host: str, *, has_token: bool, has_keys: bool, what: str) -> str:
    """The warning to show when `what` listens on `host`; empty for a loopback address.

    has_token: whether Ray requires its token; has_keys: whether /score requires a key. Raises ConfigError if `host` is
    public and one of the two is missing.
    """
    if is_loopback(host):
        return ""
    lacking = []
    if not has_token:
        lacking.append("Ray requires no token, so anybody who reaches it can run code (set RAY_AUTH_MODE=token)")
    if not has_keys:
        lacking.append(
            "/score requires no API key (set FRAUD_API_KEY_FILE or FRAUD_API_KEY_HASHES; `python -m serve_app.auth` "
            "makes a key)"
        )
    if lacking:
        raise ConfigError(
            f"{what} would listen on {host}, a public address, and {', and '.join(lacking)}; or listen on {LOOPBACK}"
        )
    return (
        f"{what} listens on {host}, a public address, without encryption: put a proxy that terminates TLS in front "
        "of it (deploy/tls.cfg) and restrict access with a firewall"
    )


def requires_token(environment: Mapping[str, str]) -> bool:
    """Whether a Ray started with these variables requires its token."""
    return environment.get("RAY_AUTH_MODE", "").lower() == "token"


def read_token(path: Path) -> str:
    """Read the token. Raises ConfigError unless the file is ours, has mode 0600 or less and a long enough token."""
    try:
        status = path.stat()
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the token in {path} cannot be read ({type(error).__name__}): remove the file") from None
    if status.st_uid != os.getuid():
        raise ConfigError(f"{path} belongs to another user, who knows the token in it: remove the file")
    if others := stat.S_IMODE(status.st_mode) & 0o077:
        raise ConfigError(
            f"others may read or change the token in {path} (mode {stat.S_IMODE(status.st_mode):04o}, {others:04o} too "
            "much): stop what uses it (`make down`) and remove the file; the next start makes a new token"
        )
    if len(token) < _SHORTEST_TOKEN:
        raise ConfigError(f"the token in {path} is shorter than {_SHORTEST_TOKEN} characters: remove the file")
    return token
