"""Where decisions are kept, how durably, and what of the card data they hold: read once from the environment.

FRAUD_DECISIONS        folder or URL (s3://...) of the Parquet files; default decisions/ below FRAUD_STATE; "off"
FRAUD_DECISIONS_QUEUE  most decisions in memory that are not in the journal yet (default 20000)
FRAUD_DECISIONS_FSYNC  when the journal is forced to disk: "always", "200ms" (default; any number), "never"
FRAUD_DECISIONS_OMIT   columns, separated by commas, whose values are not kept
FRAUD_DECISIONS_HASH   columns of which only the HMAC-SHA256 is kept, under the secret FRAUD_DECISIONS_KEY
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fraud.data import filesystems
from fraud.errors import ConfigError, closest
from fraud.schema import Schema
from fraud.settings import Settings

URL, QUEUE, FSYNC = "FRAUD_DECISIONS", "FRAUD_DECISIONS_QUEUE", "FRAUD_DECISIONS_FSYNC"
OMIT, HASH, KEY = "FRAUD_DECISIONS_OMIT", "FRAUD_DECISIONS_HASH", "FRAUD_DECISIONS_KEY"
_SHORTEST_KEY = 16
_MILLISECONDS = re.compile(r"(\d+(?:\.\d+)?)\s*ms")


@dataclass(frozen=True, kw_only=True)
class DecisionSettings:
    """The settings of a DecisionLog; build with `from_environment`.

    url: folder or URL of the Parquet files; None: no decision is kept. journal: local folder of what is not Parquet
    yet. queue: decisions in memory at most. fsync_s: seconds between two fsyncs of the journal, 0 after every write,
    infinite never. omitted, hashed: columns. key: secret of the hashes.
    """

    url: str | None
    journal: Path
    queue: int = 20_000
    fsync_s: float = 0.2
    omitted: tuple[str, ...] = ()
    hashed: tuple[str, ...] = ()
    key: bytes = field(default=b"", repr=False)

    @classmethod
    def from_environment(cls, settings: Settings, environment: Mapping[str, str] | None = None) -> DecisionSettings:
        """Read the settings. Raises ConfigError naming the variable that is wrong."""
        env = os.environ if environment is None else environment
        folder = settings.state / "decisions"
        given = (env.get(URL) or "").strip()
        url = None if given.lower() == "off" else settings.locate(given) if given else str(folder)
        if url is not None:
            try:
                filesystems.of(url)
            except (ImportError, ValueError) as error:
                raise ConfigError(
                    f"{URL}={url!r}: {error}; install that filesystem's package or name a folder"
                ) from None
        omitted, hashed = _names(env.get(OMIT)), _names(env.get(HASH))
        both = sorted(set(omitted) & set(hashed))
        if both:
            raise ConfigError(f"{', '.join(both)} is in {OMIT} and in {HASH}: keep it in one of them")
        key = (env.get(KEY) or "").encode()
        if hashed and len(key) < _SHORTEST_KEY:
            # Card numbers are few enough to try them all: a hash without a secret hides none.
            raise ConfigError(
                f"{HASH} needs {KEY}, a secret of {_SHORTEST_KEY} bytes or more, e.g. from `openssl rand -hex 32`"
            )
        return cls(
            url=url,
            journal=folder / "_journal",
            queue=_queue(env.get(QUEUE)),
            fsync_s=_fsync(env.get(FSYNC)),
            omitted=omitted,
            hashed=hashed,
            key=key,
        )

    def check(self, schema: Schema) -> None:
        """Raise ConfigError where a column to omit or hash is no input: misspelt, its card data would be written."""
        names = [column.name for column in schema.inputs]
        for variable, wanted in ((OMIT, self.omitted), (HASH, self.hashed)):
            for name in wanted:
                if name not in names:
                    near = closest(name, names) or f"; its inputs are {', '.join(names)}"
                    raise ConfigError(f"{variable}: schema {schema.name!r} has no input {name!r}{near}")


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part.strip() for part in (text or "").split(",") if part.strip()))


def _queue(text: str | None) -> int:
    given = (text or "20000").strip()
    if not given.isdecimal() or not 1 <= int(given[:9]) <= 10_000_000:
        raise ConfigError(f"{QUEUE}={given[:40]!r} is not a number of decisions, 1 to 10000000")
    return int(given)


def _fsync(text: str | None) -> float:
    given = (text or "200ms").strip().lower()
    if given in ("always", "never"):
        return 0.0 if given == "always" else math.inf
    found = _MILLISECONDS.fullmatch(given)
    if found is None:
        raise ConfigError(f"{FSYNC}={given[:40]!r} is unknown: write always, never, or milliseconds such as 200ms")
    return float(found[1]) / 1000.0
