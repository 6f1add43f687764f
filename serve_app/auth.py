"""API keys: their SHA-256 hashes come from the environment or a file, the keys themselves are never stored.

FRAUD_API_KEY_HASHES   hashes, separated by commas
FRAUD_API_KEY_FILE     a file with one hash a line; what follows the hash names its owner and is ignored, as is a # line

Several keys are valid at once, so that one can be replaced without an outage. A new key and its hash:
`python -m serve_app.auth`.
"""

from __future__ import annotations

import argparse
import hashlib
import hmac
import os
import re
import secrets
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fraud.errors import ConfigError, run_command
from fraud.settings import Settings

HEADER = "X-API-Key"
HASHES, FILE = "FRAUD_API_KEY_HASHES", "FRAUD_API_KEY_FILE"
_HASH = re.compile(r"[0-9a-fA-F]{64}")


@dataclass(frozen=True)
class ApiKeys:
    """The accepted keys. hashes: SHA-256 digests, 32 bytes each; without any, no key is asked for (dev mode only)."""

    hashes: tuple[bytes, ...] = ()

    @classmethod
    def from_environment(cls, settings: Settings, environment: Mapping[str, str] | None = None) -> ApiKeys:
        """Read the hashes. Raises ConfigError when one is malformed, or when there is none outside dev mode."""
        env = os.environ if environment is None else environment
        found = [(text.strip(), HASHES) for text in (env.get(HASHES) or "").split(",") if text.strip()]
        if file := env.get(FILE):
            found += _read(Path(settings.locate(file)))
        for text, where in found:
            if not _HASH.fullmatch(text):
                raise ConfigError(
                    f"{where}: not a SHA-256 hash (64 hex digits); `python -m serve_app.auth` makes a key with its hash"
                )
        if not found and settings.mode != "dev":
            raise ConfigError(
                f"no API key: set {HASHES} or {FILE} (`python -m serve_app.auth` makes a key), "
                "or FRAUD_MODE=dev to serve without"
            )
        return cls(tuple(bytes.fromhex(text) for text, _ in found))

    @property
    def is_required(self) -> bool:
        """Whether a request must carry a key."""
        return bool(self.hashes)

    def accepts(self, key: bytes | None) -> bool:
        """Whether `key`, the header's value, is one of ours; takes the same time whichever it is."""
        digest = hashlib.sha256(key or b"").digest()
        matches = [hmac.compare_digest(digest, known) for known in self.hashes]  # no early way out
        return not self.is_required or (key is not None and any(matches))


def new_key() -> tuple[str, str]:
    """Draw a key of 256 random bits; return it and its SHA-256 hash in hex."""
    key = secrets.token_urlsafe(32)
    return key, hashlib.sha256(key.encode()).hexdigest()


def _read(path: Path) -> list[tuple[str, str]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = type(error).__name__
        raise ConfigError(f"{FILE}={str(path)!r} cannot be read ({why}); give a text file of hashes") from None
    numbered = [(line.split(), f"{path}, line {number}") for number, line in enumerate(lines, start=1)]
    return [(words[0], where) for words, where in numbered if words and not words[0].startswith("#")]


def main(argv: Sequence[str] | None = None) -> int:
    """Print a new key and its hash."""
    parser = argparse.ArgumentParser(
        prog="python -m serve_app.auth",
        description="Make an API key. Give the key to the calling service and the hash to the server.",
        epilog=f"The caller sends it as the header {HEADER}; the server reads hashes from {HASHES} or {FILE}.",
    )
    parser.parse_args(argv)
    key, digest = new_key()
    sys.stdout.write(f"key   {key}\nhash  {digest}\n")
    return 0


if __name__ == "__main__":
    run_command(main)
