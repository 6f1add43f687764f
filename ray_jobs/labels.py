"""Take in the labels that become known after the transactions: analysts' verdicts, chargebacks, random reviews."""

from __future__ import annotations

import argparse
import dataclasses
import datetime as dt
import json
import logging
import os
import posixpath
import re
import sys
from collections.abc import Sequence
from typing import NamedTuple, NoReturn, get_args

import pandas as pd

from fraud.cli import run_command
from fraud.data import files, tables
from fraud.data.partitions import day_named
from fraud.days import UTC, Zone
from fraud.errors import ConfigError, DataError, SchemaError
from fraud.labels import join as label_join
from fraud.labels.store import ID, IS_FRAUD, KNOWN_AT, REVIEW, SOURCE, LabelStore, check
from fraud.registry import versions
from fraud.schema import Schema
from fraud.schema.zone import agreed
from fraud.scoring import decided
from fraud.settings import Settings, turn_telemetry_off

logger = logging.getLogger(__name__)


class Origin(NamedTuple):
    """Who says so and since when. known_at: where the file does not say; None means `now`."""

    source: str
    known_at: dt.datetime | None
    now: dt.datetime


def ingest(
    path: str, store: LabelStore, schema: Schema, origin: Origin, *, quarantine: str, force: bool = False
) -> str:
    """Take in files of labels and return what came of each as text. A file twice from the same source is once.

    Of several files that a pattern or folder names each is an ingestion of its own, so that new ones may join old ones.
    Raises DataError where no row of a file is good, ConfigError and SchemaError as fraud.labels.store.check does.
    """
    source, known_at, now = origin
    if not re.fullmatch(r"[a-z][a-z0-9_-]{0,30}", source):
        raise ConfigError(f"--source {source!r}: use small letters, digits, - and _, such as chargeback")
    if known_at is not None and known_at > now:
        raise ConfigError(f"--known-at {known_at:%Y-%m-%d %H:%M} is in the future; it is UTC")
    filesystem, names = files.find(path)
    paths = [filesystem.unstrip_protocol(name) for name in names] if len(names) > 1 else [path]
    told, refused = [], []
    for place, each in enumerate(paths):
        beside = quarantine if len(paths) == 1 else f"{quarantine.removesuffix('.parquet')}-{place}.parquet"
        try:
            text = _ingest(each, store, schema, origin, quarantine=beside, force=force)
        except (DataError, SchemaError) as error:
            if len(paths) == 1:
                raise
            refused.append(str(error))  # the other files must not wait for this one to be mended
            continue
        told.append(text if len(paths) == 1 else f"{posixpath.basename(each)}: {text}")
    if refused:
        raise DataError(f"{len(refused)} of {len(paths)} files could not be taken in, the others were: {refused[0]}")
    return "".join(told)


def _ingest(path: str, store: LabelStore, schema: Schema, origin: Origin, *, quarantine: str, force: bool) -> str:
    source, known_at, now = origin
    name = f"{source}-{tables.fingerprint(path)[:32]}"
    if store.has(name) and not force:
        return f"{path} is in {store.url} already: nothing to do (--force takes it in again)\n"
    found = list(check(path, schema, source=source, known_at=known_at, now=now))
    labels, refused = (pd.concat(parts, ignore_index=True) for parts in zip(*found, strict=True))
    if len(refused):
        tables.write_parquet(refused.fillna(""), quarantine)
        logger.warning("%s rows are refused, with the reason in %s", f"{len(refused):,}", quarantine)
    if not len(labels):
        first = refused.iloc[0]
        told = f"row {first['row']}, column {first['column']!r}: {first['value']!r} {first['reason']}"
        raise DataError(f"{path}: none of {len(refused):,} rows is a label; {told}")
    added = store.add(labels, name, ingested_at=now)
    return (
        f"{len(labels):,} labels from {source}, {int(labels[IS_FRAUD].sum()):,} of them frauds: {added.new:,} new ids, "
        f"{added.changed:,} changed their label, {added.same:,} kept it; {len(refused):,} rows refused\n"
    )


