"""The deferred half of a Ray task: the triggerer follows the job, no worker is held."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from fraud_airflow.jobs_api import RayJobs
from fraud_airflow.watching import follow

# Below Airflow's bound for on_kill, [triggerer] on_kill_timeout = 30 s.
STOP_PATIENCE_S = 25.0


class RayJobTrigger(BaseTrigger):
    """Follow a Ray job to its end and report its Outcome.

    Its arguments go to Airflow's database, so the token is not among them: the triggerer reads it itself.

    address: URL of Ray's dashboard. job_id: submission id. poll_s: seconds between looks at a quiet job.
    unreachable_s: how long Ray may stay silent, on end.
    """

    def __init__(self, address: str, job_id: str, poll_s: float = 5.0, unreachable_s: float = 600.0) -> None:
        super().__init__()
        self.address = address
        self.job_id = job_id
        self.poll_s = poll_s
        self.unreachable_s = unreachable_s

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """What a triggerer needs to make this trigger again."""
        return (
            "fraud_airflow.ray_trigger.RayJobTrigger",
            {
                "address": self.address,
                "job_id": self.job_id,
                "poll_s": self.poll_s,
                "unreachable_s": self.unreachable_s,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Follow the job. A triggerer that was restarted begins here again and finds the same job by its id."""
        async with RayJobs(self.address) as jobs:
            self.log.info("following Ray job %s", self.job_id)
            outcome = await follow(
                jobs, self.job_id, poll_s=self.poll_s, unreachable_s=self.unreachable_s, log=self.log
            )
        yield TriggerEvent(outcome.as_event())

    async def on_kill(self) -> None:
        """Stop the job: somebody marked or cleared the task. Airflow does not call this when a triggerer ends.

        It does call it in a triggerer that hung, lost its triggers to another one, and woke up; so the task is asked
        first, and a job that a task still waits for runs on.
        """
        if await self._is_still_waited_for():
            self.log.warning("the task still waits for Ray job %s: another triggerer follows it", self.job_id)
            return
        async with RayJobs(self.address) as jobs:
            ended = await jobs.stop(self.job_id, patience_s=STOP_PATIENCE_S)
        self.log.info("Ray job %s %s", self.job_id, "is stopped" if ended else "was told to stop")

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
        found = {str(state) for by_task in states.values() for state in by_task.values()}
        return bool(found & {"deferred", "running"})
