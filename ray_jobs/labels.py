"""Ingest, join, draw and show labels: analysts' verdicts, chargebacks and random reviews."""

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
from typing import NoReturn, get_args

import pandas as pd

from fraud.cli import run_command
from fraud.counts import counted
from fraud.data import files, tables
from fraud.data.partitions import day_named
from fraud.days import UTC, Zone
from fraud.errors import ConfigError, DataError, SchemaError
from fraud.labels import join as label_join
from fraud.labels.store import ID, IS_FRAUD, KNOWN_AT, REVIEW, SOURCE, LabelStore, check
from fraud.registry.models import schema_of
from fraud.schema import Schema
from fraud.schema.zone import agreed
from fraud.scoring import decided
from fraud.settings import Settings, turn_telemetry_off

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ingestion:
    """How to ingest label files. known_at: for files without that column; quarantine: Parquet for refused rows."""

    source: str
    known_at: dt.datetime | None
    quarantine: str
    now: dt.datetime
    force: bool = False

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_-]{0,30}", self.source):
            raise ConfigError(f"--source {self.source!r}: use lower-case letters, digits, - and _, e.g. chargeback")
        if self.known_at is not None and self.known_at > self.now:
            raise ConfigError(f"--known-at {self.known_at:%Y-%m-%d %H:%M} is in the future: give a past time in UTC")


def ingest(path: str, store: LabelStore, schema: Schema, ingestion: Ingestion) -> str:
    """Ingest label files and return a summary as text. Ingesting a file twice from one source has no effect.

    Each file of a pattern or folder is ingested by itself, so later calls only take the new files.
    Raises DataError when a file has no valid row, ConfigError and SchemaError as fraud.labels.store.check does.
    """
    filesystem, names = files.find(path)
    paths = [filesystem.unstrip_protocol(name) for name in names] if len(names) > 1 else [path]
    summaries, refused = [], []
    for index, file in enumerate(paths):
        of_file = ingestion
        if len(paths) > 1:
            quarantine = f"{ingestion.quarantine.removesuffix('.parquet')}-{index}.parquet"
            of_file = dataclasses.replace(ingestion, quarantine=quarantine)
        try:
            text = _ingest(file, store, schema, of_file)
        except (DataError, SchemaError) as error:
            if len(paths) == 1:
                raise
            refused.append(str(error))  # go on to the other files
            continue
        summaries.append(text if len(paths) == 1 else f"{posixpath.basename(file)}: {text}")
    if refused:
        raise DataError(f"{len(refused)} of {len(paths)} files were not ingested, the others were: {refused[0]}")
    return "".join(summaries)


def _ingest(path: str, store: LabelStore, schema: Schema, ingestion: Ingestion) -> str:
    name = f"{ingestion.source}-{tables.fingerprint(path)[:32]}"
    if store.has(name) and not ingestion.force:
        return f"{path} is already in {store.url}: nothing to do (--force ingests it again)\n"
    checked = list(check(path, schema, source=ingestion.source, known_at=ingestion.known_at, now=ingestion.now))
    labels, refused = (pd.concat(parts, ignore_index=True) for parts in zip(*checked, strict=True))
    if len(refused):
        tables.write_parquet(refused.fillna(""), ingestion.quarantine)
        logger.warning("%s refused, see %s for the reasons", counted(len(refused), "row"), ingestion.quarantine)
    if not len(labels):
        first = refused.iloc[0]
        example = f"row {first['row']}, column {first['column']!r}: {first['value']!r} {first['reason']}"
        raise DataError(f"{path}: none of {len(refused):,} rows is a valid label; {example}")
    added = store.add(labels, name, ingested_at=ingestion.now)
    return (
        f"{counted(len(labels), 'label')} from {ingestion.source}, {int(labels[IS_FRAUD].sum()):,} of them frauds: "
        f"{counted(added.new, 'new id')}, {added.changed:,} changed their label, {added.same:,} kept it; "
        f"{counted(len(refused), 'row')} refused\n"
    )


