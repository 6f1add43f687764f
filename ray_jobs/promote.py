"""Decide what serves: the champion and the way back, its threshold, shadow and canary. Replicas follow the tags."""

from __future__ import annotations

import argparse
import getpass
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

import numpy as np

from fraud.cli import run_command
from fraud.errors import BundleError, ConfigError, FraudError, RegistryError
from fraud.history.definition import plans
from fraud.registry import promotion, versions
from fraud.registry.promotion import LiveThreshold, Promotion
from fraud.registry.versions import CHAMPION, TaggedVersion
from fraud.scoring import bundle
from fraud.scoring.bundle import Bundle
from fraud.scoring.engine import Engine
from fraud.settings import Settings, turn_telemetry_off
from ray_jobs.gate import flags, history_ready, judge

logger = logging.getLogger(__name__)

_FOLLOW = "replicas follow at their next look (FRAUD_MODEL_POLL_S, 5 s by default)\n"


@dataclass(frozen=True)
class Author:
    """Who decides, and why."""

    by: str
    reason: str = ""


def promote(settings: Settings, reference: str, author: Author, *, force: bool = False) -> str:
    """Make a version, named by number or alias, the champion; return what changes as text.

    force: also where its entity history is older than the champion's. Raises RegistryError (no such version, champion
    already), BundleError (its bundle is not sound) or ConfigError (its history is behind).
    """
    target = versions.look_up(reference, settings)
    before = versions.registry_state(settings).champion
    if before is not None and before.number == target.number:
        raise RegistryError(f"version {before.number} is the champion already")
    return _move(settings, target, before, author, promotion.PROMOTED, force=force)


def roll_back(settings: Settings, author: Author) -> str:
    """Make the champion before this one the champion again; twice goes back two. Raises as `promote` does."""
    found = versions.registry_state(settings)
    now = None if found.champion is None else found.champion.number
    line = promotion.lineage(promotion.with_champion(promotion.champions(found.tags), now))
    if now is None or len(line) < 2:
        raise RegistryError("there is no champion before this one to go back to: promote a version by its number")
    target = versions.registry_state(settings, line[-2]).champion
    if target is None:
        raise RegistryError(f"version {line[-2]}, the champion before, was deleted: promote another by its number")
    # The way back must not depend on anything.
    return _move(settings, target, found.champion, author, promotion.ROLLED_BACK, force=True)


def set_threshold(settings: Settings, reference: str, value: float | None, author: Author) -> str:
    """Set the threshold that a version decides by, or with None go back to its bundle's; return what changes as text.

    Raises ConfigError (not above 0 and below 1), RegistryError or BundleError.
    """
    version = versions.look_up(reference, settings)
    loaded = _loaded(settings, version)
    own, current = loaded.detector.threshold.value, _live(version)
    in_force = current.value if current else own
    if value is None:
        if not version.tags.get(promotion.THRESHOLD):
            raise RegistryError(f"version {version.number} decides by its bundle's threshold, {own:g}, already")
        versions.set_tag(settings, promotion.THRESHOLD, None, version=version.number)
        return f"threshold of version {version.number}: {in_force:g} -> {own:g}, the bundle's\n{_FOLLOW}"
    live = LiveThreshold(
        value=value, by=author.by, reason=author.reason, time=promotion.now(), previous=in_force
    )  # raises for a value that is none
    versions.set_tag(settings, promotion.THRESHOLD, live.to_json(), version=version.number)
    back = "--reset-threshold goes back to the bundle's, " + format(own, "g")
    return f"threshold of version {version.number}: {in_force:g} -> {value:g}; {back}\n{_FOLLOW}"


def set_shadow(settings: Settings, is_on: bool) -> str:
    """Have the challenger score in the shadow what the champion answers, or no longer."""
    versions.set_tag(settings, promotion.SHADOW, "on" if is_on else "off")
    return status(settings) + _FOLLOW


def set_canary(settings: Settings, share: float) -> str:
    """Have the challenger answer for this share of the entities, 0 to 1. Raises ConfigError."""
    versions.set_tag(settings, promotion.CANARY_SHARE, repr(promotion.check_share(share)))
    return status(settings) + _FOLLOW