def join(
    path: str, store: LabelStore, schema: Schema, policy: label_join.Policy, *, out: str, sources: Sequence[str]
) -> str:
    """Write the matured rows with the labels known by then, and a JSON beside it; return the counts as text.

    Raises ConfigError, DataError and SchemaError as fraud.labels.join.join does; what was at `out` stays then.
    """
    if not out.endswith(".parquet"):
        raise ConfigError(f"--out {out!r} has another ending: name a file ending in .parquet")
    by_source = label_join.only(store.read_by_source(known_until=policy.moment), sources)
    counts, about = label_join.join(path, by_source, schema, policy, out)
    document = {
        "output": out,
        "output_fingerprint": tables.fingerprint(out),
        "input": path,
        "schema": schema.name,
        "as_of": policy.as_of.isoformat(),
        "matured_days": policy.matured_days,
        "unlabelled": policy.unlabelled,
        "only_sources": list(sources),
        "rows": dataclasses.asdict(counts),
        "sources": about,
    }
    tables.write_text(json.dumps(document, indent=2) + "\n", f"{out.removesuffix('.parquet')}.labels.json")
    return f"{label_join.told(counts, policy, about)}→ {out}\n"


def draw(store: LabelStore, decisions: str, schema: Schema, *, day: dt.date, rows: int, out: str, seed: int,
         flagged: int = 0) -> str:  # fmt: skip
    """Draw rows of a day for somebody to label, write them to a CSV with an empty column, and say how many.

    Raises ConfigError and DataError, as fraud.scoring.decided.read and LabelStore.draw do.
    """
    if rows < 1 or flagged < 0:
        raise ConfigError(f"--rows {rows} must be 1 or more, --flagged {flagged} 0 or more")
    if not out.endswith(".csv"):
        raise ConfigError(f"--out {out!r} has another ending: name a file ending in .csv")
    drawn = store.draw(decided.read(decisions, schema, day=day), day, rows, flagged=flagged, seed=seed)
    sheet = drawn[[ID]].assign(day=f"{day}", **{IS_FRAUD: ""})  # without score and decision, which would sway who looks
    tables.write_csv(sheet, out)
    n_rows = int(drawn["n_rows"].iloc[0])
    return (
        f"{len(drawn):,} of {n_rows:,} rows of {day} → {out}: fill in {IS_FRAUD} and ingest it with --source {REVIEW}\n"
    )


def summary(store: LabelStore, zone: Zone) -> str:
    """What the store holds, by source and day in `zone` on which it became known."""
    labels = store.read()
    if not len(labels):
        return f"no labels in {store.url}: take some in with `python -m ray_jobs.labels ingest FILE`\n"
    known_on = pd.Series(zone.day_of(labels[KNOWN_AT].to_numpy()).astype(str), index=labels.index)
    by_day = labels.groupby([known_on, SOURCE])[IS_FRAUD].agg(["size", "sum"])
    lines = [f"{day}  {source:<15} {size:>9,} labels {frauds:>8,} frauds" for (day, source), (size, frauds) in
             zip(by_day.index, by_day.to_numpy().tolist(), strict=True)]  # fmt: skip
    return "\n".join([*lines, f"{len(labels):,} ids, {int(labels[IS_FRAUD].sum()):,} frauds in {store.url}", ""])


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; `python -m ray_jobs.labels --help` explains the flags")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m ray_jobs.labels",
        description="Take in labels: a CSV or Parquet with the id of a transaction and whether it was fraud, under the "
        "schema's names or as id and is_fraud; known_at (UTC) where verdicts of several days are in one file. Of "
        "several labels of an id the one that became known last holds. Labels lie below FRAUD_LABELS (a folder or URL; "
        "default: labels below FRAUD_STATE).",
        epilog="examples:\n"
        "  python -m ray_jobs.labels ingest verdicts.csv\n"
        "  python -m ray_jobs.labels ingest chargebacks.parquet --source chargeback\n"
        "  python -m ray_jobs.labels ingest drawn.csv --source review --known-at 2026-01-31\n"
        "  python -m ray_jobs.labels draw --day 2026-01-31 --rows 200 --out review.csv\n"
        "  python -m ray_jobs.labels join --data cards.parquet --out training.parquet --as-of 2026-01-31\n"
        "  python -m ray_jobs.labels show",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("action", choices=("ingest", "draw", "join", "show"))
    parser.add_argument("file", nargs="?", help="CSV or Parquet: a file, folder, glob or URL")
    parser.add_argument("--schema", help="name or YAML (default: the champion's)")
    parser.add_argument("--source", default="analyst", help="where they come from (default: %(default)s)")
    parser.add_argument("--known-at", help="when they became known, where the file does not say (default: now; UTC)")
    parser.add_argument("--quarantine", help="Parquet for refused rows (default: beside the labels, in quarantine)")
    parser.add_argument("--force", action="store_true", help="take a file in again")
    parser.add_argument("--decisions", help="draw: decision log, or scored Parquet (default: FRAUD_DECISIONS)")
    parser.add_argument("--day", help="draw: of which day, YYYY-MM-DD (default: yesterday; in the schema's day_zone)")
    parser.add_argument("--rows", type=int, default=100, help="draw: how many (default: %(default)s)")
    parser.add_argument("--flagged", type=int, default=0, help="draw: so many more of the alerts (default: 0)")
    parser.add_argument("--out", help="draw: CSV to fill in (default: review.csv); join: Parquet to write")
    parser.add_argument("--allow-empty", action="store_true", help="ingest: no file is nothing new, and no mistake")
    parser.add_argument("--data", help="join: transactions, CSV or Parquet: a file, folder, glob or URL")
    parser.add_argument(
        "--as-of", help="join: labels known when this day began, YYYY-MM-DD (default: today; in the schema's day_zone)"
    )
    parser.add_argument("--matured-days", type=float, metavar="N", help="join: leave younger rows out (default: the "
                        "schema's label_delay_days)")  # fmt: skip
    parser.add_argument("--unlabelled", default="legitimate", choices=get_args(label_join.Unlabelled),
                        help="join: what a matured row without a label is (default: %(default)s)")  # fmt: skip
    parser.add_argument("--sources", default="", metavar="A,B", help="join: labels of these sources alone")
    parser.add_argument("--keep-labels", action="store_true", help="join: a label that the data bring counts where "
                        "there is no other")  # fmt: skip
    parser.add_argument("--seed", type=int, default=7, help="draw: seed (default: %(default)s)")
    return parser


