"""A Ray job as an Airflow task."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import BaseOperator, BaseOperatorLink
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from fraud_airflow.job_lifecycle import JobRequest, Outcome, finish, follow, submission_id, submit, take_over
from fraud_airflow.jobs_api import RayJobs, RayJobsError
from fraud_airflow.ray_trigger import RayJobTrigger

if TYPE_CHECKING:
    from airflow.sdk.definitions.context import Context
    from airflow.sdk.types import TaskInstanceKey

JOB_KEY, LINK_KEY = "ray_job_id", "ray_job_link"
# Airflow's values when it resumes a task whose trigger ended without an event.
FAILED, TIMED_OUT = "__fail__", "Trigger timeout"
MOST_EARLIER_TRIES = 10
# Airflow kills a task process 5 s after its SIGTERM; a trigger may take 30 s to stop its job.
KILL_PATIENCE_S, STOP_PATIENCE_S = 4.0, 25.0


class RayJobLink(BaseOperatorLink):
    """The "Ray job" button of a task: opens the job in Ray's dashboard."""

    @property
    def name(self) -> str:
        """The button's name."""
        return "Ray job"

    @property
    def xcom_key(self) -> str:
        """The XCom key under which execute() stores the address."""
        return LINK_KEY

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """Read the address from XCom."""
        return str(ti_key.xcom_pull(key=LINK_KEY, task_ids=ti_key.task_id, map_indexes=ti_key.map_index) or "")  # type: ignore[attr-defined]