def status(settings: Settings) -> str:
    """What serves now, as text."""
    found = versions.registry_state(settings)
    if found.champion is None:
        raise RegistryError(f"model {settings.model_name!r} has no champion: train one with `python -m ray_jobs.train`")
    lines = [f"champion    {_described(settings, found.champion)}"]
    challenger = found.challenger
    if challenger is None:
        lines.append("challenger  none")
    elif challenger.number == found.champion.number:
        lines.append(f"challenger  version {challenger.number}, the champion itself: nothing runs beside it")
    else:
        lines.append(f"challenger  {_described(settings, challenger)}")
    share = promotion.canary_share(found.tags)
    lines.append(f"shadow      {'on' if promotion.is_shadowed(found.tags) else 'off'}")
    lines.append(f"canary      {share:g} of the entities")
    entries = promotion.with_champion(promotion.champions(found.tags), found.champion.number)
    for title, entry in zip(["history", *[""] * len(entries)], reversed(entries[-10:]), strict=False):
        why = f": {entry.reason}" if entry.reason else ""
        lines.append(f"{title:<12}{entry.time}  version {entry.version} {entry.how} by {entry.by}{why}")
    line = promotion.lineage(entries)
    if len(line) > 1:
        lines.append(f"rollback    goes to version {line[-2]}")
    return "\n".join(lines) + "\n"


def _move(
    settings: Settings, target: TaggedVersion, before: TaggedVersion | None, author: Author, how: str, *, force: bool
) -> str:
    loaded = _loaded(settings, target)
    if before is not None and not force:
        history_ready.check(settings, target.number, loaded.detector.schema, before)
    text = f"champion    version {target.number}, in place of {before.number if before else 'none'}\n"
    text += _changes(settings, target, loaded, before)
    move = Promotion(version=target.number, time=promotion.now(), by=author.by, reason=author.reason, how=how)
    versions.move_champion(settings, move, expected=before.number if before else None)
    return text + _FOLLOW + "back: python -m ray_jobs.promote --rollback\n"


def _loaded(settings: Settings, version: TaggedVersion) -> Bundle:
    """The version's bundle, whole, and with a score for a typical transaction. Raises BundleError or RegistryError."""
    loaded = bundle.load(versions.fetch_version(version, settings), expected_sha256=version.sha256)
    typical = loaded.detector.features.typical[None]
    if not np.isfinite(Engine(loaded.detector).score_raw(typical)).all():
        raise BundleError(f"version {version.number} scores a typical transaction as no number: train it again")
    return loaded


def _changes(settings: Settings, target: TaggedVersion, loaded: Bundle, before: TaggedVersion | None) -> str:
    """What a client or an analyst notices of the move."""
    new = _threshold(loaded, target)
    try:
        old_bundle = _loaded(settings, before) if before else None
    except FraudError as error:
        logger.warning("the champion before cannot be compared with: %s", error)
        old_bundle = None
    if before is None or old_bundle is None:
        return f"threshold   {new}\n"
    was, is_now = old_bundle.detector.schema, loaded.detector.schema
    lines = [f"threshold   {_threshold(old_bundle, before)} -> {new}"]
    columns = [{column.name for column in schema.inputs} for schema in (was, is_now)]
    if was.fingerprint == is_now.fingerprint:
        lines.append("schema      the same")
    else:
        added, dropped = sorted(columns[1] - columns[0]), sorted(columns[0] - columns[1])
        parts = [f"{what} {', '.join(names)}" for what, names in (("asks for", added), ("drops", dropped)) if names]
        lines.append(f"schema      another: {'; '.join(parts) or 'the same columns with other rules'}")
    known = {plan.fingerprint for plan in plans(was)}
    anew = [plan.column for plan in plans(is_now) if plan.fingerprint not in known]
    if plans(is_now):
        told = f"that of {', '.join(anew)} begins from its snapshots, or the model's own" if anew else "goes on"
        lines.append(f"history     {told}")
    return "\n".join(lines) + "\n"


def _described(settings: Settings, version: TaggedVersion) -> str:
    try:
        loaded = _loaded(settings, version)
    except FraudError as error:
        return f"version {version.number}, not sound: {error}"
    created = loaded.manifest.get("created")
    return f"version {version.number}, made {created}, threshold {_threshold(loaded, version)}"


