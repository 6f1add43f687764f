"""Alert when a task has failed for good or a run is late: by a Ray job of monitoring.alerts, else by a log line."""

from __future__ import annotations

import hashlib
import logging
import os
from typing import Any

from airflow.sdk.exceptions import AirflowFailException

from fraud_airflow import synthetic
from fraud_airflow.day_zone import VARIABLE, day_zone
from fraud_airflow.job_lifecycle import finish
from fraud_airflow.jobs_api import RayJobs, RayJobsError

logger = logging.getLogger(__name__)

LONGEST_TEXT = 600  # characters


def task_failed(context: Any) -> None:
    """Airflow's on_failure_callback: submit an alert."""
    ti, reason = context["ti"], context.get("exception")
    text = f"run {ti.run_id}, try {ti.try_number}: {_cut(str(reason or 'no reason given').strip())}"
    finish(submit_alert(kind_of(ti.task_id, reason), f"{ti.dag_id}.{ti.task_id}", text))


def kind_of(task_id: str, reason: object) -> str:
    """The alert's kind: missing_data if an await_ task timed out (its only hopeless failure), else job_failure."""
    has_no_data = task_id.startswith("await_") and isinstance(reason, AirflowFailException)
    return "missing_data" if has_no_data else "job_failure"


async def deadline_missed(dag_id: str, limit: str, context: Any = None) -> None:
    """Callback of a DeadlineAlert. Runs in the triggerer; context["dag_run"] is the run as in Airflow's REST API.

    Airflow also calls it for a run that failed in time, and for one that a person marked as succeeded.
    """
    run = (context or {}).get("dag_run") or {}
    run_id, state = run.get("dag_run_id", ""), run.get("state", "")
    if state == "success":
        logger.info("run %s of %s was marked as succeeded before its deadline", run_id, dag_id)
        return
    await submit_alert("job_failure", dag_id, f"run {run_id} is {state or 'not done'} {limit} after its interval began")


async def submit_alert(kind: str, subject: str, text: str) -> None:
    """Submit the alert as a Ray job without waiting for it. If Ray refuses, log it."""
    command = ["python", "-m", "monitoring.alerts", "--kind", kind, "--subject", subject]
    command += ["--severity", "critical", "--text", text]
    # A repeated callback submits the same id, so there is one job.
    job_id = f"alert.{hashlib.sha256(' '.join(command).encode()).hexdigest()[:16]}"
    address = os.environ.get("FRAUD_RAY_ADDRESS") or "http://127.0.0.1:8265"
    try:
        async with RayJobs(address) as jobs:
            await jobs.submit(job_id, command, runtime_env=job_environment(), metadata={"alert": subject})
    except RayJobsError as error:
        logger.error("ALERT %s, %s: %s (Ray took no job for it: %s)", kind, subject, text, error)
    else:
        logger.warning("alert %s, %s: %s", kind, subject, text)


def job_environment() -> dict[str, Any]:
    """The runtime environment of every job.

    working_dir: FRAUD_RAY_WORKING_DIR, a URI of the code, if Ray's image does not contain it. FRAUD_DAY_ZONE is passed
    on, so that a job stops if its schema has another day zone. A synthetic world's jobs have their own state and model.
    """
    where = os.environ.get("FRAUD_RAY_WORKING_DIR")
    own = synthetic.JOB_ENVIRONMENT if synthetic.IS_ON else {}
    return {"env_vars": {VARIABLE: day_zone(), **own}, **({"working_dir": where} if where else {})}


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_TEXT else f"{text[: LONGEST_TEXT // 2]} ... {text[-LONGEST_TEXT // 2 :]}"
