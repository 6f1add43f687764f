"""Live performance: what became of each day's alerts, counted where labels are there and estimated where not."""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from fraud import data, registry
from fraud.errors import ConfigError, DataError, run_command
from fraud.labels import ID, IS_FRAUD, LabelStore
from fraud.schema import Schema
from fraud.scored import name_of
from fraud.settings import Settings, turn_telemetry_off
from monitoring.live_precision import DayPrecision, by_day

_INPUTS = "inputs"  # the column of a decision log with what was asked


def alerts_of(url: str, schema: Schema) -> pd.DataFrame:
    """The flagged rows of a decision log, or of files that ray_jobs.score wrote: id, day (UTC date), score.

    Only these are read into memory. Of an id that was decided twice, as after a retry, the last counts. Raises
    ConfigError for a schema without id or, for scored files, timestamp; DataError where `url` is neither.
    """
    if schema.id is None:
        raise ConfigError(f"schema {schema.name!r} has no id column, so no label finds its alert: add one (kind: id)")
    try:
        filesystem, root = fsspec.core.url_to_fs(url)
        files = ds.dataset(root, filesystem=filesystem, format="parquet", exclude_invalid_files=True)
        names = set(files.schema.names)
        if _INPUTS in names:
            columns = {ID: ds.field(_INPUTS, schema.id.name), "time": ds.field("time"), "score": ds.field("score")}
        elif schema.timestamp is None:
            raise ConfigError(f"schema {schema.name!r} has no timestamp, so scored files have no days")
        else:
            time = name_of(schema.timestamp.name)
            columns = {ID: ds.field(name_of(schema.id.name)), "time": ds.field(time), "score": ds.field("score")}
        flagged = files.to_table(columns=columns, filter=ds.field("is_fraud") & ds.field("score").is_valid())
    except (OSError, ValueError, ImportError, pa.ArrowException) as error:
        raise DataError(f"{url} holds no decisions of schema {schema.name!r} ({error})") from None
    days = pc.cast(flagged["time"], pa.date32()).to_pandas()
    alerts = pd.DataFrame({ID: flagged[ID].to_pandas(), "day": days, "score": flagged["score"].to_numpy()})
    return alerts.drop_duplicates(ID, keep="last").reset_index(drop=True)


def judge(
    alerts: pd.DataFrame, store: LabelStore, *, as_of: dt.date, delay_days: float, seed: int = 7
) -> list[DayPrecision]:
    """The precision of each day before `as_of`, by the labels that were known when `as_of` began (UTC)."""
    moment = dt.datetime.combine(as_of, dt.time())
    known = store.read(known_until=moment).set_index(ID)[IS_FRAUD]
    alerts = alerts[pd.to_datetime(alerts["day"]) < pd.Timestamp(moment)]
    labels = alerts[ID].map(known.astype(np.float64)).astype(np.float64)
    return by_day(alerts.assign(label=labels), as_of=as_of, delay_days=delay_days, seed=seed)


def table(found: Sequence[DayPrecision]) -> str:
    """One line a day."""
    lines = [f"{'day':<12}{'alerts':>8}{'labelled':>10}{'frauds':>8}{'precision':>11}  95 % interval"]
    for day in found:
        how = "" if day.precision is None or day.low is None or day.high is None else f"{day.low:.1%} to {day.high:.1%}"
        if day.labelled == day.alerts:
            how = "counted"
        precision = "" if day.precision is None else f"{day.precision:.1%}"
        young = "" if day.is_mature else "  labels still come"
        lines.append(f"{day.day!s:<12}{day.alerts:>8,}{day.labelled:>10,}{day.frauds:>8,}{precision:>11}  {how}{young}")
    return "\n".join([*lines, ""])


def content(found: Sequence[DayPrecision], *, as_of: dt.date, schema: Schema) -> dict[str, Any]:
    """The same for machines."""
    days = [{**asdict(day), "day": day.day.isoformat(), "share_labelled": day.share_labelled} for day in found]
    return {
        "as_of": as_of.isoformat(),
        "schema": schema.name,
        "label_delay_days": schema.label_delay_days,
        "days": days,
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m monitoring.performance",
        description="Say what share of each day's alerts were frauds. Labels come late (ray_jobs.labels): where an "
        "alert has none yet, the score and the labels of other alerts say how likely it is one, and the interval how "
        "sure that is. Prints a line a day and writes JSON.",
        epilog="examples:\n"
        "  python -m monitoring.performance --out performance.json\n"
        "  python -m monitoring.performance --decisions 'scored/' --schema handbook --as-of 2026-02-01 --out p.json",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--decisions", help="decision log, or scored Parquet (default: FRAUD_DECISIONS)")
    parser.add_argument("--schema", help="name or YAML (default: the champion's)")
    parser.add_argument("--as-of", help="judge as on the morning of this day, YYYY-MM-DD (default: today, UTC)")
    parser.add_argument("--out", default="performance.json", help="JSON to write (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=7, help="seed of the intervals (default: %(default)s)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; see `--help`."""
    given = _parser().parse_args(argv)
    settings = Settings.from_environment()
    turn_telemetry_off()
    schema = Schema.load(settings.locate_yaml(given.schema)) if given.schema else registry.schema(settings)
    where = given.decisions or os.environ.get("FRAUD_DECISIONS") or str(settings.state / "decisions")
    as_of = _day(given.as_of) if given.as_of else dt.datetime.now(dt.UTC).date()
    alerts = alerts_of(settings.locate(where), schema)
    store = LabelStore.from_environment(settings, os.environ)
    found = judge(alerts, store, as_of=as_of, delay_days=schema.label_delay_days, seed=given.seed)
    out = settings.locate(given.out)
    data.write_text(json.dumps(content(found, as_of=as_of, schema=schema), indent=2) + "\n", out)
    sys.stdout.write(f"{table(found)}{len(found)} days → {out}\n")
    return 0


def _day(text: str) -> dt.date:
    try:
        return dt.date.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"--as-of {text!r} is not a day: write it as 2026-01-31") from None


if __name__ == "__main__":
    run_command(main)
