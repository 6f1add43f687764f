"""Average precision per week after training: daily batch and live requests, compared with an oracle.

    python -m benchmarks.production [--data handbook sparkov] [--weeks 8] [--out benchmarks/results/production.json]
    python -m benchmarks.production --table     print the last result as Markdown

`ray_jobs.train` trains a model on the days before the weeks. Then, for each day in order: ingest the labels that are
due (seven days after their transaction); score the day with `ray_jobs.score --date` from the previous day's snapshot;
score its rows one by one with the engine over the node's live store, which follows the labels. The oracle is one replay
of all rows up to the day with the labels known at its start. The series "live, never told" gets no labels after
training.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import ray
from sklearn.metrics import average_precision_score

from fraud.data import tables
from fraud.detectors.features import raw_features
from fraud.history.label_feed import LabelFeed, LabelFollower
from fraud.history.label_intervals import label_intervals
from fraud.history.records import id_hashes, long_hashes, microseconds_since_epoch
from fraud.history.replay import replay
from fraud.history.snapshots.days import Snapshots
from fraud.history.state import KnownFrauds
from fraud.history.stores.node import NodeStore
from fraud.labels.store import ID, IS_FRAUD, KNOWN_AT, SOURCE, LabelStore
from fraud.schema import Schema
from fraud.scoring import bundle
from fraud.scoring.engine import Engine
from fraud.settings import Settings, turn_telemetry_off
from ray_jobs.score import command as score
from ray_jobs.train import command as train

DELAY = pd.Timedelta(days=7)
DAY = dt.timedelta(days=1)
SERIES = ("oracle", "daily batch", "live", "live, never told")


@dataclass(frozen=True)
class Data:
    """A data set. training: flags of ray_jobs.train. shift: split settings that are days, moved back by the weeks."""

    file: str
    schema: str
    training: tuple[str, ...]
    shift: tuple[tuple[str, str], ...] = ()


SETS = {
    "handbook": Data(
        "handbook_2018-04-01_2018-08-14.parquet", "handbook", ("--config", "handbook"),
        (("train_start", "2018-07-25"), ("validation_start", "2018-07-30"), ("validation_end", "2018-08-01"),
         ("test_start", "2018-08-08"), ("test_end", "2018-08-15")),
    ),
    "sparkov": Data("sparkov_regen_300cards_2019-01_2019-09.parquet", "sparkov", ("--config", "sparkov")),
}  # fmt: skip


def measure(name: str, weeks: int, folder: Path) -> dict[str, Any]:
    """Measure one data set; files are written below `folder`."""
    began, source = time.monotonic(), SETS[name]
    os.environ.update(
        FRAUD_ROOT=str(folder), FRAUD_STATE=str(folder / "var"), FRAUD_HISTORY=str(folder / "history"),
        FRAUD_LABELS=str(folder / "labels"), FRAUD_MODEL_NAME=name,
    )  # fmt: skip
    settings, schema = Settings.from_environment(), Schema.load(source.schema)
    assert schema.timestamp is not None and schema.id is not None and schema.label is not None
    rows = tables.load(str(Settings.from_environment({}).shared_data / source.file), schema).rows
    rows = rows.sort_values(schema.timestamp.name, kind="stable", ignore_index=True)
    times = rows[schema.timestamp.name]
    first = times.max().normalize() - pd.Timedelta(days=7 * weeks - 1)
    training = times < first
    rows[training].to_parquet(folder / "training.parquet", index=False)
    days = [(first + pd.Timedelta(days=n)).date() for n in range(7 * weeks)]
    (folder / "daily").mkdir()
    for day in days:
        of_day = rows[times.dt.date == day].drop(columns=schema.label.name)
        of_day.to_parquet(folder / "daily" / f"{day}.parquet", index=False)
    moved = [f"--set=split.{key}={(pd.Timestamp(day) - pd.Timedelta(weeks=weeks)).date()}" for key, day in source.shift]
    logging.info("%s: training on %s rows before %s", name, f"{int(training.sum()):,}", days[0])
    train.main(
        ["--data", "training.parquet", "--schema", source.schema, *source.training, *moved, "--no-register",
         "--outdir", "artifacts"]
    )  # fmt: skip
    trained = round(time.monotonic() - began, 1)
    frauds = rows[rows[schema.label.name] == 1]
    known_at = frauds[schema.timestamp.name] + DELAY
    ledger = pd.DataFrame({ID: frauds[schema.id.name], IS_FRAUD: True, KNOWN_AT: known_at, SOURCE: "chargeback"})
    own = (frauds[schema.timestamp.name] < first).to_numpy()  # ingested by the training, so in the snapshots
    scores = _deployed_scores(settings, schema, rows, ledger[~own], days)
    ledger.loc[own, KNOWN_AT] = frauds.loc[own, schema.timestamp.name]  # counts once the delay is over, to the second
    scores["oracle"] = _oracle_scores(settings, schema, rows, ledger, days)
    labels = rows.loc[times >= first, schema.label.name].to_numpy() == 1
    weeks_of = ((times[times >= first] - first).dt.days // 7).to_numpy()
    table = [
        {
            "week": week + 1, "begins": str(days[7 * week]), "rows": int((weeks_of == week).sum()),
            "frauds": int(labels[weeks_of == week].sum()),
            **{series: float(average_precision_score(labels[weeks_of == week], scores[series][weeks_of == week]))
               for series in SERIES},
        }
        for week in range(weeks)
    ]  # fmt: skip
    worst = {series: float(np.abs(scores[series] - scores["oracle"]).max()) for series in SERIES[1:]}
    return {
        "data": source.file, "trained_before": str(days[0]), "training_rows": int(training.sum()), "weeks": table,
        "largest_score_difference_to_oracle": worst, "training_seconds": trained,
        "seconds": round(time.monotonic() - began, 1),
    }  # fmt: skip


def _deployed_scores(
    settings: Settings, schema: Schema, rows: pd.DataFrame, ledger: pd.DataFrame, days: list[dt.date]
) -> dict[str, np.ndarray]:
    """Scores of the days' rows in order: daily batch, live, and live without labels."""
    assert schema.timestamp is not None and schema.id is not None
    root, detector = settings.root, bundle.load(settings.root / "artifacts" / "bundle").detector
    snapshots, labels = Snapshots.open(settings, schema), LabelStore(str(root / "labels"))
    begin = snapshots.states(days[0] - DAY)
    stores = {series: NodeStore(root / "live" / series.replace(", ", "-").replace(" ", "-"), snapshots.plans)
              for series in SERIES[2:]}  # fmt: skip
    for store in stores.values():
        store.seed(begin)
    engines = {series: Engine(detector, store=store) for series, store in stores.items()}
    seen: dict[str, dt.date] = {"through": days[0] - DAY}
    follower = LabelFollower(
        stores["live"], schema, LabelFeed(labels), lambda ids: snapshots.find(ids, seen["through"])
    )
    scores: dict[str, list[np.ndarray]] = {series: [] for series in SERIES[1:]}
    time_of_day = rows[schema.timestamp.name].dt.date
    for number, day in enumerate(days):
        start = snapshots.zone.start_of(day)
        due = microseconds_since_epoch(ledger[KNOWN_AT]) <= start
        if due.any():
            labels.add(ledger[due], f"{day}", ingested_at=dt.datetime.fromisoformat(str(day)))
        ledger = ledger[~due]
        score.main(["--data", f"daily/{day}.parquet", "--out", "scored", "--model", "artifacts/bundle", "--date",
                    str(day)])  # fmt: skip
        of_day = pd.read_parquet(root / "scored" / f"date={day}").sort_values("row")
        scores["daily batch"].append(of_day["score"].to_numpy())
        follower._feed.refresh(follower.oldest() - 86_400_000_000)
        follower.follow(None, now=start)
        inputs = rows.loc[time_of_day == day, [column.name for column in schema.inputs]]
        columns = {name: _plain(inputs[name]) for name in inputs}
        for series, engine in engines.items():
            raw = engine.raw_in_turn(columns)[0]
            scores[series].append(engine.score_raw(raw)[:, 0])
        seen["through"] = day
        logging.info("%s (%d of %d days)", day, number + 1, len(days))
    for store in stores.values():
        store.close()
    return {series: np.concatenate(parts) for series, parts in scores.items()}


