"""The history of what serves: moves of the champion, refusals of the gate, thresholds, shadow and canary.

Each change is a tag of its own, `change.000001.<random>`, of the registered model. MLflow keeps 5,000 characters of a
tag, so one list would drop old changes. The number gives the order, whatever the machines' clocks say. The random part
prevents two machines from overwriting each other's change.
"""

from __future__ import annotations

import dataclasses
import getpass
import json
import logging
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fraud.errors import ConfigError

logger = logging.getLogger(__name__)

PROMOTED, ROLLED_BACK, UNRECORDED = "promoted", "rolled back", "found"
REFUSED, THRESHOLD, SHADOW, CANARY = "refused", "threshold", "shadow", "canary"
ACTIONS = (PROMOTED, ROLLED_BACK, UNRECORDED, REFUSED, THRESHOLD, SHADOW, CANARY)
NOT_RECORDED = "not recorded"
CHAMPIONS = "champions"  # tag of 0.2 and before: the newest moves of the champion as one list
_MOVES = (PROMOTED, ROLLED_BACK, UNRECORDED)
_KEY = re.compile(r"change\.(\d+)\.\w+")
# Together they fit into a tag, with the text that the gate adds.
_LONGEST = {"reason": 2000, "by": 200}
_LONGEST_TAG = 5000


@dataclass(frozen=True, kw_only=True)
class Change:
    """One change of what serves, or one refusal of the gate.

    action: one of ACTIONS; UNRECORDED: the champion was moved without `promote`. time: ISO 8601, empty if not recorded.
    version: that it is about; None for shadow and canary. before, after: the champion's number (None: no champion), the
    threshold, on or off, or the share. Raises ConfigError.
    """

    action: str
    time: str
    by: str
    reason: str = ""
    version: int | None = None
    before: float | str | None = None
    after: float | str | None = None

    def __post_init__(self) -> None:
        if self.action not in ACTIONS:
            raise ConfigError(f"change {self.action!r} is unknown: it may be {', '.join(ACTIONS)}")
        if type(self.version) is not int and (self.version is not None or self.action in _MOVES):
            raise ConfigError(f"change {self.action!r} names a version that is no number: {self.version!r}")
        if not all(isinstance(text, str) for text in (self.time, self.by, self.reason)):
            raise ConfigError(f"change {self.action!r} has a time, author or reason that is not text")

    def text(self) -> str:
        """One line: when, what, who, why."""
        before, after = (
            "none" if value is None else value if isinstance(value, str) else f"{value:g}"
            for value in (self.before, self.after)
        )
        what = {
            PROMOTED: f"champion {before} -> {after}, promoted",
            ROLLED_BACK: f"champion {before} -> {after}, rolled back",
            UNRECORDED: f"champion {before} -> {after}, not recorded by promote",
            REFUSED: f"version {self.version} refused, champion {after} stays, gate run",
            THRESHOLD: f"threshold of version {self.version} {before} -> {after}, set",
            SHADOW: f"shadow {before} -> {after}, set",
            CANARY: f"canary {before} -> {after}, set",
        }[self.action]
        who = "" if self.action == UNRECORDED else f" by {self.by}"
        why = f": {' '.join(self.reason.split())}" if self.reason else ""
        return f"{self.time or 'time ' + NOT_RECORDED:<25}  {what}{who}{why}"


def user() -> str:
    """The name of the user who runs this process."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # in a container the user id may have no name
        return "unknown"


def check_length(name: str, text: str) -> str:
    """Return a reason or an author's name that fits into a tag. Raises ConfigError."""
    if len(text) > _LONGEST[name]:
        raise ConfigError(f"--{name} has {len(text):,} characters: at most {_LONGEST[name]:,} are stored; shorten it")
    return text


def history(tags: Mapping[str, str], champion: int | None) -> list[Change]:
    """All changes, oldest first, from a registered model's tags.

    champion: the version of the alias; if the last recorded move is another, an UNRECORDED one is appended. Entries
    that cannot be read are logged and left out, because a rollback must work.
    """
    changes = _of_champions_tag(tags.get(CHAMPIONS))
    for key in sorted((key for key in tags if _KEY.fullmatch(key)), key=_number):
        try:
            changes.append(Change(**json.loads(tags[key])))
        except (ValueError, TypeError, ConfigError) as error:
            logger.warning("tag %r of the registered model is not a change (%s): it is left out", key, error)
    line = lineage(changes)
    if champion is not None and (not line or line[-1] != champion):
        before = line[-1] if line else None
        changes.append(
            Change(action=UNRECORDED, time="", by=NOT_RECORDED, version=champion, before=before, after=champion)
        )
    return changes


def tag_of(change: Change, tags: Mapping[str, str]) -> tuple[str, str]:
    """Key and value of the tag that stores a change after those in `tags`. Raises ConfigError if it is too long."""
    number = 1 + max((_number(key) for key in tags if _KEY.fullmatch(key)), default=0)
    value = json.dumps(dataclasses.asdict(change), ensure_ascii=False)
    if len(value) > _LONGEST_TAG:
        raise ConfigError(f"the reason of {change.action!r} has {len(change.reason):,} characters: shorten it")
    return f"change.{number:06d}.{secrets.token_hex(4)}", value


def lineage(changes: Sequence[Change]) -> list[int]:
    """The versions for rollbacks, the champion last, without versions that were rolled back."""
    line: list[int] = []
    for change in changes:
        if change.action not in _MOVES:
            continue
        assert change.version is not None
        if change.action == ROLLED_BACK:
            while line and line[-1] != change.version:
                line.pop()
        if not line or line[-1] != change.version:
            line.append(change.version)
    return line


def _number(key: str) -> int:
    return int(key.split(".")[1])


def _of_champions_tag(text: str | None) -> list[Change]:
    changes: list[Change] = []
    before: int | None = None
    try:
        listed: list[dict[str, Any]] = json.loads(text or "[]")
        for entry in listed:
            # "found" had the time at which someone looked.
            time = "" if entry["how"] == UNRECORDED else entry["time"]
            version = entry["version"]
            changes.append(
                Change(action=entry["how"], time=time, by=entry["by"], reason=entry.get("reason", ""), version=version,
                       before=before, after=version)
            )  # fmt: skip
            before = version
    except (ValueError, TypeError, KeyError, ConfigError) as error:
        logger.warning("tag %r of the registered model cannot be read (%s): it is left out", CHAMPIONS, error)
        return []
    return changes
