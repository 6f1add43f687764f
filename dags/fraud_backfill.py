"""By hand: score the days of a range and judge their drift and volume, a few at a time; no alerts for old days."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

from airflow.sdk import DAG, Param, task, task_group
from fraud_airflow import pipeline

MOST_DAYS = 366
DAY = "ti.xcom_pull(task_ids='days')[ti.map_index]"


@task(pool="default_pool", retries=0)
def days(*, params: Any = None) -> list[str]:
    """The days from first to last, inclusive."""
    first, last = date.fromisoformat(params["first"]), date.fromisoformat(params["last"])
    count = (last - first).days + 1
    if not 1 <= count <= MOST_DAYS:
        raise ValueError(f"first={first}, last={last} are {count} days: give 1 to {MOST_DAYS}")
    return [(first + timedelta(days=number)).isoformat() for number in range(count)]


@task_group
def each(day: str) -> None:
    """Score and judge one day."""
    force = "{{ '--force' if params.force else '' }}"
    named = {"map_index_template": pipeline.value_of(DAY)}
    scored = pipeline.score(DAY, force, **named)
    scored >> [pipeline.volume(DAY, **named), pipeline.drift(DAY, **named)]


def build() -> DAG:
    """The DAG."""
    with DAG(
        "fraud_backfill",
        description=__doc__,
        schedule=None,
        start_date=datetime(2026, 1, 1, tzinfo=UTC),
        max_active_runs=1,
        # Its own pool: a backfill of a year must not delay the daily run.
        default_args=pipeline.task_defaults(pipeline.BACKFILL_POOL),
        params={
            "first": Param(type="string", format="date", title="First day"),
            "last": Param(type="string", format="date", title="Last day"),
            "force": Param(False, type="boolean", title="Replace days that are scored already"),
        },
        tags=["fraud", "by hand"],
    ) as dag:
        listed = days()
        each.expand(day=listed) >> pipeline.trend()
    return dag


dag = build()
