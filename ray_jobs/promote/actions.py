"""Change what serves: champion, rollback, threshold, shadow and canary. Every change enters the model's history."""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import dataclass

from fraud.errors import ConfigError, FraudError, RegistryError
from fraud.history.definition import plans
from fraud.registry import changes, promotion, versions
from fraud.registry.changes import PROMOTED, ROLLED_BACK, Change
from fraud.registry.promotion import LiveThreshold
from fraud.registry.versions import TaggedVersion
from fraud.scoring.bundle import Bundle
from fraud.settings import Settings
from ray_jobs.gate import history_ready
from ray_jobs.gate.judge import refusal
from ray_jobs.promote import status

logger = logging.getLogger(__name__)

_FOLLOW = "replicas follow at their next poll (FRAUD_MODEL_POLL_S, default 5 s)\n"


@dataclass(frozen=True)
class Author:
    """Who decides, and why. is_override: despite the gate, or without it. Raises ConfigError if a text is too long."""

    by: str
    reason: str = ""
    is_override: bool = False

    def __post_init__(self) -> None:
        changes.check_length("by", self.by)
        changes.check_length("reason", self.reason)


def promote(settings: Settings, reference: str, author: Author, *, force: bool = False) -> str:
    """Make a version, named by number or alias, the champion without judging it; return what changes as text.

    If there is a champion, the author must override the gate. force: even if the version's entity history is older than
    the champion's. Raises RegistryError (no such version), BundleError (a damaged bundle) or
    ConfigError (no override, or its history is behind).
    """
    target = versions.look_up(reference, settings)
    before = versions.registry_state(settings).champion
    if before is not None and before.number == target.number:
        return f"version {before.number} is already champion: nothing changes\n"
    refused = refusal(target)
    if before is not None and not author.is_override:
        raise ConfigError(
            f"version {target.number} " + (f"was {refused}" if refused else "is not judged") + ": judge it on labelled "
            f"rows with `promote {reference} --gate --data FILE`, or promote it all the same with --override, "
            "--reason TEXT and --by NAME"
        )
    reason = author.reason
    if author.is_override:
        reason = f"override: {reason}" + (f" ({refused})" if refused else "")
    return _move(settings, target, before, Author(author.by, reason), PROMOTED, force=force)


def roll_back(settings: Settings, author: Author) -> str:
    """Restore the previous champion; a second call goes back one more. Raises as `promote`."""
    registry = versions.registry_state(settings)
    line = changes.lineage(status.history(registry))
    if registry.champion is None or len(line) < 2:
        raise RegistryError("there is no previous champion: promote a version by its number, with --override")
    target = versions.registry_state(settings, line[-2]).champion
    if target is None:
        raise RegistryError(
            f"the previous champion, version {line[-2]}, was deleted: promote another by its number, with --override"
        )
    # A rollback must always work, so skip the history check.
    return _move(settings, target, registry.champion, author, ROLLED_BACK, force=True)


def set_threshold(settings: Settings, reference: str, value: float | None, author: Author) -> str:
    """Set a version's threshold; None restores its bundle's. Returns what changes as text.

    Raises ConfigError (not between 0 and 1), RegistryError or BundleError.
    """
    version = versions.look_up(reference, settings)
    own, current = status.load(settings, version).detector.threshold.value, status.live_threshold(version)
    in_force = current.value if current else own
    if value is None and not version.tags.get(promotion.THRESHOLD):
        raise RegistryError(f"version {version.number} already uses its bundle's threshold, {own:g}")
    tag, note = None, "the bundle's"
    if value is not None:
        live = LiveThreshold(
            value=value, by=author.by, reason=author.reason, time=promotion.now(), previous=in_force
        )  # checks the value
        tag, note = live.to_json(), f"undo with --reset-threshold: the bundle's, {own:g}"
    after = own if value is None else value
    versions.set_tag(settings, promotion.THRESHOLD, tag, version=version.number)
    _record(settings, changes.THRESHOLD, author, in_force, after, version.number)
    return f"threshold of version {version.number}: {in_force:g} -> {after:g}; {note}\n{_FOLLOW}"


