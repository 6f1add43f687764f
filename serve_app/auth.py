"""API keys. Only their SHA-256 hashes are stored, in the environment or in a file.

FRAUD_API_KEY_HASHES   hashes, separated by commas
FRAUD_API_KEY_FILE     a file with one key per line: its hash, its owner, and optionally `rate=50` and `burst=100`
                       (requests per second and burst size in each replica; override FRAUD_RATE_LIMIT; rate=0: no
                       limit). Lines that start with # are ignored. Changes are picked up within two seconds.

Several keys are valid at once. To rotate without an outage: add the new key, let the caller switch, remove the old one.
`python -m serve_app.auth` prints a new key and its hash.
"""

from __future__ import annotations

import argparse
import hashlib
import hmac
import logging
import re
import secrets
import sys
import threading
import time
import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fraud.cli import examples, run_command
from fraud.errors import ConfigError
from fraud.settings import Settings
from fraud.settings.serving import API_KEY_FILE, API_KEY_HASHES, KeySettings

logger = logging.getLogger(__name__)

HEADER = "X-API-Key"
CHECK_SECONDS = 2.0
_HASH = re.compile(r"[0-9a-fA-F]{64}")
_LONGEST_NAME = 64
_SETTINGS = ("rate", "burst")


@dataclass(frozen=True)
class ApiKey:
    """One accepted key. digest: SHA-256, 32 bytes; name: its owner, for logs; rate: requests/s in each replica, 0 = no
    limit, None = the default limit; burst: requests at once, 0 = one second's worth."""

    digest: bytes
    name: str = ""
    rate: float | None = None
    burst: float = 0.0


class ApiKeys:
    """The accepted keys. With none, requests need no key (dev mode only).

    keys: fixed keys or their SHA-256 digests; file: more keys, reloaded when the file changes. Raises ConfigError if
    the file cannot be read or has an invalid line. A later reload that fails keeps the old keys.
    """

    def __init__(self, keys: Iterable[ApiKey | bytes] = (), *, file: Path | None = None) -> None:
        self._fixed = tuple(key if isinstance(key, ApiKey) else ApiKey(key) for key in keys)
        self._file = file
        self._stamp = _stamp(file)
        self._keys = self._fixed + (_read(file) if file else ())
        self._is_watched = file is None

    @classmethod
    def from_environment(cls, settings: Settings, environment: Mapping[str, str] | None = None) -> ApiKeys:
        """Read the hashes. Raises ConfigError if one is malformed, or if there is none outside dev mode."""
        named = KeySettings.from_environment(environment)
        keys = cls(
            (_key(line, API_KEY_HASHES) for line in named.hashes),
            file=Path(settings.locate(named.file)) if named.file else None,
        )
        if not keys.is_required and settings.mode != "dev":
            raise ConfigError(
                f"no API key: set {API_KEY_HASHES} or {API_KEY_FILE} (`python -m serve_app.auth` makes a key), "
                "or FRAUD_MODE=dev to serve without"
            )
        return keys

    @property
    def is_required(self) -> bool:
        """Whether a request must carry a key."""
        return bool(self._keys)

    def find(self, key: bytes | None) -> ApiKey | None:
        """Look up `key`, the header's value, in constant time. None: unknown or missing."""
        if not self._is_watched:
            self._is_watched = True
            threading.Thread(target=_watch, args=(weakref.ref(self),), name="api-keys", daemon=True).start()
        digest = hashlib.sha256(key or b"").digest()
        match = None
        for known in self._keys:  # no early return: constant time
            if hmac.compare_digest(digest, known.digest):
                match = known
        return match if key is not None else None

    def accepts(self, key: bytes | None) -> bool:
        """Whether a request with `key` is allowed."""
        return not self.is_required or self.find(key) is not None

    def refresh(self) -> None:
        """Reload the file if it has changed. An invalid file is logged once and the old keys stay valid."""
        stamp = _stamp(self._file)
        if self._file is None or stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            keys = self._fixed + _read(self._file)
        except ConfigError as error:
            logger.error("the API keys stay as they were: %s", error)
            return
        if not keys and self._keys:  # emptying the file must not open the service
            logger.error("the API keys stay as they were: %s holds no key", self._file)
            return
        self._keys = keys
        logger.info("read %s again: %d API keys are valid", self._file, len(keys))


def new_key() -> tuple[str, str]:
    """Generate a key of 256 random bits; return it and its SHA-256 hash in hex."""
    key = secrets.token_urlsafe(32)
    return key, hashlib.sha256(key.encode()).hexdigest()


def _watch(reference: weakref.ref[ApiKeys]) -> None:
    """Refresh the keys until they are garbage-collected."""
    while (keys := reference()) is not None:
        keys.refresh()
        del keys
        time.sleep(CHECK_SECONDS)


def _stamp(path: Path | None) -> tuple[int, ...] | None:
    """Inode, size and change time of the file; None if it does not exist."""
    try:
        status = path.stat() if path else None
    except OSError:
        return None
    return (status.st_ino, status.st_size, status.st_ctime_ns) if status else None


def _read(path: Path) -> tuple[ApiKey, ...]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = type(error).__name__
        raise ConfigError(f"{API_KEY_FILE}={str(path)!r} cannot be read ({why}); give a text file of hashes") from None
    numbered = [(line.strip(), f"{path}, line {number}") for number, line in enumerate(lines, start=1)]
    return tuple(_key(line, where) for line, where in numbered if line and not line.startswith("#"))


def _key(line: str, where: str) -> ApiKey:
    """Parse one line. Raises ConfigError; its message never quotes the line, which may hold a key."""
    digest, *words = line.split()
    if not _HASH.fullmatch(digest):
        raise ConfigError(
            f"{where}: not a SHA-256 hash (64 hex digits); `python -m serve_app.auth` makes a key with its hash"
        )
    limits: dict[str, float] = {}
    names = []
    for word in words:
        name, mark, value = word.partition("=")
        if not mark:
            names.append(word)
        elif name in _SETTINGS:
            limits[name] = _rate(name, value, where)
        else:  # reject: a misspelt limit would be silently ignored
            raise ConfigError(f"{where}: {name[:20]!r} is not a key setting; use rate= or burst=")
    return ApiKey(
        bytes.fromhex(digest),
        " ".join(names)[:_LONGEST_NAME] or digest[:8].lower(),
        rate=limits.get("rate"),
        burst=limits.get("burst", 0.0),
    )


def _rate(name: str, text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1e6:
        raise ConfigError(f"{where}: {name}={text[:20]!r} is not a number from 0 to 1,000,000")
    return value


def main(argv: Sequence[str] | None = None) -> int:
    """Print a new key and its hash."""
    parser = argparse.ArgumentParser(
        prog="python -m serve_app.auth",
        description="Make an API key. Give the key to the calling service and the hash to the server. The caller sends "
        f"it as the header {HEADER};\nthe server reads hashes from {API_KEY_HASHES} or {API_KEY_FILE}, a file of lines "
        "like: 5d41...592e payment-gateway rate=200",
        **examples("python -m serve_app.auth"),
    )
    parser.parse_args(argv)
    key, digest = new_key()
    sys.stdout.write(f"key   {key}\nhash  {digest}\n")
    return 0


if __name__ == "__main__":
    run_command(main)
