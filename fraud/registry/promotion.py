"""Registry tags that control serving: a version's live threshold, the list of champions, shadow and canary.

`python -m ray_jobs.promote` writes these tags; every replica reads them (serve_app.model.watch). A malformed tag raises
ConfigError, so that a typing error on MLflow's page has no effect.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fraud.errors import ConfigError
from fraud.thresholds.policies import is_number

THRESHOLD = "threshold"  # tag of a model version
CHAMPIONS, SHADOW, CANARY_SHARE = "champions", "shadow", "canary_share"  # tags of the registered model
PROMOTED, ROLLED_BACK, UNRECORDED = "promoted", "rolled back", "found"
_MOST_CHARACTERS = 4800  # MLflow keeps 5,000 of a registered model's tag
_LONGEST_REASON = 300


@dataclass(frozen=True, kw_only=True)
class LiveThreshold:
    """A decision threshold that replaces the bundle's, with its provenance.

    value: above 0 and below 1. by: who set it. time: ISO 8601. previous: the threshold before. Raises ConfigError.
    """

    value: float
    by: str = "not recorded"
    reason: str = "not recorded"
    time: str = "not recorded"
    previous: float | None = None

    def __post_init__(self) -> None:
        if not is_number(self.value) or not 0 < self.value < 1:
            raise ConfigError(f"threshold {self.value!r}: give a number above 0 and below 1, such as 0.6")
        if self.previous is not None and not is_number(self.previous):
            raise ConfigError(f"threshold's previous value {self.previous!r} is not a number")
        for name in ("by", "reason", "time"):
            if not isinstance(getattr(self, name), str):
                raise ConfigError(f"threshold's {name} is not text")

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict."""
        return dataclasses.asdict(self)

    def to_json(self) -> str:
        """The tag that `from_json` reads."""
        return json.dumps(self.to_dict())

    @classmethod
    def from_json(cls, text: str) -> LiveThreshold:
        """Read the tag. Raises ConfigError."""
        return cls(**_fields(text, cls, f"tag {THRESHOLD!r}", required="value"))


@dataclass(frozen=True, kw_only=True)
class Promotion:
    """One move of the champion. how: PROMOTED, ROLLED_BACK, or UNRECORDED (moved without `promote`)."""

    version: int
    time: str
    by: str
    reason: str = ""
    how: str = PROMOTED


def now() -> str:
    """The current time for tags: ISO 8601, UTC, seconds."""
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")


def champions(tags: Mapping[str, str]) -> list[Promotion]:
    """The list of champions, oldest first, from a registered model's tags. Raises ConfigError."""
    remedy = f"delete the tag {CHAMPIONS!r} of the registered model to start a new list"
    try:
        listed = json.loads(tags.get(CHAMPIONS) or "[]")
        entries = [Promotion(**entry) for entry in listed]
    except (ValueError, TypeError):
        raise ConfigError(f"tag {CHAMPIONS!r} is not the list that `promote` writes: {remedy}") from None
    if any(type(entry.version) is not int for entry in entries):
        raise ConfigError(f"tag {CHAMPIONS!r} names a version that is no number: {remedy}")
    return entries


def champions_tag(entries: Sequence[Promotion]) -> str:
    """The tag that `champions` reads, with as many of the newest entries as fit."""
    retained: list[dict[str, Any]] = []
    for entry in reversed(entries):
        text = {**dataclasses.asdict(entry), "reason": entry.reason[:_LONGEST_REASON]}
        if retained and len(json.dumps([text, *retained])) > _MOST_CHARACTERS:
            break
        retained.insert(0, text)
    return json.dumps(retained)


def with_champion(entries: Sequence[Promotion], champion: int | None) -> list[Promotion]:
    """The entries, plus an UNRECORDED one if `champion` (the version of the alias) is not the last of them."""
    line = lineage(entries)
    if champion is None or (line and line[-1] == champion):
        return list(entries)
    return [*entries, Promotion(version=champion, time=now(), by="not recorded", how=UNRECORDED)]


def lineage(entries: Sequence[Promotion]) -> list[int]:
    """The versions for rollbacks, the champion last, without versions that were rolled back."""
    line: list[int] = []
    for entry in entries:
        if entry.how == ROLLED_BACK:
            while line and line[-1] != entry.version:
                line.pop()
        if not line or line[-1] != entry.version:
            line.append(entry.version)
    return line


def live_threshold(tags: Mapping[str, str]) -> LiveThreshold | None:
    """The threshold set by a model version's tags; None: use the bundle's. Raises ConfigError."""
    return LiveThreshold.from_json(tags[THRESHOLD]) if tags.get(THRESHOLD) else None


def is_shadowed(tags: Mapping[str, str]) -> bool:
    """Whether a registered model's tags switch the shadow on. Raises ConfigError."""
    text = tags.get(SHADOW) or "off"
    if text not in ("on", "off"):
        raise ConfigError(f"tag {SHADOW!r} is {text[:40]!r}: set it to on or off")
    return text == "on"


def canary_share(tags: Mapping[str, str]) -> float:
    """The share of entities, 0 to 1, answered by the challenger, from a registered model's tags. Raises ConfigError."""
    text = tags.get(CANARY_SHARE) or "0"
    try:
        return check_share(float(text))
    except ValueError:
        raise ConfigError(f"tag {CANARY_SHARE!r} is {text[:40]!r}: set it to a share from 0 to 1") from None


def may_be_on(tags: Mapping[str, str]) -> bool:
    """Whether shadow or canary may be on. Malformed tags count; `is_shadowed` and `canary_share` validate them."""
    return tags.get(SHADOW, "off") != "off" or tags.get(CANARY_SHARE, "0") not in ("0", "0.0")


def check_share(share: float) -> float:
    """Return a valid share. Raises ConfigError."""
    if not 0 <= share <= 1:
        raise ConfigError(f"canary share {share:g}: give a share of the entities from 0 to 1, such as 0.05")
    return share


def _fields(text: str, cls: type, subject: str, *, required: str) -> dict[str, Any]:
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError):
        raw = None
    if not isinstance(raw, dict) or required not in raw:
        raise ConfigError(
            f'{subject} is not JSON such as {{"{required}": 0.6}}: set it with `python -m ray_jobs.promote`'
        )
    names = {field.name for field in dataclasses.fields(cls)}
    for name in raw:
        if name not in names:
            raise ConfigError(f"{subject} has an unknown field {name[:40]!r}: it may hold {', '.join(sorted(names))}")
    return raw