def set_shadow(settings: Settings, is_on: bool, author: Author) -> str:
    """Turn shadow scoring by the challenger on or off."""
    tags = versions.registry_state(settings).tags
    before, after = tags.get(promotion.SHADOW) or "off", "on" if is_on else "off"
    versions.set_tag(settings, promotion.SHADOW, after)
    _record(settings, changes.SHADOW, author, before, after)
    return status.text(status.read(settings)) + _FOLLOW


def set_canary(settings: Settings, share: float, author: Author) -> str:
    """Set the share of entities, 0 to 1, that the challenger answers.

    Raises ConfigError for another share, or if the gate refused the challenger and the author does not override it.
    """
    promotion.check_share(share)
    registry = versions.registry_state(settings)
    refused = None if registry.challenger is None or not share else refusal(registry.challenger)
    if refused and not author.is_override:
        assert registry.challenger is not None
        raise ConfigError(
            f"version {registry.challenger.number}, the challenger, was {refused}: a canary would let it decide; add "
            "--override, --reason TEXT and --by NAME to let it"
        )
    before: float | str = registry.tags.get(promotion.CANARY_SHARE) or "0"
    with suppress(ValueError):  # a tag of another hand may be no number
        before = float(before)
    versions.set_tag(settings, promotion.CANARY_SHARE, repr(share))
    if refused:
        author = Author(author.by, f"override: {author.reason} ({refused})")
    _record(settings, changes.CANARY, author, before, share)
    return status.text(status.read(settings)) + _FOLLOW


def _record(
    settings: Settings, action: str, author: Author, before: float | str, after: float | str, version: int | None = None
) -> None:
    change = Change(action=action, time=promotion.now(), by=author.by, reason=author.reason, version=version,
                    before=before, after=after)  # fmt: skip
    versions.record(settings, change)


def _move(
    settings: Settings, target: TaggedVersion, before: TaggedVersion | None, author: Author, action: str, *, force: bool
) -> str:
    loaded = status.load(settings, target)
    if before is not None and not force:
        history_ready.check(settings, target.number, loaded.detector.schema, before)
    instead = f"in place of {before.number}" if before else "the first: there is no champion to compare it with"
    text = f"champion    version {target.number}, {instead}\n"
    text += _differences(settings, target, loaded, before)
    move = Change(action=action, time=promotion.now(), by=author.by, reason=author.reason, version=target.number)
    back = status.rollback_target(settings, [*status.history(versions.registry_state(settings)), move])
    versions.move_champion(settings, move, expected=before.number if before else None)
    undo = f"undo        python -m ray_jobs.promote --rollback, to version {back}\n" if back is not None else ""
    return text + _FOLLOW + undo


def _differences(settings: Settings, target: TaggedVersion, loaded: Bundle, before: TaggedVersion | None) -> str:
    """Changes that clients or analysts notice."""
    new = status.threshold_text(loaded, target)
    try:
        old_bundle = status.load(settings, before) if before else None
    except FraudError as error:
        logger.warning("cannot compare with the previous champion: %s", error)
        old_bundle = None
    if before is None or old_bundle is None:
        return f"threshold   {new}\n"
    old_schema, new_schema = old_bundle.detector.schema, loaded.detector.schema
    lines = [f"threshold   {status.threshold_text(old_bundle, before)} -> {new}"]
    columns = [{column.name for column in schema.inputs} for schema in (old_schema, new_schema)]
    if old_schema.fingerprint == new_schema.fingerprint:
        lines.append("schema      unchanged")
    else:
        added, dropped = sorted(columns[1] - columns[0]), sorted(columns[0] - columns[1])
        parts = [f"{what} {', '.join(names)}" for what, names in (("adds", added), ("drops", dropped)) if names]
        lines.append(f"schema      changed: {'; '.join(parts) or 'same columns, other rules'}")
    known = {plan.fingerprint for plan in plans(old_schema)}
    restarted = [plan.column for plan in plans(new_schema) if plan.fingerprint not in known]
    if plans(new_schema):
        history = f"{', '.join(restarted)} restarts from snapshots or the bundle" if restarted else "continues"
        lines.append(f"history     {history}")
    return "\n".join(lines) + "\n"
