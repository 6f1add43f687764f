"""Export monitoring results: a file for Prometheus's textfile collector, and metrics by day in MLflow.

FRAUD_MONITORING_MLFLOW=1 is the same as --mlflow. The experiment is "<FRAUD_EXPERIMENT>-monitoring", with one run per
model version. The step is the number of days since 1970-01-01. If MLflow does not answer, a warning is logged.
"""

from __future__ import annotations

import argparse
import datetime as dt
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fraud.cli import add_force
from fraud.data import filesystems, tables
from fraud.errors import RegistryError
from fraud.settings import Settings
from fraud.settings.operations import MONITORING_MLFLOW, MonitoringSettings
from monitoring.drift.verdict import LEVELS

logger = logging.getLogger(__name__)

MODEL_TAG = "monitored_model"
ALL_MODELS = "all"
_GRADES = {"too_few_rows": -1, "ok": 0, "warning": 1, "drift": 2, "critical": 2}
_EPOCH = dt.date(1970, 1, 1)
_HELP = {
    "fraud_drift_verdict": "Verdict on the newest report: -1 too few rows, 0 ok, 1 warning, 2 drift.",
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
    """One value. name: Prometheus metric, a key of `_HELP`; labels: e.g. the column."""

    name: str
    value: float
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class DayMetrics:
    """The metrics of one day. what: "drift", "volume" or "performance"; model: version that scored the day."""

    what: str
    day: dt.date
    samples: Sequence[Sample]
    model: str = ALL_MODELS


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add --prometheus, --mlflow, and --force for files that the command did not write."""
    add_force(parser, "--out or --prometheus")
    parser.add_argument("--prometheus", metavar="FILE", help="also write it for Prometheus's textfile collector")
    parser.add_argument("--mlflow", action="store_true", help=f"also log it to MLflow (or set {MONITORING_MLFLOW}=1)")


def export(
    metrics: DayMetrics,
    arguments: argparse.Namespace,
    settings: Settings,
    environment: Mapping[str, str],
    pages: Mapping[str, str] | None = None,
) -> None:
    """Export as the flags and the environment request. pages: to store in MLflow: {end of the name: path or URL}.

    Raises DataError if the file cannot be written.
    """
    if arguments.prometheus:
        target = settings.locate(arguments.prometheus)
        tables.check_out(target, tables.marked("# HELP fraud_"), force=arguments.force, flag="--prometheus")
        tables.write_text(prometheus(metrics), target)
    if arguments.mlflow or MonitoringSettings.from_environment(environment).logs_to_mlflow:
        try:
            to_mlflow(metrics, settings, pages)
        except RegistryError as error:
            logger.warning("%s; the metrics were not logged to MLflow", error)


def of_drift(report: Mapping[str, Any]) -> DayMetrics:
    """Metrics from the JSON of monitoring.drift. With too few rows the columns have none: their figures are noise."""
    columns = [*(report["score"]["columns"] if report["score"] else ()), *report["columns"]]
    samples = [
        Sample("fraud_drift_verdict", _GRADES[report["verdict"]]),
        Sample("fraud_drift_rows", report["current"]["rows"]),
        Sample("fraud_drift_refused_rows", report["current"]["refused_rows"]),
    ]
    for column in (column for column in columns if column["level"] in LEVELS):
        label = {"column": column["column"]}
        if (psi := column["statistics"].get("psi")) is not None:
            samples.append(Sample("fraud_drift_psi", psi, label))
        samples.append(Sample("fraud_drift_level", _GRADES[column["level"]], label))
    window = report["current"]["window"]
    day = dt.date.fromisoformat((window["start"] if window else report["created"])[:10])
    return DayMetrics("drift", day, samples, ",".join(report["current"]["models"]) or ALL_MODELS)


def of_volume(report: Mapping[str, Any]) -> DayMetrics:
    """Metrics from the JSON of monitoring.volume."""
    samples = [Sample("fraud_volume_verdict", _GRADES[report["verdict"]])]
    samples.append(Sample("fraud_history_stale", float(report.get("is_history_stale", False))))
    if rows := report["rows"]:
        samples += [
            Sample("fraud_volume_rows", rows["all"]),
            Sample("fraud_volume_flagged_share", rows["flagged"] / max(rows["scored"], 1)),
            Sample("fraud_volume_quarantined_share", rows["quarantined"] / max(rows["all"], 1)),
        ]
    return DayMetrics("volume", dt.date.fromisoformat(report["date"]), samples, report["model_version"] or ALL_MODELS)


def of_performance(report: Mapping[str, Any]) -> DayMetrics:
    """Metrics from the JSON of monitoring.performance: the newest day with a precision, and the newest mature one."""
    samples = []
    known = [day for day in report["days"] if day["precision"] is not None]
    for label, days in (("newest", known), ("mature", [day for day in known if day["is_mature"]])):
        for name, key in (("precision", "precision"), ("precision_low", "low"), ("precision_high", "high"),
                          ("alerts", "alerts")):  # fmt: skip
            if days and days[-1][key] is not None:
                samples.append(Sample(f"fraud_live_{name}", days[-1][key], {"day": label}))
    return DayMetrics("performance", dt.date.fromisoformat(report["as_of"]) - dt.timedelta(days=1), samples)


def prometheus(metrics: DayMetrics) -> str:
    """The samples in Prometheus's text format."""
    from prometheus_client import CollectorRegistry, Gauge
    from prometheus_client.exposition import generate_latest

    registry = CollectorRegistry()
    gauges: dict[str, Gauge] = {}
    seconds = float((metrics.day - _EPOCH).days * 86_400)
    for sample in [
        *metrics.samples,
        Sample("fraud_monitored_day_timestamp_seconds", seconds, {"report": metrics.what}),
    ]:
        labels = dict(sample.labels) | {"model": metrics.model}
        if sample.name not in gauges:
            gauges[sample.name] = Gauge(sample.name, _HELP[sample.name], list(labels), registry=registry)
        gauges[sample.name].labels(**labels).set(sample.value)
    return bytes(generate_latest(registry)).decode()


def to_mlflow(metrics: DayMetrics, settings: Settings, pages: Mapping[str, str] | None = None) -> str:
    """Log the samples, and the pages as artifacts, to the run of the model version. Returns the run id.

    Raises RegistryError.
    """
    from fraud.registry import runs

    monitoring_settings = replace(settings, experiment=f"{settings.experiment}-monitoring")
    model = re.sub(r"['`]", "_", f"{settings.model_name} {metrics.model}")
    existing = runs.find_runs(monitoring_settings, {MODEL_TAG: model})
    run = runs.continue_run(monitoring_settings, existing[0][0]) if existing else None
    text = (
        f"What `monitoring` found about the days of model {model}: drift, volume, live precision. A step is a day, "
        "counted from 1970-01-01. The pages of the days are among the artifacts."
    )
    tags = {MODEL_TAG: model, runs.DESCRIPTION: text, runs.SOURCE: "monitoring"}
    run = run or runs.start_run(monitoring_settings, f"monitoring {model}", tags)
    day_ms = (metrics.day - _EPOCH).days * 86_400_000
    run.log_metrics({_key(sample): sample.value for sample in metrics.samples}, (metrics.day - _EPOCH).days, day_ms)
    for end, page in (pages or {}).items():
        filesystem, path = filesystems.of(page)
        with filesystem.open(path, "rt", encoding="utf-8") as html:
            run.log_text(html.read(), f"{metrics.what}/{metrics.day}{end}")
    run.finish()
    return run.run_id


def _key(sample: Sample) -> str:
    """The MLflow metric name: fraud_drift_psi of amount becomes drift_psi/amount."""
    name = "/".join([sample.name.removeprefix("fraud_"), *sample.labels.values()])
    return re.sub(r"[^\w\-. :/]", "_", name)[:250]
