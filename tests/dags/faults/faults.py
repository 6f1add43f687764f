"""DAGs for the fault tests: one Ray job each, whose length, end, exit code and package the run's conf gives."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG
from fraud_airflow.alerting import task_failed
from fraud_airflow.pipeline import due
from fraud_airflow.ray_operator import RayJobOperator

JOB = (
    "import os, sys, time\n"
    "seconds, code, end = float(sys.argv[1]), int(sys.argv[2]), sys.argv[3]\n"
    "print('begin of the job', flush=True)\n"
    "for second in range(int(seconds)):\n"
    "    if os.path.exists(end): break\n"
    "    print('second', second, flush=True)\n"
    "    time.sleep(1)\n"
    "print('last words', flush=True)\n"
    "sys.exit(code)\n"
)


def fault(
    dag_id: str, *, deferrable: bool, timeout_s: float = 600.0, retries: int = 1, due_h: float = 24.0, **more: Any
) -> DAG:
    """A DAG with one Ray job."""
    with DAG(dag_id, schedule=None, max_active_runs=8, deadline=due(dag_id, due_h)) as dag:
        RayJobOperator(
            task_id="job",
            command=[
                "python",
                "-c",
                JOB,
                "{{ dag_run.conf.get('seconds', 600) }}",
                "{{ dag_run.conf.get('code', 0) }}",
                "{{ dag_run.conf.get('end', '/no/such/file') }}",
            ],
            deferrable=deferrable,
            poll_s=1.0,
            retries=retries,
            retry_delay=timedelta(seconds=1),
            hopeless_exit_codes=[7],
            execution_timeout=timedelta(seconds=timeout_s),
            on_failure_callback=[task_failed],
            **more,
        )
    return dag


deferred = fault("deferred", deferrable=True)
held = fault("held", deferrable=False)
hasty = fault("hasty", deferrable=True, timeout_s=8, retries=0)
late = fault("late", deferrable=True, due_h=1 / 3600)
# Its code comes from a pipe, so that the job waits until somebody writes to that.
pending = fault("pending", deferrable=True, runtime_env={"working_dir": "file://{{ dag_run.conf.get('package') }}"})
