"""Live precision of each day's alerts: counted where labels exist, estimated where they are still missing."""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from fraud.cli import examples, next_step
from fraud.counts import counted
from fraud.data import partitions, tables
from fraud.days import UTC, Zone
from fraud.labels.store import ID, IS_FRAUD, KNOWN_AT, REVIEW, SOURCE, LabelStore, newest
from fraud.registry.models import schema_of
from fraud.schema import Schema
from fraud.schema.zone import agreed
from fraud.scoring import decided
from fraud.settings import Settings, turn_telemetry_off
from monitoring import exports
from monitoring.performance.live_precision import DayPrecision, by_day
from monitoring.performance.missed_frauds import MissedFrauds, estimate_missed


def judge(
    alerts: pd.DataFrame,
    store: LabelStore,
    *,
    as_of: dt.date,
    delay_days: float,
    seed: int = 7,
    zone: Zone = UTC,
) -> tuple[list[DayPrecision], MissedFrauds | None]:
    """The precision of each day before `as_of`, and the missed frauds, by the labels known when `as_of` began.

    zone: time zone in which days begin.
    """
    by_source = store.read_by_source(known_until=zone.moment_of(as_of))
    known = newest(by_source).set_index(ID)[IS_FRAUD]
    alerts = alerts[pd.to_datetime(alerts["day"]) < pd.Timestamp(as_of)]
    labels = alerts[ID].map(known.astype(np.float64)).astype(np.float64)
    looked_at = by_source.loc[by_source[SOURCE] == REVIEW, ID]
    alerts = alerts.assign(label=labels, is_drawn=alerts[ID].isin(looked_at))
    days = by_day(alerts, as_of=as_of, delay_days=delay_days, seed=seed)
    return days, estimate_missed(store.drawn(), known.loc[looked_at], days)


def without_training_days(
    alerts: pd.DataFrame, manifests: Sequence[Mapping[str, Any]]
) -> tuple[pd.DataFrame, list[str]]:
    """Drop alerts of days that the scoring model was trained on. Returns the rest and the dropped days, sorted.

    manifests: of ray_jobs.score, one per day. A decision log has none: it is scored live.
    """
    learnt = sorted({str(manifest["date"]) for manifest in manifests if manifest.get("learnt_rows")})
    return alerts[~alerts["day"].astype(str).isin(learnt)], learnt


def table(days: Sequence[DayPrecision], missed: MissedFrauds | None = None) -> str:
    """One line per day, and one line about missed frauds."""
    lines = [f"{'day':<12}{'alerts':>8}{'labelled':>10}{'frauds':>8}{'precision':>11}  95 % interval"]
    for day in days:
        how = "" if day.precision is None or day.low is None or day.high is None else f"{day.low:.1%} to {day.high:.1%}"
        if day.labelled == day.alerts:
            how = "counted"
        precision = "" if day.precision is None else f"{day.precision:.1%}"
        young = "" if day.is_mature else "  labels still come"
        lines.append(f"{day.day!s:<12}{day.alerts:>8,}{day.labelled:>10,}{day.frauds:>8,}{precision:>11}  {how}{young}")
    if missed is None:
        lines.append(
            "how many frauds were not flagged is not known: `python -m ray_jobs.labels draw` draws rows to look at"
        )
    else:
        lines.append(
            f"not flagged, on {counted(missed.days, 'day')}: about {missed.missed:,.0f} frauds "
            f"({missed.missed_low:,.0f} to {missed.missed_high:,.0f}) among {missed.unflagged:,} rows, by "
            f"{missed.looked_at:,} drawn at random"
        )
        if missed.recall is not None:
            between = f"{missed.recall_low or 0:.0%} to {missed.recall_high or 0:.0%}"
            lines[-1] += f"; recall {missed.recall:.0%} ({between})"
    return "\n".join([*lines, ""])


