"""Look after the decision log: find a decision, merge small files, delete old days.

python -m serve_app.decisions show 5f2d0c7a
python -m serve_app.decisions compact
python -m serve_app.decisions prune --older 400d          # says what it would delete
python -m serve_app.decisions prune --older 400d --yes
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import logging
import os
import re
import sys
from collections.abc import Sequence

from fraud.cli import examples, run_command
from fraud.data import partitions
from fraud.data.locks import AlreadyLockedError
from fraud.errors import ConfigError
from fraud.settings import Settings
from fraud.settings.serving import DecisionSettings
from serve_app.decisions import lookup
from serve_app.decisions.maintenance import DecisionFolder
from serve_app.decisions.settings import read_settings

logger = logging.getLogger(__name__)

_AGE = re.compile(r"([1-9]\d{0,4})d")
_NICE = 10  # requests come first


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="python -m serve_app.decisions",
        description=__doc__,
        **examples("python -m serve_app.decisions show 17", "python -m serve_app.decisions prune --older 400d"),
    )
    verbs = top.add_subparsers(dest="verb", required=True, metavar="show|compact|prune")
    show = verbs.add_parser(
        "show",
        help="print the decisions with an id, as JSON lines",
        description="Print the decisions with an id, as JSON lines.",
        **examples("python -m serve_app.decisions show 17 --column TRANSACTION_ID --since 2026-01-31"),
    )
    show.add_argument("id", help="the request id of an answer, or with --column another value")
    show.add_argument("--column", metavar="NAME", help="the input column that holds ID (default: the request id)")
    show.add_argument("--since", metavar="DATE", help="search from this UTC day on (default: everything)")
    compact = verbs.add_parser(
        "compact",
        help="merge the small files of each day into one; replicas do so every hour",
        description="Merge the small files of each day into one; replicas do so every hour.",
        **examples("python -m serve_app.decisions compact --last-days 3"),
    )
    compact.add_argument("--last-days", type=int, metavar="N", help="only so many days before today (default: all)")
    prune = verbs.add_parser(
        "prune",
        help="delete old days; without --yes only say which",
        description="Delete old days; without --yes only say which.",
        **examples("python -m serve_app.decisions prune --older 400d --yes"),
    )
    prune.add_argument("--older", required=True, metavar="AGE", help="delete days that ended this long ago, e.g. 400d")
    prune.add_argument("--yes", action="store_true", help="delete; without it nothing is deleted")
    for verb in (show, compact, prune):
        verb.add_argument("--decisions", metavar="URL", help="folder or URL of the log (default: FRAUD_DECISIONS)")
    return top


def show(settings: DecisionSettings, value: str, column: str | None, since: str | None) -> int:
    """Print decisions; exit code 1 if there is none."""
    day = partitions.day_named(since, "--since") if since else None
    rows = lookup.look_up(settings, value, column, day)
    for row in rows:
        sys.stdout.write(json.dumps(row, default=str, ensure_ascii=False) + "\n")
    if not rows:
        where = f"{column} {value!r}" if column else f"request id {value!r}"
        sys.stderr.write(f"no decision in {settings.url} has {where}; other machines publish theirs within a minute\n")
    return 0 if rows else 1


def compact(folder: DecisionFolder, last_days: int | None) -> None:
    """Merge files and print what became of each day."""
    os.nice(_NICE)
    try:
        changed = folder.merge(now=dt.datetime.now(dt.UTC), last_days=last_days)
    except AlreadyLockedError as error:
        sys.stdout.write(f"nothing done: {error} works on this log\n")
        return
    for before, after in changed:
        sizes = f"{_size(before.n_bytes)} to {_size(after.n_bytes)}"
        sys.stdout.write(f"{after.date}: {len(before.files):,} files to {len(after.files):,}, {sizes}\n")
    if not changed:
        sys.stdout.write("nothing to merge\n")


def prune(folder: DecisionFolder, older: str, is_confirmed: bool) -> None:
    """Delete old days, or say which would be deleted. Raises ConfigError; AlreadyLockedError."""
    match = _AGE.fullmatch(older)
    if match is None:
        raise ConfigError(f"--older {older!r} is no age: write a number of days such as 400d")
    days = folder.older_than(dt.timedelta(days=int(match[1])), now=dt.datetime.now(dt.UTC))
    if not days:
        sys.stdout.write(f"no day is older than {match[1]} days\n")
        return
    span = days[0].date if len(days) == 1 else f"{days[0].date} to {days[-1].date}"
    what = f"{len(days):,} day{'s' if len(days) > 1 else ''} ({span}), {sum(len(day.files) for day in days):,} files, "
    what += _size(sum(day.n_bytes for day in days))
    if is_confirmed:
        try:
            folder.delete(days)
        except AlreadyLockedError as error:
            raise ConfigError(f"nothing was deleted, because {error} merges or deletes: run it again later") from None
    sys.stdout.write(f"deleted {what}\n" if is_confirmed else f"would delete {what}; run it again with --yes\n")


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 2**20:,.1f} MiB" if n_bytes >= 2**20 else f"{n_bytes / 2**10:,.1f} KiB"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb. Raises FraudError."""
    arguments = parser().parse_args(argv)
    settings = Settings.from_environment()
    environment = dict(os.environ)
    if arguments.decisions:
        environment["FRAUD_DECISIONS"] = arguments.decisions
    decisions = read_settings(settings, environment)
    if decisions.url is None:
        raise ConfigError("FRAUD_DECISIONS=off: there is no decision log; name one with --decisions")
    if arguments.verb == "show":
        return show(decisions, arguments.id, arguments.column, arguments.since)
    folder = DecisionFolder(decisions.url)
    if arguments.verb == "compact":
        compact(folder, arguments.last_days)
    else:
        prune(folder, arguments.older, arguments.yes)
    return 0


if __name__ == "__main__":
    run_command(main)
