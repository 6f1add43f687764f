"""Only with FRAUD_SYNTHETIC=1, once: begin the synthetic world and train its first champion. The other DAGs wait."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from airflow.sdk import DAG, Param
from fraud_airflow import pipeline, synthetic
from fraud_airflow.pipeline import AS_OF


def build() -> DAG:
    """The DAG."""
    with DAG(
        "fraud_first_try",
        description=__doc__,
        schedule="@once",
        start_date=datetime(2026, 1, 1, tzinfo=UTC),
        catchup=False,
        max_active_runs=1,
        dagrun_timeout=timedelta(hours=12),
        default_args=pipeline.task_defaults(),
        params={"date": Param("", type="string", title="As of the morning of, YYYY-MM-DD (empty: the world's)")},
        tags=["fraud", "synthetic"],
    ) as dag:
        begun, labels = pipeline.make_synthetic("start"), pipeline.ingest_labels()
        begun >> labels >> pipeline.join(AS_OF) >> pipeline.train(AS_OF)
    return dag


dag = build() if synthetic.IS_ON else None
