"""The deferred half of a Ray task: the triggerer submits the job and follows it, no worker is held."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import asdict
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from fraud_airflow.job_lifecycle import JobRequest, Outcome, follow, submit
from fraud_airflow.jobs_api import RayJobs, RayJobsError, RayUnreachableError

SUBMIT_PATIENCE_S, STOP_PATIENCE_S = 10.0, 25.0
# What stops jobs: a loop forgets a task that nobody holds.
_stopping: set[asyncio.Task[None]] = set()


class RayJobTrigger(BaseTrigger):
    """Submit a Ray job, follow it to its end and report its Outcome.

    It is submitted here and not by the task's process: what happens to a task before a triggerer took its trigger
    reaches neither of them, and the job would run on. Its arguments go to Airflow's database, so the token is not
    among them: the triggerer reads it itself.

    address: URL of Ray's dashboard. order: the fields of an JobRequest. poll_s: seconds between looks at a quiet job.
    unreachable_s: how long Ray may stay silent, on end.
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
        """What a triggerer needs to make this trigger again."""
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
        """Submit and follow the job. A triggerer that was restarted begins here again and finds it by its id."""
        job_id = self.order.job_id
        try:
            if self.order.command:
                # A request on its way is not broken off: on_kill must know whether there is a job.
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

        Airflow 3.3 means to give this 30 s, but cancels it after one, when it cancels the trigger once more: so the
        stopping is a task of its own, which on_kill waits for as long as it may.
        """
        task = asyncio.create_task(self._stop())
        _stopping.add(task)
        task.add_done_callback(_stopping.discard)
        await asyncio.shield(task)

    async def _stop(self) -> None:
        """Stop the job, unless its task waits for it.

        Airflow calls on_kill by mistake too, in a triggerer that hung, lost its triggers to another one, and woke up.
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
            self.log.info("Ray job %s %s", job_id, "is stopped" if ended else "was told to stop")

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
        except Exception as error:  # noqa: BLE001 - Airflow's word, "somebody acted on the task", stands then
            self.log.warning("the state of the task is unknown: %s", error)
            return False
        task_states = {str(state) for by_task in states.values() for state in by_task.values()}
        return bool(task_states & {"deferred", "running"})
