"""The deferred part of a Ray task: the triggerer submits and follows the job, so it occupies no worker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import asdict
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from fraud_airflow.job_lifecycle import JobRequest, Outcome, follow, submit
from fraud_airflow.jobs_api import RayJobs, RayJobsError, RayUnreachableError

SUBMIT_PATIENCE_S, STOP_PATIENCE_S = 10.0, 25.0
# Running stop tasks. An event loop keeps only weak references to its tasks.
_stopping: set[asyncio.Task[None]] = set()


class RayJobTrigger(BaseTrigger):
    """Submit a Ray job, follow it to its end and report its Outcome.

    The trigger submits, not the task's process: if the task is killed before a triggerer takes the trigger, neither is
    notified and an already submitted job would run on. Airflow stores the arguments in its database, so they do not
    contain the token; the triggerer reads it itself.

    address: URL of Ray's dashboard. order: fields of a JobRequest. poll_s: seconds between polls of a quiet job.
    unreachable_s: longest time without an answer from Ray.
    """

    def __init__(
        self, address: str, order: Mapping[str, Any], poll_s: float = 5.0, unreachable_s: float = 600.0
    ) -> None:
        super().__init__()
        self.address = address
        self.order = JobRequest(**order)
        self.poll_s = poll_s
        self.unreachable_s = unreachable_s
        self._submission: asyncio.Task[None] | None = None

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """The class path and arguments from which a triggerer recreates this trigger."""
        return (
            "fraud_airflow.ray_trigger.RayJobTrigger",
            {
                "address": self.address,
                "order": asdict(self.order),
                "poll_s": self.poll_s,
                "unreachable_s": self.unreachable_s,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Submit and follow the job. A restarted triggerer runs this again and finds the job by its id."""
        job_id = self.order.job_id
        try:
            if self.order.command:
                # Do not cancel a running request: on_kill must know whether the job exists.
                self._submission = asyncio.create_task(self._submit())
                await asyncio.shield(self._submission)
            self.log.info("following Ray job %s", job_id)
            async with RayJobs(self.address) as jobs:
                outcome = await follow(jobs, job_id, poll_s=self.poll_s, unreachable_s=self.unreachable_s, log=self.log)
        except RayJobsError as error:
            status = "UNREACHABLE" if isinstance(error, RayUnreachableError) else "REFUSED"
            outcome = Outcome(job_id=job_id, status=status, message=str(error))
        yield TriggerEvent(outcome.as_event())

    async def on_kill(self) -> None:
        """Stop the job: somebody marked or cleared the task. Airflow does not call this when a triggerer ends.

        Airflow 3.3 documents 30 s for this, but cancels it after 1 s, when it cancels the trigger again. So the stop
        runs in a task of its own, and on_kill waits for it as long as Airflow allows.
        """
        task = asyncio.create_task(self._stop())
        _stopping.add(task)
        task.add_done_callback(_stopping.discard)
        await asyncio.shield(task)

    async def _stop(self) -> None:
        """Stop the job, unless its task still waits for it.

        Airflow also calls on_kill by mistake: in a triggerer that hung and meanwhile lost its triggers to another one.
        """
        job_id = self.order.job_id
        if await self._is_still_waited_for():
            self.log.warning("the task still waits for Ray job %s: another triggerer follows it", job_id)
            return
        self.log.info("stopping Ray job %s", job_id)
        if self._submission and not self._submission.done():
            await asyncio.wait([self._submission], timeout=SUBMIT_PATIENCE_S)
            self._submission.cancel()
        try:
            async with RayJobs(self.address) as jobs:
                ended = await jobs.stop(job_id, patience_s=STOP_PATIENCE_S)
        except RayJobsError as error:
            self.log.error("Ray job %s could not be stopped: %s", job_id, error)
        else:
            self.log.info("Ray job %s %s", job_id, "is stopped" if ended else "got a stop request")

    async def _submit(self) -> None:
        async with RayJobs(self.address) as jobs:
            await submit(jobs, self.order, unreachable_s=self.unreachable_s, log=self.log)

    async def _is_still_waited_for(self) -> bool:
        from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

        task = self.task_instance
        if task is None:
            return False
        try:
            states = await asyncio.to_thread(
                RuntimeTaskInstance.get_task_states,
                dag_id=task.dag_id,
                task_ids=[task.task_id],
                run_ids=[task.run_id],
                map_index=task.map_index,
            )
        except Exception as error:  # noqa: BLE001 - then trust Airflow that somebody acted on the task
            self.log.warning("the state of the task is unknown: %s", error)
            return False
        task_states = {str(state) for by_task in states.values() for state in by_task.values()}
        return bool(task_states & {"deferred", "running"})
