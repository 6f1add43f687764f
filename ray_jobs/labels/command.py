"""The command line of `python -m ray_jobs.labels`: ingest, retract, draw, join, show."""

from __future__ import annotations

import argparse
import datetime as dt
import getpass
import os
import sys
from collections.abc import Callable, Sequence
from typing import get_args

from fraud.cli import Parser
from fraud.data import files
from fraud.data.partitions import day_named
from fraud.days import UTC, Zone
from fraud.errors import ConfigError
from fraud.labels import join as label_join
from fraud.labels.store import LabelStore
from fraud.registry.models import schema_of
from fraud.schema.zone import agreed
from fraud.scoring import decided
from fraud.settings import Settings, turn_telemetry_off
from ray_jobs.labels import draw, ingest, join, retract, show
from ray_jobs.labels.unknown_ids import KnownTransactions

_NOW = "now"
_PROGRAM = "python -m ray_jobs.labels"
_STORE = "Labels are stored in FRAUD_LABELS (a folder or URL; default: labels below FRAUD_STATE)."


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog=_PROGRAM,
        description=f"Labels that arrive after their transactions: verdicts, chargebacks, random reviews. {_STORE} "
        "Each action has its own --help.",
        epilog=f"examples:\n  {_PROGRAM} ingest verdicts.csv\n  {_PROGRAM} ingest --help\n  {_PROGRAM} show",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    def action(name: str, summary: str, description: str, examples: Sequence[str]) -> argparse.ArgumentParser:
        added: argparse.ArgumentParser = actions.add_parser(
            name, help=summary, description=description,
            epilog="examples:\n" + "\n".join(f"  {_PROGRAM} {name} {line}".rstrip() for line in examples),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        if name != "show":
            added.add_argument("--schema", help="name or YAML (default: the champion's)")
        return added

    for add in (_add_ingest, _add_retract, _add_draw, _add_join, _add_show):
        add(action)
    return parser


def _add_ingest(action: Callable[..., argparse.ArgumentParser]) -> None:
    parser = action(
        "ingest", "add verdicts or chargebacks from a file",
        "Add labels from a CSV or Parquet with a transaction's id and whether it was fraud, under the schema's names "
        "or as id and is_fraud; add known_at (UTC) when a file covers several days. For an id with several labels, the "
        "latest known one counts. The model's own decisions (a scored day, the decision log) are refused. Ids are "
        "compared with the known transactions; unknown ones are reported.",
        ("verdicts.csv", "chargebacks.parquet --source chargeback", "'inbox/*.csv' --allow-empty",
         "drawn.csv --source review --known-at 2026-01-31"),
    )  # fmt: skip
    parser.add_argument("file", nargs="?", help="CSV or Parquet: a file, folder, glob or URL")
    parser.add_argument("--source", default="analyst", help="who made the labels (default: %(default)s)")
    parser.add_argument(
        "--known-at", help="when the labels became known, for a file without known_at (default: now; UTC)"
    )
    parser.add_argument("--quarantine", help="Parquet for refused rows (default: beside the labels, in quarantine)")
    parser.add_argument("--force", action="store_true", help="ingest a file again")
    parser.add_argument("--allow-empty", action="store_true", help="succeed when there is no file")
    parser.add_argument("--decisions", help="decision log or scored Parquet to compare ids with (default: "
                        "FRAUD_DECISIONS)")  # fmt: skip
    parser.add_argument("--data", help="transactions to compare ids with: a file, folder, glob or URL")


def _add_retract(action: Callable[..., argparse.ArgumentParser]) -> None:
    parser = action(
        "retract", "take labels back: their ids have no label again",
        "Take labels back, for example those of a wrong file. The id has no label from then on: the live history "
        "forgets the fraud, and a join counts the row as unlabelled. What was known before stays on record. A "
        "transaction that turned out legitimate is not retracted: ingest a label 0. Idempotent.",
        ("wrong.csv --reason 'the export was of another system'", "--id 1754155 --reason 'mistyped id'"),
    )  # fmt: skip
    parser.add_argument("file", nargs="?", help="CSV or Parquet with the ids: a file, folder, glob or URL")
    parser.add_argument("--id", action="append", default=[], metavar="ID", help="an id to retract; repeatable")
    parser.add_argument("--reason", default="", metavar="TEXT", help="why; stored with the retraction; required")
    parser.add_argument("--by", metavar="NAME", help="who retracts (default: the current user)")
    parser.add_argument("--source", default="analyst", help="whose entry it is (default: %(default)s)")
    parser.add_argument("--known-at", help="when it became known that the labels are wrong (default: now; UTC)")


def _add_draw(action: Callable[..., argparse.ArgumentParser]) -> None:
    parser = action(
        "draw", "draw rows of a day for a person to review",
        "Draw a day's rows at random and write a CSV with an empty is_fraud column to fill in. A day is drawn once; "
        "drawing it again gives the same rows. A sheet that has verdicts is never overwritten without --force.",
        ("--day 2026-01-31 --rows 200 --out review.csv", "--day 2026-01-31 --decisions scored --flagged 20"),
    )  # fmt: skip
    parser.add_argument("--decisions", help="decision log, or scored Parquet (default: FRAUD_DECISIONS)")
    parser.add_argument("--day", help="the day, YYYY-MM-DD (default: yesterday; in the schema's day_zone)")
    parser.add_argument("--rows", type=int, default=100, help="rows at random (default: %(default)s)")
    parser.add_argument("--flagged", type=int, default=0, help="further rows from the alerts (default: 0)")
    parser.add_argument("--out", default="review.csv", help="CSV to fill in (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=7, help="seed (default: %(default)s)")
    parser.add_argument("--force", action="store_true", help="overwrite --out")


def _add_join(action: Callable[..., argparse.ArgumentParser]) -> None:
    parser = action(
        "join", "write training data: transactions with the labels known by a day",
        "Write the rows of --data with the labels that were known when the day --as-of began, matched by id, and what "
        "was joined as JSON beside it. `python -m ray_jobs.train --labels store` joins by itself.",
        ("--data cards.parquet --out training.parquet --as-of 2026-01-31",
         "--data cards.parquet --out judging.parquet --sources review,chargeback"),
    )  # fmt: skip
    parser.add_argument("--data", help="transactions, CSV or Parquet: a file, folder, glob or URL")
    parser.add_argument("--out", help="Parquet to write")
    parser.add_argument("--as-of", help="use labels known when this day begins, YYYY-MM-DD (default: today; in the "
                        "schema's day_zone); now: all that are known by now")  # fmt: skip
    parser.add_argument("--matured-days", type=float, metavar="N", help="skip younger rows (default: the schema's "
                        "label_delay_days)")  # fmt: skip
    parser.add_argument("--unlabelled", default="legitimate", choices=get_args(label_join.Unlabelled),
                        help="how a matured row without a label counts (default: %(default)s)")  # fmt: skip
    parser.add_argument("--sources", default="", metavar="A,B", help="use only labels of these sources")
    parser.add_argument("--keep-labels", action="store_true", help="use the data's own label for rows without another")
    parser.add_argument("--force", action="store_true", help="overwrite an --out that no join wrote")


def _add_show(action: Callable[..., argparse.ArgumentParser]) -> None:
    action("show", "count the labels by day and source",
           "Count the labels of the store by source and by the day on which they became known, and list retractions.",
           ("",))  # fmt: skip


def _moment(flag: str, text: str | None) -> dt.datetime | None:
    if not text:
        return None
    try:
        moment = dt.datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"{flag} {text!r} is not a time: write it as 2026-01-31 or 2026-01-31T13:45Z") from None
    return moment.replace(tzinfo=dt.UTC) if moment.tzinfo is None else moment


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; see `--help`."""
    arguments = _parser().parse_args(argv)
    settings = Settings.from_environment()
    turn_telemetry_off()
    store = LabelStore.from_environment(settings, os.environ)
    run = {"ingest": _ingest, "retract": _retract, "draw": _draw, "join": _join, "show": _show}[arguments.action]
    sys.stdout.write(run(arguments, settings, store))
    return 0


def _ingest(arguments: argparse.Namespace, settings: Settings, store: LabelStore) -> str:
    if not arguments.file:
        raise ConfigError(f"ingest needs a file: `{_PROGRAM} ingest FILE`")
    path, now = settings.locate(arguments.file), dt.datetime.now(dt.UTC)
    if arguments.allow_empty and files.is_empty(path):
        return f"{arguments.file}: nothing new\n"
    schema = schema_of(arguments.schema, settings)
    agreed(schema, settings.day_zone)
    quarantine = arguments.quarantine or f"{store.url.rstrip('/')}/quarantine/{now:%Y%m%dT%H%M%S}.parquet"
    known = KnownTransactions(
        schema=schema, settings=settings, decisions=decided.location(arguments.decisions, settings, os.environ),
        data=arguments.data and settings.locate(arguments.data),
    )  # fmt: skip
    ingestion = ingest.Ingestion(
        source=arguments.source, known_at=_moment("--known-at", arguments.known_at),
        quarantine=settings.locate(quarantine), now=now, known=known, force=arguments.force,
    )  # fmt: skip
    return ingest.ingest(path, store, schema, ingestion)


def _retract(arguments: argparse.Namespace, settings: Settings, store: LabelStore) -> str:
    if bool(arguments.file) == bool(arguments.id):
        raise ConfigError("retract needs either a file with ids or --id ID (repeatable)")
    now = dt.datetime.now(dt.UTC)
    retraction = retract.Retraction(
        source=arguments.source, by=arguments.by or _user(), reason=arguments.reason,
        known_at=_moment("--known-at", arguments.known_at) or now, now=now,
    )  # fmt: skip
    ids = arguments.id
    if arguments.file:
        ids = retract.ids_of_file(settings.locate(arguments.file), schema_of(arguments.schema, settings))
    return retract.retract(ids, store, retraction)


def _draw(arguments: argparse.Namespace, settings: Settings, store: LabelStore) -> str:
    schema = schema_of(arguments.schema, settings)
    zone = agreed(schema, settings.day_zone)
    day = day_named(arguments.day, "--day") if arguments.day else zone.yesterday(dt.datetime.now(dt.UTC))
    sample = draw.Sample(day=day, rows=arguments.rows, seed=arguments.seed, flagged=arguments.flagged)
    decisions, out = decided.location(arguments.decisions, settings, os.environ), settings.locate(arguments.out)
    return draw.draw(
        store, decisions, schema, sample, out, shown=arguments.out, model=settings.model_name, force=arguments.force
    )


def _join(arguments: argparse.Namespace, settings: Settings, store: LabelStore) -> str:
    if not (arguments.data and arguments.out):
        raise ConfigError("join needs --data FILE and --out FILE.parquet")
    schema = schema_of(arguments.schema, settings)
    zone = agreed(schema, settings.day_zone)
    today = zone.today(dt.datetime.now(dt.UTC))
    if arguments.as_of == _NOW:  # every label that is known by now is known when tomorrow begins
        as_of = today + dt.timedelta(days=1)
    else:
        as_of = day_named(arguments.as_of, "--as-of") if arguments.as_of else today
    delay = schema.label_delay_days if arguments.matured_days is None else arguments.matured_days
    policy = label_join.Policy(
        as_of=as_of, zone=zone, keep_own=arguments.keep_labels, matured_days=delay, unlabelled=arguments.unlabelled
    )
    sources = [name for name in arguments.sources.split(",") if name]
    data, out = settings.locate(arguments.data), settings.locate(arguments.out)
    text, _ = join.join(data, store, schema, policy, out=out, sources=sources, force=arguments.force)
    return text


def _show(_arguments: argparse.Namespace, settings: Settings, store: LabelStore) -> str:
    return show.summary(store, Zone(settings.day_zone or UTC.name))


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # in a container the user id may have no name
        return "unknown"
