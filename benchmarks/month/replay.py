"""Replay one month with the real commands: scoring, labels, drift, live precision, training, gate. No stubs."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.month import criteria
from benchmarks.month.world import LABEL_DAYS, World, date_of, schema
from fraud.data import tables
from fraud.data.splits import SplitConfig
from fraud.detectors.autoencoder import AutoencoderConfig
from fraud.detectors.forest import ForestConfig
from fraud.detectors.head import HeadConfig
from fraud.labels.store import LabelStore
from fraud.registry import runs, versions
from fraud.schema import Schema
from fraud.scoring import bundle, decided
from fraud.scoring.engine import Engine
from fraud.settings import Settings, turn_telemetry_off
from fraud.thresholds.selection import ThresholdConfig
from fraud.training import fitting
from fraud.training.config import TrainConfig
from monitoring.drift import comparison
from monitoring.performance import command as performance
from ray_jobs.labels import command as labels
from ray_jobs.promote import command as promote
from ray_jobs.score import command as score

CONFIG = TrainConfig(
    forest=ForestConfig(n_estimators=100),
    autoencoder=AutoencoderConfig(epochs=6, batch_size=512),
    head=HeadConfig(members=4, iterations=120),
    threshold=ThresholdConfig(policy="alert_budget", budget=0.02),
    alert_budget=0.02,
)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Schedule of a month.

    retrain: days with an evening retraining. bad: the retraining days on which the gate first sees a worse model and a
    model trained on poisoned labels. train_days, validate_days, judge_days: consecutive windows of matured days; the
    gate judges on the newest. review: rows reviewed per day. review_alerts: alerts also reviewed on a day of drift.
    warm_up: days scored by the champion before the month.
    """

    world: World = field(default_factory=World)
    retrain: tuple[int, ...] = (7, 14, 21, 28)
    bad: tuple[int, ...] = (28,)
    train_days: int = 21
    validate_days: int = 2
    judge_days: int = 3
    review: int = 60
    review_alerts: int = 20
    warm_up: int = 14
    config: TrainConfig = CONFIG
    gate: tuple[str, ...] = ()