def _moment(flag: str, text: str) -> dt.datetime:
    try:
        moment = dt.datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"{flag} {text!r} is no time: write it as 2026-01-31 or 2026-01-31T13:45Z") from None
    return moment.replace(tzinfo=dt.UTC) if moment.tzinfo is None else moment


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; see `--help`."""
    given = _parser().parse_args(argv)
    settings = Settings.from_environment()
    turn_telemetry_off()
    store = LabelStore.from_environment(settings, os.environ)
    if given.action == "show":
        sys.stdout.write(summary(store, Zone(settings.day_zone or UTC.name)))
        return 0
    if given.action == "ingest" and not given.file:
        raise ConfigError("ingest needs a file: `python -m ray_jobs.labels ingest FILE`")
    if given.action == "join" and not (given.data and given.out):
        raise ConfigError("join needs --data FILE and --out FILE.parquet")
    if given.action == "ingest" and given.allow_empty and files.is_nothing(settings.locate(given.file)):
        sys.stdout.write(f"{given.file}: nothing new\n")
        return 0
    now = dt.datetime.now(dt.UTC)
    known_at = _moment("--known-at", given.known_at) if given.known_at else None
    schema = Schema.load(settings.locate_yaml(given.schema)) if given.schema else versions.schema(settings)
    zone = agreed(schema, settings.day_zone)
    if given.action == "join":
        policy = label_join.Policy(
            as_of=day_named(given.as_of, "--as-of") if given.as_of else zone.today(now), zone=zone,
            keep_own=given.keep_labels,
            matured_days=schema.label_delay_days if given.matured_days is None else given.matured_days,
            unlabelled=given.unlabelled,
        )  # fmt: skip
        sources = [name for name in given.sources.split(",") if name]
        sys.stdout.write(join(settings.locate(given.data), store, schema, policy, out=settings.locate(given.out),
                              sources=sources))  # fmt: skip
        return 0
    if given.action == "draw":
        decisions = decided.location(given.decisions, settings, os.environ)
        out, rows = settings.locate(given.out or "review.csv"), given.rows
        day = day_named(given.day, "--day") if given.day else zone.yesterday(now)
        told = draw(store, decisions, schema, day=day, rows=rows, out=out, seed=given.seed, flagged=given.flagged)
        sys.stdout.write(told)
        return 0
    quarantine = given.quarantine or f"{store.url.rstrip('/')}/quarantine/{now:%Y%m%dT%H%M%S}.parquet"
    told = ingest(
        settings.locate(given.file), store, schema, Origin(given.source, known_at, now),
        quarantine=settings.locate(quarantine), force=given.force,
    )  # fmt: skip
    sys.stdout.write(told)
    return 0


if __name__ == "__main__":
    run_command(main)