def _plain(values: pd.Series) -> np.ndarray:
    """Convert a canonical column to the input of `Engine.raw_in_turn`."""
    if values.dtype.kind in "fM":
        return values.to_numpy()
    plain = values.astype(object)
    return plain.where(plain.notna(), None).to_numpy()


def _oracle_scores(
    settings: Settings, schema: Schema, rows: pd.DataFrame, ledger: pd.DataFrame, days: list[dt.date]
) -> np.ndarray:
    """Scores from one replay of all rows, each day with the labels known at its start."""
    assert schema.timestamp is not None and schema.id is not None
    detector = bundle.load(settings.root / "artifacts" / "bundle").detector
    snapshots = Snapshots.open(settings, schema)
    times = microseconds_since_epoch(rows[schema.timestamp.name])
    begins = np.array([snapshots.zone.start_of(day) for day in days])
    day_index = np.searchsorted(begins, times, side="right") - 1
    moments = np.where(day_index >= 0, begins[np.maximum(day_index, 0)], times)
    intervals, hashes = label_intervals(ledger), long_hashes(rows[schema.id.name])
    at = np.flatnonzero(np.isin(hashes, intervals.id_hashes))
    nothing = np.zeros(len(at), dtype=np.int64)
    frauds = [
        intervals.of(
            hashes[at],
            KnownFrauds(
                np.asarray(rows[plan.column].iloc[at].astype(str), dtype=object), times[at],
                id_hashes(rows.iloc[at], schema), nothing, nothing,
            ),
        )
        for plan in snapshots.plans
    ]  # fmt: skip
    history, _ = replay(rows, schema, frauds=frauds, moments=moments)
    tested = times >= begins[0]
    raw = raw_features(rows[tested], schema, detector.features.categories, history[tested])
    return Engine(replace(detector)).score_raw(raw)[:, 0]