def _threshold(loaded: Bundle, version: TaggedVersion) -> str:
    live = _live(version)
    if live is None:
        return f"{loaded.detector.threshold.value:g} (the bundle's)"
    return f"{live.value:g} (set {live.time} by {live.by}: {live.reason})"


def _live(version: TaggedVersion) -> LiveThreshold | None:
    """The version's live threshold; a malformed tag, which no replica follows, counts as none."""
    try:
        return promotion.live_threshold(version.tags)
    except ConfigError as error:
        logger.warning("%s", error)
        return None


class _Parser(argparse.ArgumentParser):
    """A parser whose complaint is one line, like every other user error."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; `python -m ray_jobs.promote --help` explains the flags")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m ray_jobs.promote",
        description="Decide what serves. The registry keeps the decision; every replica that serves from it follows "
        "within seconds, without a restart and without a failed request. Without arguments: --status. A version "
        "becomes champion only if its bundle is whole and scores. Runs without Ray.",
        epilog="examples:\n"
        "  python -m ray_jobs.promote                        what serves, and how it came to\n"
        "  python -m ray_jobs.promote --shadow on            score with the challenger, beside every answer\n"
        "  python -m ray_jobs.promote --canary 0.05          the challenger answers for 5 % of the cards\n"
        "  python -m ray_jobs.promote challenger --reason 'catches 4 % more at the same budget'\n"
        "  python -m ray_jobs.promote challenger --gate --data training.parquet --out gate/2026-01-31.json\n"
        "  python -m ray_jobs.promote --threshold 0.61 --reason 'more alerts than analysts'\n"
        "  python -m ray_jobs.promote --rollback --reason 'alerts doubled'",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("version", nargs="?", help="version number or alias: the new champion, or the version whose "
                        "threshold is set (then default champion)")  # fmt: skip
    does = parser.add_mutually_exclusive_group()
    does.add_argument("--rollback", action="store_true", help="back to the champion before; twice goes back two")
    does.add_argument("--threshold", type=float, metavar="T", help="decide by score >= T, above 0 and below 1; it "
                      "stays with the version, and needs a --reason")  # fmt: skip
    does.add_argument("--reset-threshold", action="store_true", help="decide by the bundle's own threshold again")
    does.add_argument("--shadow", choices=("on", "off"), help="the challenger scores too, and answers nothing")
    does.add_argument("--canary", type=float, metavar="SHARE", help="share of the entities, 0 to 1, that the "
                      "challenger answers; 0 ends it")  # fmt: skip
    does.add_argument("--status", action="store_true", help="what serves now, and the champions before")
    does.add_argument("--gate", action="store_true", help="judge the version against the champion on --data, and "
                      "promote it or refuse it; both exit with 0")  # fmt: skip
    parser.add_argument("--reason", default="", metavar="TEXT", help="why; kept with the decision")
    parser.add_argument("--by", metavar="NAME", help="who decides (default: the user that runs this)")
    parser.add_argument("--force", action="store_true", help="promote although the version's entity history is behind")
    flags.add(parser)
    return parser


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run as a number that has no name
        return "unknown"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; see `--help`."""
    turn_telemetry_off()
    given = _parser().parse_args(argv)
    settings = Settings.from_environment()
    author = Author(given.by or _user(), given.reason)
    if given.version and (given.rollback or given.shadow or given.canary is not None or given.status):
        raise ConfigError(f"{given.version!r} stands beside a flag that takes no version: leave one of them out")
    if given.threshold is not None and not given.reason:
        raise ConfigError("--threshold needs --reason TEXT: whoever reads GET /model later wants to know why")
    if not given.gate and (flag := flags.given_without_gate(given)):
        raise ConfigError(f"{flag} belongs to --gate: add it, or leave {flag} out")
    if given.gate:
        text = flags.told(judge.decide(flags.request_of(given, author.by, settings), settings))
    elif given.rollback:
        text = roll_back(settings, author)
    elif given.threshold is not None or given.reset_threshold:
        text = set_threshold(settings, given.version or CHAMPION, given.threshold, author)
    elif given.shadow:
        text = set_shadow(settings, given.shadow == "on")
    elif given.canary is not None:
        text = set_canary(settings, given.canary)
    elif given.version:
        text = promote(settings, given.version, author, force=given.force)
    else:
        text = status(settings)
    sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    run_command(main)
