"""The command line of `python -m ray_jobs.promote`."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence

from fraud.cli import Parser
from fraud.errors import ConfigError
from fraud.registry import changes, versions
from fraud.registry.versions import CHAMPION
from fraud.settings import Settings, turn_telemetry_off
from ray_jobs.gate import flags, judge
from ray_jobs.promote import actions, status
from ray_jobs.promote.actions import Author


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m ray_jobs.promote",
        description="Set what serves. The registry stores the decision with who, when and why; every replica follows "
        "within seconds, without a restart and without a failed request. Without arguments: --status. A version "
        "becomes champion if the gate finds it better, or with --override, and only if its bundle is intact and scores "
        "a typical transaction. Runs without Ray.",
        epilog="examples:\n"
        "  python -m ray_jobs.promote                        what serves, and the newest changes\n"
        "  python -m ray_jobs.promote --history              every change: when, what, who, why\n"
        "  python -m ray_jobs.promote --status --json        the same for programs\n"
        "  python -m ray_jobs.promote challenger --gate --data training.parquet --out gate/2026-01-31.json\n"
        "  python -m ray_jobs.promote 7 --override --by ann --reason 'the champion leaks a field'\n"
        "  python -m ray_jobs.promote --rollback --reason 'alerts doubled'\n"
        "  python -m ray_jobs.promote --threshold 0.61 --reason 'more alerts than analysts'\n"
        "  python -m ray_jobs.promote --reset-threshold --reason 'two analysts more'\n"
        "  python -m ray_jobs.promote --shadow on            the challenger scores every request too\n"
        "  python -m ray_jobs.promote --canary 0.05          the challenger answers for 5 % of the cards",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("version", nargs="?", help="version number or alias: the new champion, or the version whose "
                        "threshold is set (default for that: champion)")  # fmt: skip
    act = parser.add_mutually_exclusive_group()
    act.add_argument("--gate", action="store_true", help="judge the version against the champion on --data; "
                     "promote or refuse it; exits with 0 either way")  # fmt: skip
    act.add_argument("--rollback", action="store_true", help="restore the previous champion; twice goes back two")
    act.add_argument("--threshold", type=float, metavar="T", help="alert on score >= T, above 0 and below 1; "
                     "belongs to the version; needs --reason")  # fmt: skip
    act.add_argument("--reset-threshold", action="store_true", help="restore the bundle's threshold")
    act.add_argument("--shadow", choices=("on", "off"), help="the challenger scores too; clients never see its scores")
    act.add_argument("--canary", type=float, metavar="SHARE", help="share of the entities, 0 to 1, that the "
                     "challenger answers; 0 ends it")  # fmt: skip
    act.add_argument("--status", action="store_true", help="what serves now, and the newest changes")
    act.add_argument("--history", action="store_true", help="every change, newest first")
    parser.add_argument("--reason", default="", metavar="TEXT", help="why; stored with the change")
    parser.add_argument("--by", metavar="NAME", help="who decides (default: the current user)")
    parser.add_argument("--override", action="store_true", default=None, help="promote without the gate or despite "
                        "failed checks, or let a refused challenger be a canary; needs --reason and --by")  # fmt: skip
    parser.add_argument("--force", action="store_true", help="promote even if the version's entity history is behind")
    parser.add_argument("--json", action="store_true", help="print --status or --history as JSON")
    flags.add(parser)
    return parser


def _check(arguments: argparse.Namespace) -> None:
    shows = arguments.status or arguments.history
    without_version = arguments.rollback or arguments.shadow or arguments.canary is not None or shows
    if arguments.version and without_version:
        raise ConfigError(
            f"{arguments.version!r} cannot be combined with a flag that takes no version: leave one of them out"
        )
    if arguments.threshold is not None and not arguments.reason:
        raise ConfigError("--threshold needs --reason TEXT, which GET /model shows")
    if arguments.override and not (arguments.by and arguments.reason):
        raise ConfigError("--override needs --by NAME and --reason TEXT: the history names who overrode the gate")
    promotes = arguments.version and arguments.threshold is None and not arguments.reset_threshold
    if arguments.override and not promotes and not arguments.canary:
        raise ConfigError("--override belongs to a version to promote, or to --canary: add one, or leave it out")
    if not arguments.gate and (flag := flags.first_set(arguments)):
        raise ConfigError(f"{flag} belongs to --gate: add it, or leave {flag} out")
    acts = arguments.version or arguments.gate or arguments.threshold is not None or arguments.reset_threshold
    if arguments.json and (acts or (without_version and not shows)):
        raise ConfigError("--json belongs to --status or --history: leave it out")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; see `--help`."""
    turn_telemetry_off()
    arguments = _parser().parse_args(argv)
    _check(arguments)
    settings = Settings.from_environment()
    author = Author(arguments.by or changes.user(), arguments.reason, bool(arguments.override))
    sys.stdout.write(_run(arguments, author, settings))
    return 0


def _run(arguments: argparse.Namespace, author: Author, settings: Settings) -> str:
    if arguments.gate:
        return flags.summary(judge.decide(flags.read_request(arguments, author.by, settings), settings))
    if arguments.rollback:
        return actions.roll_back(settings, author)
    if arguments.threshold is not None or arguments.reset_threshold:
        return actions.set_threshold(settings, arguments.version or CHAMPION, arguments.threshold, author)
    if arguments.shadow:
        return actions.set_shadow(settings, arguments.shadow == "on", author)
    if arguments.canary is not None:
        return actions.set_canary(settings, arguments.canary, author)
    if arguments.version:
        return actions.promote(settings, arguments.version, author, force=arguments.force)
    if arguments.history:
        entries = status.history(versions.registry_state(settings))
        if arguments.json:
            return json.dumps([dataclasses.asdict(entry) for entry in entries], indent=2) + "\n"
        return "".join(f"{entry.text()}\n" for entry in reversed(entries)) or "no change is recorded\n"
    document = status.read(settings)
    return json.dumps(document, indent=2) + "\n" if arguments.json else status.text(document)
