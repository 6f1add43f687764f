"""Registry tags that control serving: a version's live threshold, shadow and canary.

`python -m ray_jobs.promote` writes these tags; every replica reads them (serve_app.model.watch). A malformed tag raises
ConfigError, so that a typing error on MLflow's page has no effect.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fraud.errors import ConfigError
from fraud.thresholds.policies import is_number

THRESHOLD = "threshold"  # tag of a model version
SHADOW, CANARY_SHARE = "shadow", "canary_share"  # tags of the registered model


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


def now() -> str:
    """The current time for tags: ISO 8601, UTC, seconds."""
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")


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
