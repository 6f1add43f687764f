"""Set what serves: champion, rollback, threshold, shadow and canary. Replicas follow the registry's tags."""

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

_FOLLOW = "replicas follow at their next poll (FRAUD_MODEL_POLL_S, default 5 s)\n"


@dataclass(frozen=True)
class Author:
    """Who decides, and why."""

    by: str
    reason: str = ""


def promote(settings: Settings, reference: str, author: Author, *, force: bool = False) -> str:
    """Make a version, named by number or alias, the champion; return what changes as text.

    force: even if its entity history is older than the champion's. Raises RegistryError (no such version, or already
    champion), BundleError (a damaged bundle) or ConfigError (its history is behind).
    """
    target = versions.look_up(reference, settings)
    before = versions.registry_state(settings).champion
    if before is not None and before.number == target.number:
        raise RegistryError(f"version {before.number} is already champion")
    return _move(settings, target, before, author, promotion.PROMOTED, force=force)


def roll_back(settings: Settings, author: Author) -> str:
    """Restore the previous champion; a second call goes back one more. Raises as `promote`."""
    standing = versions.registry_state(settings)
    current = None if standing.champion is None else standing.champion.number
    line = promotion.lineage(promotion.with_champion(promotion.champions(standing.tags), current))
    if current is None or len(line) < 2:
        raise RegistryError("there is no previous champion: promote a version by its number")
    target = versions.registry_state(settings, line[-2]).champion
    if target is None:
        raise RegistryError(f"the previous champion, version {line[-2]}, was deleted: promote another by its number")
    # A rollback must always work, so skip the history check.
    return _move(settings, target, standing.champion, author, promotion.ROLLED_BACK, force=True)


def set_threshold(settings: Settings, reference: str, value: float | None, author: Author) -> str:
    """Set a version's threshold; None restores its bundle's. Returns what changes as text.

    Raises ConfigError (not between 0 and 1), RegistryError or BundleError.
    """
    version = versions.look_up(reference, settings)
    loaded = _load(settings, version)
    own, current = loaded.detector.threshold.value, _live_threshold(version)
    in_force = current.value if current else own
    if value is None:
        if not version.tags.get(promotion.THRESHOLD):
            raise RegistryError(f"version {version.number} already uses its bundle's threshold, {own:g}")
        versions.set_tag(settings, promotion.THRESHOLD, None, version=version.number)
        return f"threshold of version {version.number}: {in_force:g} -> {own:g}, the bundle's\n{_FOLLOW}"
    live = LiveThreshold(
        value=value, by=author.by, reason=author.reason, time=promotion.now(), previous=in_force
    )  # checks the value
    versions.set_tag(settings, promotion.THRESHOLD, live.to_json(), version=version.number)
    undo = "--reset-threshold restores the bundle's, " + format(own, "g")
    return f"threshold of version {version.number}: {in_force:g} -> {value:g}; {undo}\n{_FOLLOW}"


def set_shadow(settings: Settings, is_on: bool) -> str:
    """Turn shadow scoring by the challenger on or off."""
    versions.set_tag(settings, promotion.SHADOW, "on" if is_on else "off")
    return status(settings) + _FOLLOW


def set_canary(settings: Settings, share: float) -> str:
    """Set the share of entities, 0 to 1, that the challenger answers. Raises ConfigError."""
    versions.set_tag(settings, promotion.CANARY_SHARE, repr(promotion.check_share(share)))
    return status(settings) + _FOLLOW


def status(settings: Settings) -> str:
    """What serves now as text."""
    standing = versions.registry_state(settings)
    if standing.champion is None:
        raise RegistryError(f"model {settings.model_name!r} has no champion: train one with `python -m ray_jobs.train`")
    lines = [f"champion    {_description(settings, standing.champion)}"]
    challenger = standing.challenger
    if challenger is None:
        lines.append("challenger  none")
    elif challenger.number == standing.champion.number:
        lines.append(f"challenger  version {challenger.number}, the champion itself")
    else:
        lines.append(f"challenger  {_description(settings, challenger)}")
    share = promotion.canary_share(standing.tags)
    lines.append(f"shadow      {'on' if promotion.is_shadowed(standing.tags) else 'off'}")
    lines.append(f"canary      {share:g} of the entities")
    entries = promotion.with_champion(promotion.champions(standing.tags), standing.champion.number)
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
    loaded = _load(settings, target)
    if before is not None and not force:
        history_ready.check(settings, target.number, loaded.detector.schema, before)
    text = f"champion    version {target.number}, in place of {before.number if before else 'none'}\n"
    text += _changes(settings, target, loaded, before)
    move = Promotion(version=target.number, time=promotion.now(), by=author.by, reason=author.reason, how=how)
    versions.move_champion(settings, move, expected=before.number if before else None)
    return text + _FOLLOW + "back: python -m ray_jobs.promote --rollback\n"


def _load(settings: Settings, version: TaggedVersion) -> Bundle:
    """The version's bundle, after a test score of a typical transaction. Raises BundleError or RegistryError."""
    loaded = bundle.load(versions.fetch_version(version, settings), expected_sha256=version.sha256)
    typical = loaded.detector.features.typical[None]
    if not np.isfinite(Engine(loaded.detector).score_raw(typical)).all():
        raise BundleError(f"version {version.number} gives a typical transaction a NaN score: train it again")
    return loaded


