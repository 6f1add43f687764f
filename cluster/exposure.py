"""What may be reached from outside this machine: nothing, unless Ray asks for its token and /score for a key."""

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
    """Whether only this machine reaches `host`, an IP address; any name but localhost is taken for a public one."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def check(host: str, *, has_token: bool, has_keys: bool, what: str) -> str:
    """What to warn of when `what` listens on `host`; nothing for a loopback address.

    has_token: whether Ray asks for its token; has_keys: whether /score asks for a key. Raises ConfigError where others
    reach `host` and one of the two is missing.
    """
    if is_loopback(host):
        return ""
    lacking = []
    if not has_token:
        lacking.append("Ray asks for no token, so that whoever reaches it runs code (set RAY_AUTH_MODE=token)")
    if not has_keys:
        lacking.append(
            "/score asks for no API key (set FRAUD_API_KEY_FILE or FRAUD_API_KEY_HASHES; `python -m serve_app.auth` "
            "makes a key)"
        )
    if lacking:
        raise ConfigError(
            f"{what} would listen on {host}, which others reach, and {', and '.join(lacking)}; or listen on {LOOPBACK}"
        )
    return (
        f"{what} listens on {host}: others reach it, and what they send and get is not encrypted; put a proxy that "
        "ends TLS before it (deploy/tls.cfg) and a firewall around it"
    )


def asks_for_token(environment: Mapping[str, str]) -> bool:
    """Whether a Ray that is started with these variables asks everybody for its token."""
    return environment.get("RAY_AUTH_MODE", "").lower() == "token"


def read_token(path: Path) -> str:
    """The token of a file that its owner alone can read. Raises ConfigError for any other file, naming the remedy."""
    try:
        found = path.stat()
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the token in {path} cannot be read ({type(error).__name__}): remove the file") from None
    if found.st_uid != os.getuid():
        raise ConfigError(f"{path} belongs to another user, who knows the token in it: remove the file")
    if others := stat.S_IMODE(found.st_mode) & 0o077:
        raise ConfigError(
            f"others may read or change the token in {path} (mode {stat.S_IMODE(found.st_mode):04o}, {others:04o} too "
            "much): stop what runs with it (`make down`) and remove the file, so that the next start makes a new token"
        )
    if len(token) < _SHORTEST_TOKEN:
        raise ConfigError(f"the token in {path} is shorter than {_SHORTEST_TOKEN} characters: remove the file")
    return token
