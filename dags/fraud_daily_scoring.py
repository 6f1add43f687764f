"""Every day: await the transactions, score them, judge drift, volume and live precision, send alerts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, CronDataIntervalTimetable, Param, TriggerRule
from fraud_airflow import pipeline, synthetic
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
        # With an interval, a run knows its day even if it starts late. Yesterday's data are expected by 03:00.
        schedule=CronDataIntervalTimetable(line, timezone=day_zone()) if line else None,
        start_date=datetime(2026, 1, 1, tzinfo=UTC),
        # After a pause of a day or more, close the gap with fraud_backfill.
        catchup=False,
        # In order, because a day's volume is compared with earlier days.
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
            *["--data", setting("daily_data", DAY), "--hours", setting("await_hours")],
            # Not in our pool: while waiting it costs Ray one idle process. A timeout is not retried.
            pool="default_pool",
            hopeless_exit_codes=[pipeline.NO_DATA],
            execution_timeout=timedelta(hours=hours, minutes=30),
        )
        scored = pipeline.score(DAY)
        volume, drift = pipeline.volume(DAY), pipeline.drift(DAY)
        labels = pipeline.ingest_labels()
        live = below("reports", f"performance/{day}.json")
        performance = job(
            "performance",
            "monitoring.performance",
            *["--decisions", setting("scored"), "--as-of", tomorrow, "--out", live],
        )
        draw = ["draw", "--day", day, "--decisions", setting("scored"), "--out", below("review", f"{day}.csv")]
        review = job("review", "ray_jobs.labels", *draw)
        reports = ["--drift", below("reports", f"drift/{day}.json"), "--performance", live]
        reports += ["--volume", below("reports", f"volume/{day}.json")]
        # Also after a failure: a missing report is an alert itself.
        alerts = job("alerts", "monitoring.alerts", *reports, trigger_rule=TriggerRule.ALL_DONE)
        # Without it a run would count as successful whenever the alerts were sent.
        done = EmptyOperator(task_id="done", pool="default_pool")

        if synthetic.IS_ON:
            asked = ["--run", value_of("run_id"), "{{ '--date=' ~ params.date if params.date else '' }}"]
            drifts = ["--drift", setting("synthetic_drift"), "--await-champion", setting("await_hours")]
            pipeline.make_synthetic("day", *asked, *drifts) >> [awaited, labels]
        # A day is scored with the labels known when it began.
        [awaited, labels] >> scored >> [volume, drift, review]
        scored >> performance
        trend = pipeline.trend()
        drift >> trend
        [volume, drift, performance] >> alerts
        [volume, drift, performance, review, trend, alerts] >> done
    return dag


dag = build()
