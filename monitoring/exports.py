"""What was found, for other programs: a file for Prometheus's textfile collector, and metrics by day in MLflow.

FRAUD_MONITORING_MLFLOW=1 does what --mlflow does. Runs are in the experiment FRAUD_EXPERIMENT with "-monitoring" behind
it, one for each model version, the step is the day since 1970-01-01. That MLflow is away is told and hinders nothing.
"""

from __future__ import annotations

import argparse
import datetime as dt
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fraud.data import filesystems, tables
from fraud.errors import RegistryError
from fraud.settings import Settings
from fraud.settings.operations import MONITORING_MLFLOW, MonitoringSettings

logger = logging.getLogger(__name__)

MODEL_TAG = "monitored_model"
ALL_MODELS = "all"
_GRADES = {"ok": 0, "warning": 1, "drift": 2, "critical": 2}
_EPOCH = dt.date(1970, 1, 1)
_HELP = {
    "fraud_drift_verdict": "Verdict on the newest report: 0 ok, 1 warning, 2 drift.",
    "fraud_drift_psi": "Population stability index of a column or score against the reference.",
    "fraud_drift_level": "Level of a column or score: 0 ok, 1 warning, 2 drift.",
    "fraud_drift_rows": "Rows of the file that was compared with the reference.",
    "fraud_drift_refused_rows": "Rows of it that were refused.",
    "fraud_volume_verdict": "Verdict on the newest day: 0 ok, 1 warning, 2 critical.",
    "fraud_volume_rows": "Rows of the day.",
    "fraud_volume_flagged_share": "Share of its scored rows that were flagged.",
    "fraud_volume_quarantined_share": "Share of its rows that were refused.",
    "fraud_history_stale": "1 where the day was scored with an entity history that lacks days, else 0.",
    "fraud_live_precision": "Share of frauds among the alerts of the newest day, and of the newest mature one.",
    "fraud_live_precision_low": "Lower end of its 95 % interval.",
    "fraud_live_precision_high": "Upper end of its 95 % interval.",
    "fraud_live_alerts": "Alerts of that day.",
    "fraud_monitored_day_timestamp_seconds": "The day that was judged, in seconds since 1970.",
}