def _changes(settings: Settings, target: TaggedVersion, loaded: Bundle, before: TaggedVersion | None) -> str:
    """Changes that clients or analysts notice."""
    new = _threshold(loaded, target)
    try:
        old_bundle = _load(settings, before) if before else None
    except FraudError as error:
        logger.warning("cannot compare with the previous champion: %s", error)
        old_bundle = None
    if before is None or old_bundle is None:
        return f"threshold   {new}\n"
    old_schema, new_schema = old_bundle.detector.schema, loaded.detector.schema
    lines = [f"threshold   {_threshold(old_bundle, before)} -> {new}"]
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


def _description(settings: Settings, version: TaggedVersion) -> str:
    try:
        loaded = _load(settings, version)
    except FraudError as error:
        return f"version {version.number}, damaged: {error}"
    created = loaded.manifest.get("created")
    return f"version {version.number}, made {created}, threshold {_threshold(loaded, version)}"


def _threshold(loaded: Bundle, version: TaggedVersion) -> str:
    live = _live_threshold(version)
    if live is None:
        return f"{loaded.detector.threshold.value:g} (the bundle's)"
    return f"{live.value:g} (set {live.time} by {live.by}: {live.reason})"


def _live_threshold(version: TaggedVersion) -> LiveThreshold | None:
    """The version's live threshold; a malformed tag, which no replica follows, counts as none."""
    try:
        return promotion.live_threshold(version.tags)
    except ConfigError as error:
        logger.warning("%s", error)
        return None


class _Parser(argparse.ArgumentParser):
    """Reports a wrong command line as a ConfigError, in one line."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; `python -m ray_jobs.promote --help` explains the flags")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m ray_jobs.promote",
        description="Set what serves. The registry stores the decision; every replica follows within seconds, without "
        "a restart and without a failed request. Without arguments: --status. A version becomes champion only if its "
        "bundle is intact and scores a typical transaction. Runs without Ray.",
        epilog="examples:\n"
        "  python -m ray_jobs.promote                        what serves, and past champions\n"
        "  python -m ray_jobs.promote --shadow on            the challenger scores every request too\n"
        "  python -m ray_jobs.promote --canary 0.05          the challenger answers for 5 % of the cards\n"
        "  python -m ray_jobs.promote challenger --reason 'catches 4 % more at the same budget'\n"
        "  python -m ray_jobs.promote challenger --gate --data training.parquet --out gate/2026-01-31.json\n"
        "  python -m ray_jobs.promote --threshold 0.61 --reason 'more alerts than analysts'\n"
        "  python -m ray_jobs.promote --rollback --reason 'alerts doubled'",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("version", nargs="?", help="version number or alias: the new champion, or the version whose "
                        "threshold is set (default for that: champion)")  # fmt: skip
    actions = parser.add_mutually_exclusive_group()
    actions.add_argument("--rollback", action="store_true", help="restore the previous champion; twice goes back two")
    actions.add_argument("--threshold", type=float, metavar="T", help="alert on score >= T, above 0 and below 1; "
                         "belongs to the version; needs --reason")  # fmt: skip
    actions.add_argument("--reset-threshold", action="store_true", help="restore the bundle's threshold")
    actions.add_argument(
        "--shadow", choices=("on", "off"), help="the challenger scores too; clients never see its scores"
    )
    actions.add_argument("--canary", type=float, metavar="SHARE", help="share of the entities, 0 to 1, that the "
                      "challenger answers; 0 ends it")  # fmt: skip
    actions.add_argument("--status", action="store_true", help="what serves now, and past champions")
    actions.add_argument("--gate", action="store_true", help="judge the version against the champion on --data; "
                      "promote or refuse it; exits with 0 either way")  # fmt: skip
    parser.add_argument("--reason", default="", metavar="TEXT", help="why; stored with the decision")
    parser.add_argument("--by", metavar="NAME", help="who decides (default: the current user)")
    parser.add_argument("--force", action="store_true", help="promote even if the version's entity history is behind")
    flags.add(parser)
    return parser


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # in a container the user id may have no name
        return "unknown"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; see `--help`."""
    turn_telemetry_off()
    arguments = _parser().parse_args(argv)
    settings = Settings.from_environment()
    author = Author(arguments.by or _user(), arguments.reason)
    if arguments.version and (
        arguments.rollback or arguments.shadow or arguments.canary is not None or arguments.status
    ):
        raise ConfigError(
            f"{arguments.version!r} cannot be combined with a flag that takes no version: leave one of them out"
        )
    if arguments.threshold is not None and not arguments.reason:
        raise ConfigError("--threshold needs --reason TEXT, which GET /model shows")
    if not arguments.gate and (flag := flags.first_set(arguments)):
        raise ConfigError(f"{flag} belongs to --gate: add it, or leave {flag} out")
    if arguments.gate:
        text = flags.summary(judge.decide(flags.read_request(arguments, author.by, settings), settings))
    elif arguments.rollback:
        text = roll_back(settings, author)
    elif arguments.threshold is not None or arguments.reset_threshold:
        text = set_threshold(settings, arguments.version or CHAMPION, arguments.threshold, author)
    elif arguments.shadow:
        text = set_shadow(settings, arguments.shadow == "on")
    elif arguments.canary is not None:
        text = set_canary(settings, arguments.canary)
    elif arguments.version:
        text = promote(settings, arguments.version, author, force=arguments.force)
    else:
        text = status(settings)
    sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    run_command(main)