class Month:
    """A replay in its own folder: scored days, labels and gate decisions so far."""

    def __init__(self, plan: Plan, folder: Path, log: Callable[[str], None]) -> None:
        self.plan, self.folder, self.log = plan, folder, log
        os.environ |= {
            "FRAUD_ROOT": str(folder), "FRAUD_STATE": str(folder / "state"), "FRAUD_MODEL_NAME": "month",
            "FRAUD_EXPERIMENT": "month", "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
        }  # fmt: skip
        self.settings = Settings.from_environment()
        self.schema: Schema = schema()
        self.schema_file = folder / "month.yaml"
        self.schema_file.write_text(self.schema.to_yaml())
        self.store = LabelStore.from_environment(self.settings, os.environ)
        self.truth: dict[int, pd.DataFrame] = {}
        self.days: list[dict[str, Any]] = []
        self.gates: list[dict[str, Any]] = []

    def run(self) -> dict[str, Any]:
        """Replay the month; returns days, gates and seconds."""
        began, plan = time.monotonic(), self.plan
        for day in range(1 - plan.world.before, plan.world.days + 1):
            frame = plan.world.day(day)
            self.truth[day] = frame.set_index("id")["is_fraud"]
            tables.write_parquet(
                frame.drop(columns="is_fraud"), str(self.folder / f"transactions/{date_of(day)}.parquet")
            )
        self._start()
        for day in range(1, plan.world.days + 1):
            self.days.append(self._day(day))
            if day in plan.retrain:
                self._evening(day)
        return {"days": self.days, "gates": self.gates, "seconds": round(time.monotonic() - began, 1)}

    def _start(self) -> None:
        """Train the champion before the month and let it score, so that some labels have matured by day 1."""
        first = 1 - self.plan.warm_up
        for day in range(1 - self.plan.world.before, first - LABEL_DAYS):
            self._deliver(f"old{day}", [(day, name, int(is_fraud)) for name, is_fraud in self.truth[day].items()])
        self._train("first", first - 1)
        for day in range(first, 1):
            self._score(day)
        for day in range(first, 1 - LABEL_DAYS):
            self._labels_of(day)
        self._review(0)

    def _day(self, day: int) -> dict[str, Any]:
        self._score(day)
        self._labels_of(day - LABEL_DAYS)
        champion = versions.champion_version(self.settings)
        scored = self._scored(day)
        drift = comparison.compare(str(self.folder / f"models/{champion}/reference.parquet"), str(scored), self.schema)
        judged = drift.document["columns"] + drift.document["score"]["columns"]
        self._review(day, self.plan.review_alerts if drift.document["verdict"] == "drift" else 0)
        psi = {one["column"]: one["statistics"]["psi"] for one in judged if "psi" in one["statistics"]}
        alerts = decided.read(str(self.folder / "scored"), self.schema, only_flagged=True)
        as_of = date_of(day + 1)
        live, _ = performance.judge(alerts, self.store, as_of=as_of, delay_days=LABEL_DAYS, seed=self.plan.world.seed)
        estimate = {one.day: one for one in live}.get(date_of(day))
        flagged = alerts[pd.to_datetime(alerts["day"]) == pd.Timestamp(date_of(day))]["id"]
        truth = self.truth[day]
        record = {
            "day": day, "date": str(date_of(day)), "champion": champion, "rows": len(truth), "flagged": len(flagged),
            "verdict": drift.document["verdict"], "psi": psi, "frauds": int(truth.sum()),
            "precision": float(truth.loc[flagged].mean()) if len(flagged) else None,
            "recall": float(truth.loc[flagged].sum() / truth.sum()),
            "estimate": None if estimate is None else estimate.precision,
            "low": None if estimate is None else estimate.low, "high": None if estimate is None else estimate.high,
        }  # fmt: skip
        self.log(
            f"day {day:2d}: {record['verdict']:<8} PSI {max(psi.values()):.2f}, {len(flagged)} alerts, precision "
            f"{record['precision'] or 0:.2f}, estimate {record['estimate'] or 0:.2f} [{record['low'] or 0:.2f}, "
            f"{record['high'] or 0:.2f}], recall {record['recall']:.2f}, version {champion}"
        )
        return record

    def _evening(self, day: int) -> None:
        """Retrain and run the gate; on `bad` days the gate first sees worse models."""
        if day in self.plan.bad:
            self._judge("worse", day, self._train("worse", day))
            self._judge("poisoned", day, self._train("poisoned", day))
        self._judge("weekly", day, self._train("weekly", day))

    def _judge(self, kind: str, day: int, version: int) -> None:
        out = self.folder / f"gate/{kind}-{day}.json"
        self._quietly(
            promote.main, [str(version), "--gate", "--data", str(self._training(day)), "--out", str(out),
                           "--by", "month", *self.plan.gate],
        )  # fmt: skip
        record = json.loads(out.read_text())
        better = record["comparison"].get("figures", {}).get("average_precision")
        self.gates.append({
            "day": day, "kind": kind, "version": version, "decision": record["decision"], "failed": record["failed"],
            "average_precision": better and {k: better[k] for k in ("ours", "theirs", "difference", "interval")},
            "frauds": record["checks"][1]["figures"].get("frauds"),
            "texts": {check["name"]: check["text"] for check in record["checks"]},
        })  # fmt: skip
        gain = "" if better is None else f", average precision {better['difference']:+.3f}"
        self.log(f"  gate, {kind} version {version}: {record['decision']} {record['failed']}{gain}")

    def _training(self, day: int) -> Path:
        """The matured rows on the morning after `day`, joined with the labels known then."""
        out = self.folder / f"training/{day}.parquet"
        if not out.exists():
            window = self.plan.train_days + self.plan.validate_days + self.plan.judge_days
            newest = day - LABEL_DAYS
            inputs = self.folder / f"training/{day}"
            for each in range(newest - window + 1, newest + 1):
                source = self.folder / f"transactions/{date_of(each)}.parquet"
                (inputs / source.name).parent.mkdir(parents=True, exist_ok=True)
                os.link(source, inputs / source.name)
            self._quietly(labels.main, ["join", "--data", str(inputs), "--out", str(out), "--schema",
                                        str(self.schema_file), "--as-of", f"{date_of(day + 1)}",
                                        "--matured-days", str(LABEL_DAYS)])  # fmt: skip
        return out

    def _train(self, kind: str, day: int) -> int:
        """Fit on the labels known in the evening of `day`, register, write the drift reference; returns the version."""
        path = self._training(day)
        rows = tables.load(str(path), self.schema).rows
        newest, plan = day - LABEL_DAYS, self.plan
        judge, validate = newest - plan.judge_days + 1, newest - plan.judge_days - plan.validate_days + 1
        split = SplitConfig(validation_start=f"{date_of(validate)}", validation_end=f"{date_of(judge)}",
                            test_start=f"{date_of(judge)}")  # fmt: skip
        config = replace(plan.config, split=split, seed=plan.world.seed)
        if kind == "worse":
            config = replace(config, forest=ForestConfig(n_estimators=2, max_samples=16), forest_weight=1.0,
                             head=HeadConfig(use="never"))  # fmt: skip
        if kind == "poisoned":
            rows = rows.assign(is_fraud=poisoned(rows, plan.world.seed))
        prepared = fitting.prepare(rows, self.schema, config)
        detector, evaluation = fitting.fit_locally(rows, self.schema, config)
        folder = self.folder / f"models/{kind}-{day}"
        bundle.save(folder, detector, metrics=evaluation.metrics, data_fingerprint=tables.fingerprint(str(path)),
                    windows=[dataclasses.asdict(window) for window in prepared.windows],
                    config=json.loads(json.dumps(config.to_dict())))  # fmt: skip
        run = runs.start_run(self.settings, f"{kind} {date_of(day)}")
        version = versions.register(self.settings, run, folder).number
        run.finish()
        test = rows.iloc[prepared.split.test].reset_index(drop=True)
        scores = Engine(detector).score_frame(test)
        reference = pd.concat([test, scores.drop(columns="is_fraud")], axis=1)
        tables.write_parquet(reference, str(self.folder / f"models/{version}/reference.parquet"))
        return version

    def _score(self, day: int) -> None:
        path = str(self.folder / f"transactions/{date_of(day)}.parquet")
        self._quietly(score.main, ["--data", path, "--out", str(self.folder / "scored"), "--date",
                                   f"{date_of(day)}", "--no-reasons"])  # fmt: skip

    def _scored(self, day: int) -> Path:
        return self.folder / f"scored/date={date_of(day)}"

    def _labels_of(self, day: int) -> None:
        """Ingest the labels of `day`, a week later: analyst verdicts on its alerts and chargebacks of missed frauds."""
        if not self._scored(day).exists():
            return
        table = decided.read(str(self._scored(day)), self.schema)
        truth = self.truth[day]
        flagged = table.loc[table["is_flagged"].astype(bool), "id"]
        missed = truth.index[(truth == 1) & ~truth.index.isin(flagged)]
        self._deliver(f"verdicts{day}", [(day, name, int(truth[name])) for name in flagged])
        self._deliver(f"missed{day}", [(day, name, 1) for name in missed], "chargeback")

    def _review(self, day: int, flagged: int = 0) -> None:
        """Draw random rows of the day for review, plus `flagged` alerts; ingest their labels for the next morning."""
        sheet = self.folder / f"review/{day}.csv"
        where = ["--decisions", str(self._scored(day)), "--schema", str(self.schema_file), "--out", str(sheet)]
        rows = ["--day", f"{date_of(day)}", "--rows", str(self.plan.review), "--flagged", str(flagged)]
        self._quietly(labels.main, ["draw", *where, *rows])
        drawn = pd.read_csv(sheet, dtype=str)["id"]
        self._deliver(
            f"review{day}", [(day + 1 - LABEL_DAYS, name, int(self.truth[day][name])) for name in drawn], "review"
        )

    def _deliver(self, name: str, rows: Sequence[tuple[int, str, int]], source: str = "analyst") -> None:
        """Ingest labels. rows: (day of the transaction, id, is_fraud), known LABEL_DAYS after the day."""
        if not rows:
            return
        frame = pd.DataFrame(rows, columns=["day", "id", "is_fraud"])
        frame["known_at"] = [f"{date_of(day + LABEL_DAYS)}T00:00:00" for day in frame.pop("day")]
        path = self.folder / f"inbox/{name}.csv"
        tables.write_csv(frame, str(path))
        self._quietly(labels.main, ["ingest", str(path), "--schema", str(self.schema_file), "--source", source])

    @staticmethod
    def _quietly(command: Callable[[Sequence[str]], int], arguments: list[str]) -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            command(arguments)


