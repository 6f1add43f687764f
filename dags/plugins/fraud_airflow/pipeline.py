"""Shared by the DAGs: settings, the tasks of a day, retries, timeouts and failure alerts.

A setting is an environment variable FRAUD_X of the DAG processor. An Airflow variable fraud_x overrides it from the
next task on. Schedules are part of the DAG, so they are environment variables only.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

from airflow.sdk import Asset
from airflow.sdk.definitions.callback import AsyncCallback
from airflow.sdk.definitions.deadline import DeadlineAlert, DeadlineReference

from fraud_airflow import synthetic
from fraud_airflow.alerting import deadline_missed, job_environment, task_failed
from fraud_airflow.day_zone import day_of
from fraud_airflow.ray_operator import RayJobOperator

SCORED_DAY = Asset("fraud_scored_day", uri="fraud://scored/day")
CHAMPION = Asset("fraud_champion", uri="fraud://registry/champion")
POOL, BACKFILL_POOL = "fraud_ray", "fraud_backfill"
NO_DATA = 3  # exit code of ray_jobs.await_data
DEFAULTS = {
    "daily_data": "data/daily/{date}.parquet",
    "history_data": "data/daily/*.parquet",
    "label_files": "labels/incoming/*.csv",
    "schema": "transactions",
    "scored": "scored",
    "reports": "reports",
    "review": "review",
    "training": "training",
    "sweep": "sweep",
    "artifacts": "artifacts",
    "evaluation": "evaluation",
    "gate": "gate",
    "config": "",
    "space": "",
    "trials": "24",
    "matured_days": "7",
    "await_hours": "6",
    "other_days": "",
    "synthetic_drift": "auto",
}
# The day of a scheduled run: the start of its interval. Of a manual run: its parameter, else yesterday.
DAY = (
    f"(params.date or ({day_of('dag_run.data_interval_start')} if dag_run.data_interval_start"
    f" else macros.ds_add({day_of('dag_run.run_after')}, -1)))"
)
# The day of a retraining: it uses what was known that morning.
AS_OF = f"(params.date or ({day_of('dag_run.run_after')}))"
if synthetic.IS_ON:  # a world of its own has a calendar of its own
    DAY = AS_OF = f"(params.date or {synthetic.DAY})"


def environment(name: str) -> str:
    """A setting's value in the environment, else its default."""
    return os.environ.get(f"FRAUD_{name.upper()}") or synthetic.defaults(DEFAULTS)[name]


def setting(name: str, day: str | None = None) -> str:
    """A setting as a template. day: template expression that replaces {date}."""
    value = f"var.value.get('fraud_{name}', {environment(name)!r})"
    return "{{ " + (f"{value}.replace('{{date}}', {day})" if day else value) + " }}"


def flag(option: str, name: str) -> str:
    """A template for `option=setting`; renders to nothing if the setting is empty."""
    value = f"var.value.get('fraud_{name}', {environment(name)!r})"
    return "{{ " + f"'{option}=' ~ {value} if {value} else ''" + " }}"


def below(name: str, rest: str) -> str:
    """A path below the folder of a setting."""
    return f"{setting(name)}/{rest}"


def schedule(name: str, default: str) -> str | None:
    """The cron line in environment variable `name`; None (manual runs only) if it is empty, "none" or "off"."""
    line = os.environ.get(name, default).strip()
    return None if line.lower() in ("", "none", "off") else line


def task_defaults(pool: str = POOL) -> dict[str, Any]:
    """Defaults of every task: two retries after 2 and 4 minutes, 3 h timeout, an alert when the last try fails."""
    return {
        "owner": "fraud",
        "pool": pool,
        "retries": int(os.environ.get("FRAUD_RETRIES", "2")),
        "retry_delay": timedelta(seconds=float(os.environ.get("FRAUD_RETRY_DELAY_S", "120"))),
        "retry_exponential_backoff": True,
        "max_retry_delay": timedelta(minutes=30),
        "execution_timeout": timedelta(hours=3),
        "on_failure_callback": [task_failed],
    }


