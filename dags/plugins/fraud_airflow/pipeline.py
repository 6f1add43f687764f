"""What the three DAGs share: settings, the commands of a day, and how a task retries, times out and tells.

Every setting is an environment variable FRAUD_X of the process that parses, and an Airflow variable fraud_x above it,
which counts from the next task on. Schedules, being part of the DAG, are environment variables only.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

from airflow.sdk import Asset
from airflow.sdk.definitions.callback import AsyncCallback
from airflow.sdk.definitions.deadline import DeadlineAlert, DeadlineReference

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
}
# The day of a scheduled run is that in which its interval began; that of a run by hand, its parameter or yesterday.
DAY = (
    f"(params.date or ({day_of('dag_run.data_interval_start')} if dag_run.data_interval_start"
    f" else macros.ds_add({day_of('dag_run.run_after')}, -1)))"
)
# The morning on which a retraining looks at the world.
AS_OF = f"(params.date or ({day_of('dag_run.run_after')}))"


def environment(name: str) -> str:
    """A setting as the environment has it."""
    return os.environ.get(f"FRAUD_{name.upper()}") or DEFAULTS[name]


def setting(name: str, day: str | None = None) -> str:
    """A setting as a template, with {date} replaced by what the expression `day` gives."""
    value = f"var.value.get('fraud_{name}', {environment(name)!r})"
    return "{{ " + (f"{value}.replace('{{date}}', {day})" if day else value) + " }}"


def flag(option: str, name: str) -> str:
    """`option` with a setting, or nothing where that is empty."""
    value = f"var.value.get('fraud_{name}', {environment(name)!r})"
    return "{{ " + f"'{option}=' ~ {value} if {value} else ''" + " }}"


def below(name: str, rest: str) -> str:
    """A path below the folder of a setting."""
    return f"{setting(name)}/{rest}"


def schedule(name: str, default: str) -> str | None:
    """A cron line from the environment; the words none and off mean: by hand only."""
    line = os.environ.get(name, default).strip()
    return None if line.lower() in ("", "none", "off") else line


def task_defaults(pool: str = POOL) -> dict[str, Any]:
    """For every task: two retries after 2 and 4 minutes, at most 3 h, told when the last one fails."""
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
    """An alert when a run has not ended `hours` after its logical date, the beginning of its interval.

    Not after it was queued: Airflow 3.3 cannot clear a task of such a DAG (its issue 70368). None with
    FRAUD_DEADLINES=off, which `airflow dags test` needs: Airflow 3.3.2 cannot end a run there that has a deadline.
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
    """A template of one expression."""
    return "{{ " + expression + " }}"


def score(day: str, *more: str, **options: Any) -> RayJobOperator:
    """Score a day into its partition; done already, it verifies that and does nothing.

    It begins with the history of the day before, of which missing days are made from the daily data.
    """
    paths = ["--data", setting("daily_data", day), "--out", setting("scored"), "--date", value_of(day)]
    paths += ["--history-data", setting("history_data")]
    paths += [flag("--other-days", "other_days")]
    outlet = {"outlets": [SCORED_DAY], "inlets": [CHAMPION], "outlet_extra": {"date": value_of(day)}}
    return job("score", "ray_jobs.score", *paths, *more, **outlet, **options)


def volume(day: str, **options: Any) -> RayJobOperator:
    """Judge how many rows the day has, and how many are flagged or refused."""
    out = below("reports", f"volume/{value_of(day)}.json")
    arguments = ["--scored", setting("scored"), "--date", value_of(day), "--out", out]
    return job("volume", "monitoring.volume", *arguments, **options)


def drift(day: str, **options: Any) -> RayJobOperator:
    """Compare the day with the reference that the champion keeps."""
    current = below("scored", f"date={value_of(day)}")
    arguments = ["--model", "champion", "--cur", current, "--out", below("reports", f"drift/{value_of(day)}.html")]
    return job("drift", "monitoring.drift", *arguments, **options)


def trend(**options: Any) -> RayJobOperator:
    """Draw drift over the days."""
    arguments = ["--reports", below("reports", "drift"), "--out", below("reports", "drift/trend.html")]
    return job("trend", "monitoring.trend", *arguments, **options)