def markdown(document: dict[str, Any]) -> str:
    """Markdown table of the results."""
    lines = []
    for name, result in document["sets"].items():
        n = len(result["weeks"])
        lines += [f"| {name}, average precision | " + " | ".join(f"week {i + 1}" for i in range(n)) + " |",
                  "|---|" + "---|" * n]  # fmt: skip
        lines += [
            f"| {series} | " + " | ".join(f"{week[series]:.3f}" for week in result["weeks"]) + " |" for series in SERIES
        ]
        lines.append("")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; see `--help`. Returns 1 if batch or live is more than 0.002 below the oracle in any week."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.production", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--data", nargs="+", choices=list(SETS), default=list(SETS), help="(default: all)")
    parser.add_argument("--weeks", type=int, default=8, help="weeks after the training (default: %(default)s)")
    parser.add_argument("--out", default="benchmarks/results/production.json", help="(default: %(default)s)")
    parser.add_argument("--table", action="store_true", help="print the last result; do not measure")
    arguments = parser.parse_args(argv)
    out = Path(Settings.from_environment().locate(arguments.out))
    if arguments.table:
        sys.stdout.write(markdown(json.loads(out.read_text())))
        return 0
    turn_telemetry_off()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    document: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {"sets": {}}
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        for name in arguments.data:
            with tempfile.TemporaryDirectory(prefix="fraud-production-") as folder:
                document["sets"][name] = measure(name, arguments.weeks, Path(folder))
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(json.dumps(document, indent=1) + "\n")
    finally:
        ray.shutdown()
    sys.stdout.write(markdown(document))
    short = [
        f"{name}, week {week['week']}: {series} {week[series]:.4f}, oracle {week['oracle']:.4f}"
        for name in arguments.data
        for week in document["sets"][name]["weeks"]
        for series in SERIES[1:3]
        if week[series] < week["oracle"] - 0.002
    ]
    sys.stdout.write("".join(f"BELOW: {line}\n" for line in short))
    return 1 if short else 0


if __name__ == "__main__":
    sys.exit(main())