def due(dag_id: str, hours: float) -> DeadlineAlert | None:
    """Alert if a run has not ended `hours` after its logical date, the start of its interval.

    Does not count from queueing: Airflow 3.3 cannot clear a task of such a DAG (Airflow issue 70368). None with
    FRAUD_DEADLINES=off, which `airflow dags test` needs: Airflow 3.3.2 cannot end a test run that has a deadline.
    """
    if os.environ.get("FRAUD_DEADLINES", "").lower() == "off":
        return None
    return DeadlineAlert(
        reference=DeadlineReference.DAGRUN_LOGICAL_DATE,
        interval=timedelta(hours=hours),
        callback=AsyncCallback(deadline_missed, kwargs={"dag_id": dag_id, "limit": f"{hours:g} hours"}),
    )


def job(task_id: str, module: str, *arguments: str, **more: Any) -> RayJobOperator:
    """The task that runs `python -m module arguments` on Ray."""
    command = ["python", "-m", module, *arguments]
    return RayJobOperator(task_id=task_id, command=command, runtime_env=job_environment(), **more)


def value_of(expression: str) -> str:
    """The template that renders `expression`."""
    return "{{ " + expression + " }}"


def make_synthetic(action: str, *more: str) -> RayJobOperator:
    """Let the synthetic world begin ("start"), go on by a day ("day") or say its date ("today")."""
    files = ["--data", setting("daily_data"), "--labels", setting("label_files")]
    # Not in our pool: it may wait for the first champion.
    return job(synthetic.TASK, "ray_jobs.synthetic", action, *files, *more, pool="default_pool")


def score(day: str, *more: str, **options: Any) -> RayJobOperator:
    """Score a day into its partition. If that exists already, only verify it.

    Starts from the history of the day before; missing history days are built from the daily data.
    """
    paths = ["--data", setting("daily_data", day), "--out", setting("scored"), "--date", value_of(day)]
    paths += ["--history-data", setting("history_data")]
    paths += [flag("--other-days", "other_days")]
    outlet = {"outlets": [SCORED_DAY], "inlets": [CHAMPION], "outlet_extra": {"date": value_of(day)}}
    return job("score", "ray_jobs.score", *paths, *more, **outlet, **options)


def ingest_labels() -> RayJobOperator:
    """Ingest new label files, if there are any."""
    arguments = ["ingest", setting("label_files"), "--allow-empty", "--schema", setting("schema")]
    return job("labels", "ray_jobs.labels", *arguments)


def join(as_of: str) -> RayJobOperator:
    """Write the matured transactions with the labels known on the morning of `as_of`."""
    arguments = ["join", "--data", setting("history_data"), "--out", below("training", f"{value_of(as_of)}.parquet")]
    arguments += ["--as-of", value_of(as_of), "--matured-days", setting("matured_days"), "--schema", setting("schema")]
    return job("join", "ray_jobs.labels", *arguments, inlets=[SCORED_DAY])


def train(as_of: str, *config: str) -> RayJobOperator:
    """Train on what `join` wrote."""
    day = value_of(as_of)
    arguments = ["--data", below("training", f"{day}.parquet"), "--schema", setting("schema")]
    arguments += [*config, "--outdir", below("artifacts", day)]
    return job("train", "ray_jobs.train", *arguments, execution_timeout=timedelta(hours=6))


def volume(day: str, **options: Any) -> RayJobOperator:
    """Judge the day's numbers of rows, flagged rows and refused rows."""
    out = below("reports", f"volume/{value_of(day)}.json")
    arguments = ["--scored", setting("scored"), "--date", value_of(day), "--out", out]
    return job("volume", "monitoring.volume", *arguments, **options)


def drift(day: str, **options: Any) -> RayJobOperator:
    """Compare the day with the champion's reference."""
    current = below("scored", f"date={value_of(day)}")
    arguments = ["--model", "champion", "--cur", current, "--out", below("reports", f"drift/{value_of(day)}.html")]
    return job("drift", "monitoring.drift", *arguments, **options)


def trend(**options: Any) -> RayJobOperator:
    """Draw drift over the days."""
    arguments = ["--reports", below("reports", "drift"), "--out", below("reports", "drift/trend.html")]
    return job("trend", "monitoring.trend", *arguments, **options)