@dataclass(frozen=True)
class Sample:
    """One number. name: as Prometheus knows it, of `_HELP`; labels: such as the column."""

    name: str
    value: float
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Found:
    """What a command found on a day. what: "drift", "volume" or "performance"; model: version that scored it."""

    what: str
    day: dt.date
    samples: Sequence[Sample]
    model: str = ALL_MODELS


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags --prometheus and --mlflow."""
    parser.add_argument("--prometheus", metavar="FILE", help="write it for Prometheus's textfile collector (.prom) too")
    parser.add_argument("--mlflow", action="store_true", help=f"log it to MLflow too (or set {MONITORING_MLFLOW}=1)")


def export(
    found: Found, given: argparse.Namespace, settings: Settings, environment: Mapping[str, str], page: str = ""
) -> None:
    """Write what the flags and the environment ask for. page: path or URL of a page that MLflow keeps.

    Raises DataError where the file cannot be written.
    """
    if given.prometheus:
        tables.write_text(prometheus(found), settings.locate(given.prometheus))
    if given.mlflow or MonitoringSettings.from_environment(environment).logs_to_mlflow:
        try:
            to_mlflow(found, settings, page)
        except RegistryError as error:
            logger.warning("%s; it is not in MLflow", error)


def of_drift(found: Mapping[str, Any]) -> Found:
    """From the JSON of monitoring.drift."""
    columns = [*(found["score"]["columns"] if found["score"] else ()), *found["columns"]]
    samples = [
        Sample("fraud_drift_verdict", _GRADES[found["verdict"]]),
        Sample("fraud_drift_rows", found["current"]["rows"]),
        Sample("fraud_drift_refused_rows", found["current"]["refused_rows"]),
    ]
    for column in columns:
        label = {"column": column["column"]}
        if (psi := column["statistics"].get("psi")) is not None:
            samples.append(Sample("fraud_drift_psi", psi, label))
        samples.append(Sample("fraud_drift_level", _GRADES[column["level"]], label))
    window = found["current"]["window"]
    day = dt.date.fromisoformat((window["start"] if window else found["created"])[:10])
    return Found("drift", day, samples, ",".join(found["current"]["models"]) or ALL_MODELS)


def of_volume(found: Mapping[str, Any]) -> Found:
    """From the JSON of monitoring.volume."""
    samples = [Sample("fraud_volume_verdict", _GRADES[found["verdict"]])]
    samples.append(Sample("fraud_history_stale", float(found.get("is_history_stale", False))))
    if rows := found["rows"]:
        samples += [
            Sample("fraud_volume_rows", rows["all"]),
            Sample("fraud_volume_flagged_share", rows["flagged"] / max(rows["scored"], 1)),
            Sample("fraud_volume_quarantined_share", rows["quarantined"] / max(rows["all"], 1)),
        ]
    return Found("volume", dt.date.fromisoformat(found["date"]), samples, found["model_version"] or ALL_MODELS)


def of_performance(found: Mapping[str, Any]) -> Found:
    """From the JSON of monitoring.performance: its newest day with a figure, and the newest whose labels matured."""
    samples = []
    known = [day for day in found["days"] if day["precision"] is not None]
    for label, days in (("newest", known), ("mature", [day for day in known if day["is_mature"]])):
        for name, key in (("precision", "precision"), ("precision_low", "low"), ("precision_high", "high"),
                          ("alerts", "alerts")):  # fmt: skip
            if days and days[-1][key] is not None:
                samples.append(Sample(f"fraud_live_{name}", days[-1][key], {"day": label}))
    return Found("performance", dt.date.fromisoformat(found["as_of"]) - dt.timedelta(days=1), samples)


def prometheus(found: Found) -> str:
    """The samples in Prometheus's text format."""
    from prometheus_client import CollectorRegistry, Gauge
    from prometheus_client.exposition import generate_latest

    registry = CollectorRegistry()
    gauges: dict[str, Gauge] = {}
    seconds = float((found.day - _EPOCH).days * 86_400)
    for sample in [*found.samples, Sample("fraud_monitored_day_timestamp_seconds", seconds, {"report": found.what})]:
        labels = dict(sample.labels) | {"model": found.model}
        if sample.name not in gauges:
            gauges[sample.name] = Gauge(sample.name, _HELP[sample.name], list(labels), registry=registry)
        gauges[sample.name].labels(**labels).set(sample.value)
    return bytes(generate_latest(registry)).decode()


def to_mlflow(found: Found, settings: Settings, page: str = "") -> str:
    """Log the samples, and the page as an artifact, to the run of the model version; returns the run's id.

    Raises RegistryError.
    """
    from fraud.registry import runs

    there = replace(settings, experiment=f"{settings.experiment}-monitoring")
    model = re.sub(r"['`]", "_", f"{settings.model_name} {found.model}")
    known = runs.find_runs(there, {MODEL_TAG: model})
    run = runs.continue_run(there, known[0][0]) if known else None
    run = run or runs.start_run(there, f"monitoring {model}", {MODEL_TAG: model})
    day_ms = (found.day - _EPOCH).days * 86_400_000
    run.log_metrics({_key(sample): sample.value for sample in found.samples}, (found.day - _EPOCH).days, day_ms)
    if page:
        filesystem, place = filesystems.of(page)
        with filesystem.open(place, "rt", encoding="utf-8") as html:
            run.log_text(html.read(), f"{found.what}/{found.day}.html")
    run.finish()
    return run.run_id


def _key(sample: Sample) -> str:
    """A name that MLflow takes: fraud_drift_psi of amount is drift_psi/amount."""
    name = "/".join([sample.name.removeprefix("fraud_"), *sample.labels.values()])
    return re.sub(r"[^\w\-. :/]", "_", name)[:250]