def join(
    path: str, store: LabelStore, schema: Schema, policy: label_join.Policy, *, out: str, sources: Sequence[str]
) -> str:
    """Write the matured rows with the labels known at `policy.as_of`, and a JSON beside it; return the counts as text.

    Raises ConfigError, DataError and SchemaError as fraud.labels.join.join; `out` then stays unchanged.
    """
    if not out.endswith(".parquet"):
        raise ConfigError(f"--out {out!r} must end in .parquet")
    by_source = label_join.only(store.read_by_source(known_until=policy.moment), sources)
    counts, source_counts = label_join.join(path, by_source, schema, policy, out)
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
        "sources": source_counts,
    }
    tables.write_text(json.dumps(document, indent=2) + "\n", f"{out.removesuffix('.parquet')}.labels.json")
    return f"{label_join.summary(counts, policy, source_counts)}→ {out}\n"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample:
    """Rows to draw from a day's decisions: `rows` at random, and `flagged` more from the alerts."""

    day: dt.date
    rows: int
    seed: int
    flagged: int = 0

    def __post_init__(self) -> None:
        if self.rows < 1 or self.flagged < 0:
            raise ConfigError(f"--rows {self.rows} must be 1 or more, --flagged {self.flagged} 0 or more")


def draw(store: LabelStore, decisions: str, schema: Schema, sample: Sample, out: str, *, model: str) -> str:
    """Draw a day's rows for review, write a CSV with an empty label column; return the counts as text.

    model: name of the model whose decisions are drawn from. Raises ConfigError and DataError as
    fraud.scoring.decided.read and LabelStore.draw.
    """
    if not out.endswith(".csv"):
        raise ConfigError(f"--out {out!r} must end in .csv")
    day = sample.day
    rows = decided.read(decisions, schema, day=day, model=model)
    drawn = store.draw(rows, day, sample.rows, flagged=sample.flagged, seed=sample.seed)
    sheet = drawn[[ID]].assign(day=f"{day}", **{IS_FRAUD: ""})  # the score would bias the reviewer
    tables.write_csv(sheet, out)
    n_rows = int(drawn["n_rows"].iloc[0])
    return (
        f"{len(drawn):,} of {n_rows:,} rows of {day} → {out}: fill in {IS_FRAUD} and ingest it with --source {REVIEW}\n"
    )


def summary(store: LabelStore, zone: Zone) -> str:
    """Counts of the store's labels by source and by the day (in `zone`) on which they became known."""
    labels = store.read()
    if not len(labels):
        return f"no labels in {store.url}: add some with `python -m ray_jobs.labels ingest FILE`\n"
    known_on = pd.Series(zone.day_of(labels[KNOWN_AT].to_numpy()).astype(str), index=labels.index)
    by_day = labels.groupby([known_on, SOURCE])[IS_FRAUD].agg(["size", "sum"])
    lines = [
        f"{day}  {source:<15} {counted(size, 'label'):>16} {counted(frauds, 'fraud'):>15}"
        for (day, source), (size, frauds) in zip(by_day.index, by_day.to_numpy().tolist(), strict=True)
    ]
    return "\n".join(
        [*lines, f"{counted(len(labels), 'id')}, {counted(int(labels[IS_FRAUD].sum()), 'fraud')} in {store.url}", ""]
    )


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; `python -m ray_jobs.labels --help` explains the flags")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m ray_jobs.labels",
        description="Ingest, draw, join and show labels. A label file is a CSV or Parquet with a transaction's id and "
        "whether it was fraud, under the schema's names or as id and is_fraud; add known_at (UTC) when a file covers "
        "several days. For an id with several labels, the latest known one counts. Labels are stored in FRAUD_LABELS "
        "(a folder or URL; default: labels below FRAUD_STATE).",
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
    parser.add_argument("--source", default="analyst", help="who made the labels (default: %(default)s)")
    parser.add_argument(
        "--known-at", help="when the labels became known, for a file without known_at (default: now; UTC)"
    )
    parser.add_argument("--quarantine", help="Parquet for refused rows (default: beside the labels, in quarantine)")
    parser.add_argument("--force", action="store_true", help="ingest a file again")
    parser.add_argument("--decisions", help="draw: decision log, or scored Parquet (default: FRAUD_DECISIONS)")
    parser.add_argument("--day", help="draw: the day, YYYY-MM-DD (default: yesterday; in the schema's day_zone)")
    parser.add_argument("--rows", type=int, default=100, help="draw: rows at random (default: %(default)s)")
    parser.add_argument("--flagged", type=int, default=0, help="draw: further rows from the alerts (default: 0)")
    parser.add_argument("--out", help="draw: CSV to fill in (default: review.csv); join: Parquet to write")
    parser.add_argument("--allow-empty", action="store_true", help="ingest: succeed when there is no file")
    parser.add_argument("--data", help="join: transactions, CSV or Parquet: a file, folder, glob or URL")
    parser.add_argument(
        "--as-of", help="join: labels known when this day begins, YYYY-MM-DD (default: today; in the schema's day_zone)"
    )
    parser.add_argument("--matured-days", type=float, metavar="N", help="join: skip younger rows (default: the "
                        "schema's label_delay_days)")  # fmt: skip
    parser.add_argument("--unlabelled", default="legitimate", choices=get_args(label_join.Unlabelled),
                        help="join: how a matured row without a label counts (default: %(default)s)")  # fmt: skip
    parser.add_argument("--sources", default="", metavar="A,B", help="join: use only labels of these sources")
    parser.add_argument("--keep-labels", action="store_true", help="join: use the data's own label for rows "
                        "without another")  # fmt: skip
    parser.add_argument("--seed", type=int, default=7, help="draw: seed (default: %(default)s)")
    return parser


