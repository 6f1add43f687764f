"""Every week: labels, search, training, evaluation, and the gate that promotes the challenger or refuses it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import DAG, CronDataIntervalTimetable, Param, task
from airflow.sdk.exceptions import AirflowSkipException
from fraud_airflow import pipeline, synthetic
from fraud_airflow.day_zone import day_zone
from fraud_airflow.pipeline import AS_OF, below, job, setting, value_of


@task(outlets=[pipeline.CHAMPION], pool="default_pool", retries=0)
def champion(decided: Any, *, outlet_events: Any = None) -> str:
    """Report the new champion; skipped if the gate refused. Replicas read the champion from the registry."""
    lines = [line for line in decided["last_lines"] if line.startswith(("promoted:", "refused:"))]
    if not lines or lines[-1].startswith("refused:"):
        raise AirflowSkipException(lines[-1] if lines else "the gate had nothing to decide")
    outlet_events[pipeline.CHAMPION].extra = {"job": decided["job_id"]}
    return str(lines[-1])


def build() -> DAG:
    """The DAG."""
    line = pipeline.schedule("FRAUD_WEEKLY_SCHEDULE", "0 5 * * 1")
    as_of = value_of(AS_OF)
    with DAG(
        "fraud_weekly_retraining",
        description=__doc__,
        # On Mondays after the daily scoring. Not triggered by the asset: a week of labels matters, not a day of rows.
        schedule=CronDataIntervalTimetable(line, timezone=day_zone()) if line else None,
        start_date=datetime(2026, 1, 1, tzinfo=UTC),
        catchup=False,  # last week's model is obsolete
        max_active_runs=1,  # two runs would overwrite each other's challenger
        dagrun_timeout=timedelta(hours=24),
        deadline=pipeline.due("fraud_weekly_retraining", 7 * 24 + 18),
        default_args=pipeline.task_defaults(),
        params={"date": Param("", type="string", title="As of the morning of, YYYY-MM-DD (empty: the run's)")},
        tags=["fraud", "weekly"],
    ) as dag:
        data, schema = below("training", f"{as_of}.parquet"), setting("schema")
        labels = pipeline.ingest_labels()
        join = pipeline.join(AS_OF)
        sweep = job(
            "sweep",
            "tuning.sweep",
            *["--data", data, "--schema", schema, "--trials", setting("trials"), "--outdir", below("sweep", as_of)],
            *["--name", f"weekly-{as_of}"],
            *[pipeline.flag("--config", "config"), pipeline.flag("--space", "space")],
            execution_timeout=timedelta(hours=8),
        )
        train = pipeline.train(AS_OF, "--config", below("sweep", f"{as_of}/best.yaml"))
        evaluate = job(
            "evaluate",
            "ray_jobs.evaluate",
            *["--data", data, "--model", "challenger", "--against", "champion"],
            *["--out", below("evaluation", f"{as_of}.html")],
        )
        gate = job(
            "gate",
            "ray_jobs.promote",
            *["challenger", "--gate", "--data", data, "--by", "airflow", "--out", below("gate", f"{as_of}.json")],
        )
        if synthetic.IS_ON:
            pipeline.make_synthetic("today", "--await-champion", setting("await_hours")) >> labels
        labels >> join >> sweep >> train >> evaluate >> gate
        champion(gate.output)
    return dag


dag = build()
