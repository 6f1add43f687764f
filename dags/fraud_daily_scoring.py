"""Every day: await the transactions, score them, judge drift, volume and live precision, tell what is wrong."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, CronDataIntervalTimetable, Param, TriggerRule
from fraud_airflow import pipeline
from fraud_airflow.day_zone import day_zone
from fraud_airflow.pipeline import DAY, below, job, setting, value_of


def build() -> DAG:
    """The DAG."""
    line = pipeline.schedule("FRAUD_DAILY_SCHEDULE", "0 3 * * *")
    day, tomorrow = value_of(DAY), value_of(f"macros.ds_add({DAY}, 1)")
    hours = float(pipeline.environment("await_hours"))
    with DAG(
        "fraud_daily_scoring",
        description=__doc__,
        # An interval, so that a run knows its day however late it starts. At 03:00 yesterday's data are expected.
        schedule=CronDataIntervalTimetable(line, timezone=day_zone()) if line else None,
        start_date=datetime(2026, 1, 1, tzinfo=UTC),
        # A pause of a day or more leaves a gap that somebody closes with fraud_backfill, seen and in bounds.
        catchup=False,
        # Days in order: a day's volume is judged by those before it.
        max_active_runs=1,
        dagrun_timeout=timedelta(hours=hours + 12),
        deadline=pipeline.due("fraud_daily_scoring", 24 + hours + 3),
        default_args=pipeline.task_defaults(),
        params={"date": Param("", type="string", title="Day, YYYY-MM-DD (empty: the run's)")},
        tags=["fraud", "daily"],
    ) as dag:
        awaited = job(
            "await_data",
            "ray_jobs.await_data",
            "--data",
            setting("daily_data", DAY),
            "--hours",
            setting("await_hours"),
            # Not in our pool: it waits, and costs Ray one idle process. In vain it is not tried again.
            pool="default_pool",
            hopeless_exit_codes=[pipeline.NO_DATA],
            execution_timeout=timedelta(hours=hours, minutes=30),
        )
        scored = pipeline.score(DAY)
        volume, drift = pipeline.volume(DAY), pipeline.drift(DAY)
        labels = job(
            "labels",
            "ray_jobs.labels",
            "ingest",
            setting("label_files"),
            "--allow-empty",
            "--schema",
            setting("schema"),
        )
        live = below("reports", f"performance/{day}.json")
        performance = job(
            "performance",
            "monitoring.performance",
            "--decisions",
            setting("scored"),
            "--as-of",
            tomorrow,
            "--out",
            live,
        )
        draw = ["draw", "--day", day, "--decisions", setting("scored"), "--out", below("review", f"{day}.csv")]
        review = job("review", "ray_jobs.labels", *draw)
        reports = ["--drift", below("reports", f"drift/{day}.json"), "--performance", live]
        reports += ["--volume", below("reports", f"volume/{day}.json")]
        # Also after a failure: a report that is not there is itself worth an alert.
        alerts = job("alerts", "monitoring.alerts", *reports, trigger_rule=TriggerRule.ALL_DONE)
        # Without it the run would be green whenever the alerts went out.
        done = EmptyOperator(task_id="done", pool="default_pool")

        # A day is scored with the labels that were known when it began.
        [awaited, labels] >> scored >> [volume, drift, review]
        scored >> performance
        trend = pipeline.trend()
        drift >> trend
        [volume, drift, performance] >> alerts
        [volume, drift, performance, review, trend, alerts] >> done
    return dag


dag = build()