def why_no_label(days: Sequence[DayPrecision], store: LabelStore, *, as_of: dt.date, zone: Zone) -> str | None:
    """Why no alert has a label, and what to do; None if one has a label."""
    if any(day.labelled for day in days):
        return None
    if not days:
        return f"no alert before {as_of}: --as-of {as_of + dt.timedelta(days=1)} includes that day"
    labels = store.read()
    if not len(labels):
        return f"no labels in {store.url}: `python -m ray_jobs.labels ingest FILE` adds the analysts' verdicts"
    known = zone.day_of(labels[KNOWN_AT].to_numpy(dtype="datetime64[us]"))
    late = int((known >= np.datetime64(as_of)).sum())
    if late:
        day = known.max().astype(dt.date) + dt.timedelta(days=1)
        return f"no alert has a label: {late:,} of {len(labels):,} labels became known later; --as-of {day} uses them"
    return f"no alert has a label: none of {len(labels):,} labels is of an alert before {as_of}; check their ids"


def content(
    precisions: Sequence[DayPrecision], missed: MissedFrauds | None = None, *, as_of: dt.date, schema: Schema
) -> dict[str, Any]:
    """The results as a JSON-ready document."""
    days = [{**asdict(day), "day": day.day.isoformat(), "share_labelled": day.share_labelled} for day in precisions]
    return {
        "as_of": as_of.isoformat(),
        "schema": schema.name,
        "label_delay_days": schema.label_delay_days,
        "days": days,
        "missed": None if missed is None else asdict(missed),
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m monitoring.performance",
        description="Estimate which share of each day's alerts were frauds. Labels come late (ray_jobs.labels): for an "
        "alert without a label, the estimate uses its score and the labels of other alerts. Prints one line per day "
        "with a 95 % interval, and writes JSON.",
        **examples(
            "python -m monitoring.performance --out performance.json",
            "python -m monitoring.performance --decisions 'scored/' --schema handbook --as-of 2026-02-01 --out p.json",
        ),
    )
    parser.add_argument("--decisions", help="decision log, or scored Parquet (default: FRAUD_DECISIONS)")
    parser.add_argument("--schema", help="schema name or YAML (default: the champion's)")
    parser.add_argument(
        "--as-of", help="judge as on the morning of this day, YYYY-MM-DD (default: today, in the schema's day_zone)"
    )
    parser.add_argument("--out", default="performance.json", help="JSON to write (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=7, help="seed of the intervals (default: %(default)s)")
    exports.add_flags(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; see `--help`."""
    arguments = _parser().parse_args(argv)
    settings = Settings.from_environment()
    turn_telemetry_off()
    out = settings.locate(arguments.out)
    tables.check_out(out, tables.marked('"as_of"', '"label_delay_days"', '"days"'), force=arguments.force)
    schema = schema_of(arguments.schema, settings)
    zone = agreed(schema, settings.day_zone)
    as_of = partitions.day_named(arguments.as_of, "--as-of") if arguments.as_of else zone.today()
    location = decided.location(arguments.decisions, settings, os.environ)
    alerts = decided.read(location, schema, only_flagged=True, model=settings.model_name)
    alerts, learnt = without_training_days(alerts, partitions.manifests(location))
    if learnt:
        sys.stdout.write(
            f"left out: {counted(len(learnt), 'day')} ({learnt[0]} to {learnt[-1]}) that the model was trained on\n"
        )
    store = LabelStore.from_environment(settings, os.environ)
    days, missed_frauds = judge(
        alerts, store, as_of=as_of, delay_days=schema.label_delay_days, seed=arguments.seed, zone=zone
    )
    document = content(days, missed_frauds, as_of=as_of, schema=schema)
    tables.write_text(json.dumps(document, indent=2) + "\n", out)
    exports.export(exports.of_performance(document), arguments, settings, os.environ)
    reason = why_no_label(days, store, as_of=as_of, zone=zone)
    if reason is not None:
        sys.stdout.write(f"warning: {reason}\n")
    sys.stdout.write(f"{table(days, missed_frauds)}{counted(len(days), 'day')} → {out}\n")
    if missed_frauds is None and days:
        log = ["--decisions", arguments.decisions] if arguments.decisions else []
        draw = ["--day", days[-1].day, *log, "--out", f"review/{days[-1].day}.csv"]
        sys.stdout.write(next_step("python -m ray_jobs.labels draw", *draw))
    else:
        sys.stdout.write(next_step("python -m monitoring.alerts", "--performance", arguments.out))
    return 0