def poisoned(rows: pd.DataFrame, seed: int) -> np.ndarray:
    """Poisoned labels: 80 % of the frauds become legitimate, as many expensive legitimate rows become fraud."""
    truth = rows["is_fraud"].to_numpy().copy()
    frauds = np.flatnonzero(truth == 1)
    hidden = np.random.default_rng(seed).choice(frauds, int(0.8 * len(frauds)), replace=False)
    most_expensive = rows["amount"].where(truth == 0).nlargest(len(hidden)).index
    altered = np.where(rows.index.isin(most_expensive), 1, truth)
    altered[hidden] = 0
    return altered.astype(np.int8)


def month(seed: int, plan: Plan) -> dict[str, Any]:
    """Replay and judge one month in a temporary folder."""
    for name in [name for name in os.environ if name.startswith(("FRAUD_LABELS", "FRAUD_DECISIONS", "MLFLOW_"))]:
        del os.environ[name]
    turn_telemetry_off()
    logging.disable(logging.WARNING)
    plan = replace(plan, world=replace(plan.world, seed=seed))
    folder = Path(tempfile.mkdtemp(prefix="fraud-month-"))
    try:
        result = Month(plan, folder, lambda text: print(f"[{seed}] {text}", flush=True)).run()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return {"seed": seed, **result, "judged": criteria.judge(result, plan.world.drift_day)}