class RayJobOperator(BaseOperator):
    """Run a command as a Ray job and follow it to its end, deferred to the triggerer unless deferrable=False.

    command: the job's command line as a list; templated. Items that render to "" are dropped.
    address: URL of Ray's dashboard; templated (default: FRAUD_RAY_ADDRESS, else http://127.0.0.1:8265). The token
        comes from RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH of the calling process and is not stored.
    runtime_env: Ray's runtime environment, e.g. {"working_dir": URI, "env_vars": {...}}; templated.
    hopeless_exit_codes: exit codes of the command that make a retry pointless.
    outlet_extra: extra of the task's asset events; templated.
    poll_s: seconds between polls of a quiet job. unreachable_s: longest time without an answer from Ray.

    Returns {"job_id": ..., "last_lines": end of the job's log, for later tasks}.
    """

    template_fields: Sequence[str] = ("command", "address", "runtime_env", "outlet_extra")
    template_fields_renderers: ClassVar[dict[str, str]] = {"command": "json", "runtime_env": "json"}
    operator_extra_links = (RayJobLink(),)
    ui_color = "#e4f0f8"

    def __init__(
        self,
        *,
        command: Sequence[str],
        address: str | None = None,
        runtime_env: Mapping[str, Any] | None = None,
        hopeless_exit_codes: Collection[int] = (),
        outlet_extra: Mapping[str, Any] | None = None,
        poll_s: float = 5.0,
        unreachable_s: float = 600.0,
        deferrable: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.command = command
        self.address = address or os.environ.get("FRAUD_RAY_ADDRESS") or "http://127.0.0.1:8265"
        self.runtime_env = runtime_env or {}
        self.hopeless_exit_codes = list(hopeless_exit_codes)
        self.outlet_extra = outlet_extra or {}
        self.poll_s = poll_s
        self.unreachable_s = unreachable_s
        self.deferrable = deferrable
        self._job_id: str | None = None
        self._is_killed = False

    def execute(self, context: Context) -> Any:
        """Start the job or take over an earlier try's job, and wait for it. If deferred, the trigger does both."""
        ti = context["ti"]

        def name(try_number: int) -> str:
            return submission_id(
                ti.dag_id, ti.run_id, ti.task_id, -1 if ti.map_index is None else ti.map_index, try_number
            )

        # A clear raises max_tries by the number of earlier tries, so this counts from the last clear.
        tries_since_clear = ti.try_number - ((ti.max_tries or 0) - (self.retries or 0))
        before = range(ti.try_number - 1, max(0, ti.try_number - 1 - MOST_EARLIER_TRIES), -1)
        earlier = finish(self._take_over([name(number) for number in before], tries_since_clear > 1))
        order = JobRequest(job_id=earlier) if earlier else self._order(name(ti.try_number), ti)
        self._job_id = order.job_id
        ti.xcom_push(key=JOB_KEY, value=order.job_id)
        dashboard = os.environ.get("FRAUD_RAY_DASHBOARD") or self.address
        ti.xcom_push(key=LINK_KEY, value=f"{dashboard.rstrip('/')}/#/jobs/{order.job_id}")
        if self.deferrable:
            self.defer(
                trigger=RayJobTrigger(self.address, asdict(order), self.poll_s, self.unreachable_s),
                method_name="execute_complete",
                timeout=self.execution_timeout if isinstance(self.execution_timeout, timedelta) else None,
            )
        if order.command:
            finish(self._submit(order))
        if self._is_killed:  # during the submission
            self.on_kill()
            raise AirflowException(f"killed; sent a stop request to Ray job {order.job_id}")
        return self.execute_complete(context, finish(self._follow(order.job_id)).as_event())

    def execute_complete(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        """Return the job's id and last lines, or raise AirflowException with them and the driver's exit code."""
        outcome = Outcome(**event)
        if outcome.status == "SUCCEEDED":
            for outlet in self.outlets or ():
                context["outlet_events"][outlet].extra = dict(self.outlet_extra)
            return {"job_id": outcome.job_id, "last_lines": outcome.last_lines}
        code = "" if outcome.exit_code is None else f", driver exit code {outcome.exit_code}"
        lines = "\n".join(outcome.last_lines) or "(no log)"
        text = f"Ray job {outcome.job_id} {outcome.status}{code}: {outcome.message}\nlast lines of its log:\n{lines}"
        raise (AirflowFailException if outcome.exit_code in self.hopeless_exit_codes else AirflowException)(text)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Stop the job if its task timed out or the trigger of the last try failed, then resume as Airflow does."""
        if next_method == FAILED:
            ti = context["ti"]
            is_last_try = ti.try_number > (ti.max_tries or 0)
            job_id = ti.xcom_pull(key=JOB_KEY, task_ids=ti.task_id, map_indexes=ti.map_index)
            if job_id and (is_last_try or (next_kwargs or {}).get("error") == TIMED_OUT):
                self.log.info("stopping Ray job %s", job_id)
                self._stop(str(job_id), STOP_PATIENCE_S)
        return super().resume_execution(next_method, next_kwargs, context)

    def on_kill(self) -> None:
        """Stop the job. Airflow calls this when it ends the task process or the task times out in it."""
        self._is_killed = True
        if self._job_id:
            self.log.info("stopping Ray job %s", self._job_id)
            self._stop(self._job_id, KILL_PATIENCE_S)

    def _order(self, job_id: str, ti: Any) -> JobRequest:
        command = [part for part in map(str, self.command) if part]
        metadata = {"airflow_dag": ti.dag_id, "airflow_run": ti.run_id, "airflow_task": ti.task_id}
        return JobRequest(job_id=job_id, command=command, runtime_env=dict(self.runtime_env), metadata=metadata)

    async def _take_over(self, earlier: Sequence[str], is_retry: bool) -> str | None:
        async with RayJobs(self.address) as jobs:
            return await take_over(jobs, earlier, is_retry=is_retry, unreachable_s=self.unreachable_s, log=self.log)

    async def _submit(self, order: JobRequest) -> None:
        async with RayJobs(self.address) as jobs:
            await submit(jobs, order, unreachable_s=self.unreachable_s, log=self.log)

    async def _follow(self, job_id: str) -> Outcome:
        async with RayJobs(self.address) as jobs:
            return await follow(jobs, job_id, poll_s=self.poll_s, unreachable_s=self.unreachable_s, log=self.log)

    def _stop(self, job_id: str, patience_s: float) -> None:
        async def stop() -> bool:
            async with RayJobs(self.address) as jobs:
                return await jobs.stop(job_id, patience_s=patience_s)

        try:
            if not finish(stop()):
                self.log.warning("Ray job %s got a stop request, but has not ended yet", job_id)
        except RayJobsError as error:
            self.log.error("Ray job %s could not be stopped: %s", job_id, error)