def _moment(flag: str, text: str) -> dt.datetime:
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
    if arguments.action == "show":
        sys.stdout.write(summary(store, Zone(settings.day_zone or UTC.name)))
        return 0
    if arguments.action == "ingest" and not arguments.file:
        raise ConfigError("ingest needs a file: `python -m ray_jobs.labels ingest FILE`")
    if arguments.action == "join" and not (arguments.data and arguments.out):
        raise ConfigError("join needs --data FILE and --out FILE.parquet")
    if arguments.action == "ingest" and arguments.allow_empty and files.is_empty(settings.locate(arguments.file)):
        sys.stdout.write(f"{arguments.file}: nothing new\n")
        return 0
    now = dt.datetime.now(dt.UTC)
    known_at = _moment("--known-at", arguments.known_at) if arguments.known_at else None
    schema = schema_of(arguments.schema, settings)
    zone = agreed(schema, settings.day_zone)
    if arguments.action == "join":
        data, out = settings.locate(arguments.data), settings.locate(arguments.out)
        policy = label_join.Policy(
            as_of=day_named(arguments.as_of, "--as-of") if arguments.as_of else zone.today(now), zone=zone,
            keep_own=arguments.keep_labels,
            matured_days=schema.label_delay_days if arguments.matured_days is None else arguments.matured_days,
            unlabelled=arguments.unlabelled,
        )  # fmt: skip
        sources = [name for name in arguments.sources.split(",") if name]
        sys.stdout.write(join(data, store, schema, policy, out=out, sources=sources))
        return 0
    if arguments.action == "draw":
        decisions = decided.location(arguments.decisions, settings, os.environ)
        day = day_named(arguments.day, "--day") if arguments.day else zone.yesterday(now)
        sample = Sample(day=day, rows=arguments.rows, seed=arguments.seed, flagged=arguments.flagged)
        out = settings.locate(arguments.out or "review.csv")
        sys.stdout.write(draw(store, decisions, schema, sample, out, model=settings.model_name))
        return 0
    quarantine = arguments.quarantine or f"{store.url.rstrip('/')}/quarantine/{now:%Y%m%dT%H%M%S}.parquet"
    ingestion = Ingestion(
        source=arguments.source,
        known_at=known_at,
        quarantine=settings.locate(quarantine),
        now=now,
        force=arguments.force,
    )
    sys.stdout.write(ingest(settings.locate(arguments.file), store, schema, ingestion))
    return 0


if __name__ == "__main__":
    run_command(main)
