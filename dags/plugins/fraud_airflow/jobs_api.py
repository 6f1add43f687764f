"""Asynchronous client of Ray's Jobs REST API: submit, look up, stop, follow the log."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shlex
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import aiohttp

TERMINAL = frozenset({"SUCCEEDED", "FAILED", "STOPPED"})
REQUEST_TIMEOUT_S = 30.0
# Ray ends a stopped job that has not started only when it starts (Ray issue 58353), and only if the process that got
# the stop request still runs then. This script kills the actor that would start the job. No such actor: it has ended.
END_PENDING = (
    "import contextlib, sys, ray; from ray.dashboard.modules.job import common; ray.init()\n"
    "with contextlib.suppress(ValueError):\n"
    "    ray.kill(ray.get_actor(common.JOB_ACTOR_NAME_TEMPLATE.format(job_id=sys.argv[1]), "
    "namespace=common.SUPERVISOR_ACTOR_RAY_NAMESPACE))"
)


class RayJobsError(Exception):
    """Ray refused a request. A retry would not help."""


class RayUnreachableError(RayJobsError):
    """No answer, or an answer of a gateway or of a Ray that still starts. Retry."""


class JobUnknownError(RayJobsError):
    """Ray does not know the job."""


def token() -> str | None:
    """Ray's token, from RAY_AUTH_TOKEN or the file RAY_AUTH_TOKEN_PATH; None if neither is set.

    Raises RayJobsError if the file cannot be read.
    """
    if direct := os.environ.get("RAY_AUTH_TOKEN"):
        return direct.strip()
    path = os.environ.get("RAY_AUTH_TOKEN_PATH")
    if not path:
        return None
    try:
        return Path(path).expanduser().read_text(encoding="utf-8").strip()
    except OSError as error:
        raise RayJobsError(f"RAY_AUTH_TOKEN_PATH={path} cannot be read: {error.strerror}") from None


class RayJobs:
    """A session with the Jobs API. address: URL of Ray's dashboard. Use it with `async with`."""

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> RayJobs:
        bearer = token()
        self._session = aiohttp.ClientSession(
            headers={"Authorization": f"Bearer {bearer}"} if bearer else {},
            timeout=aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._session is not None
        await self._session.close()

    async def submit(
        self, job_id: str, command: Sequence[str], *, runtime_env: Mapping[str, Any], metadata: Mapping[str, str]
    ) -> bool:
        """Submit `command` as job `job_id`. Idempotent: returns False if the job exists already."""
        body = {
            "submission_id": job_id,
            # Ray starts it in a shell. Without exec, a stop could end the shell but not the command it just started.
            "entrypoint": f"exec {shlex.join(command)}",
            "runtime_env": dict(runtime_env),
            "metadata": dict(metadata),
        }
        status, answer = await self._ask("POST", "/api/jobs/", json=body)
        if status == 200:
            return True
        if "already exists" in answer:
            return False
        raise self._refusal(status, answer)

    async def look(self, job_id: str) -> dict[str, Any]:
        """The job as Ray reports it: "status", "message", "driver_exit_code" and more. Raises JobUnknownError.

        A head that restored its state from Redis reports a job as RUNNING although its driver died with the old head,
        until it starts another job. This method reports such a job as FAILED.
        """
        status, answer = await self._ask("GET", f"/api/jobs/{job_id}")
        if status == 404:
            raise JobUnknownError(f"Ray knows no job {job_id}")
        if status != 200:
            raise self._refusal(status, answer)
        with contextlib.suppress(ValueError):
            job = json.loads(answer)
            if isinstance(job, dict) and "status" in job:
                node = job.get("driver_node_id")
                if job["status"] == "RUNNING" and node and await self._is_dead(node):
                    job |= {"status": "FAILED", "message": f"the node of its driver, {node}, is dead"}
                return job
        raise RayUnreachableError(f"{self.address} answered, but not with a job")

    async def stop(self, job_id: str, *, patience_s: float) -> bool:
        """Stop a job and wait for its end, at most `patience_s`. Returns whether it has ended.

        Ray sends SIGTERM, and SIGKILL after 3 s. It ends a PENDING job only when the job starts, and may forget the
        request before. So the request is repeated. If the job is still PENDING after half of `patience_s`, this
        submits another job that ends it (see END_PENDING) and outlives this process.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        is_ended_otherwise = False
        while True:
            with contextlib.suppress(RayUnreachableError):
                try:
                    state = (await self.look(job_id))["status"]
                except JobUnknownError:
                    return True
                if state in TERMINAL:
                    return True
                await self._ask("POST", f"/api/jobs/{job_id}/stop")
                if state == "PENDING" and not is_ended_otherwise and loop.time() - began > patience_s / 2:
                    is_ended_otherwise = True
                    command = ["python", "-c", END_PENDING, job_id]
                    await self.submit(f"end.{job_id}", command, runtime_env={}, metadata={})
            if loop.time() - began > patience_s:
                return False
            await asyncio.sleep(0.5)

    async def log(self, job_id: str, *, skip: int = 0, quiet_s: float = 20.0) -> AsyncIterator[str]:
        """Stream the job's log in pieces, from character `skip`, until the job ends.

        Yields an empty piece after `quiet_s` without output. Raises RayUnreachableError if the connection breaks.
        """
        assert self._session is not None
        url = f"{self.address}/api/jobs/{job_id}/logs/tail"
        try:
            async with self._session.ws_connect(url, heartbeat=30.0) as socket:
                while True:
                    try:
                        message = await socket.receive(timeout=quiet_s)
                    except TimeoutError:
                        yield ""
                        continue
                    if message.type is not aiohttp.WSMsgType.TEXT:
                        return
                    text = message.data
                    if skip >= len(text):
                        skip -= len(text)
                        continue
                    yield text[skip:]
                    skip = 0
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise RayUnreachableError(f"the log of {job_id} broke off: {type(error).__name__}") from None

    async def _is_dead(self, node: str) -> bool:
        only = {"filter_keys": "node_id", "filter_predicates": "=", "filter_values": node}
        status, answer = await self._ask("GET", "/api/v0/nodes", params=only)
        if status != 200:
            return False
        return [one["state"] for one in json.loads(answer)["data"]["result"]["result"]] == ["DEAD"]

    async def _ask(self, method: str, path: str, **content: Any) -> tuple[int, str]:
        assert self._session is not None
        try:
            async with self._session.request(method, self.address + path, allow_redirects=False, **content) as answer:
                text = await answer.text()
                status = answer.status
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise RayUnreachableError(f"{self.address} does not answer: {type(error).__name__}: {error}") from None
        if status in (408, 429, 502, 503, 504):
            raise RayUnreachableError(f"{self.address} answered {status}")
        return status, text

    def _refusal(self, status: int, answer: str) -> RayJobsError:
        if status in (401, 403):
            return RayJobsError(
                f"{self.address} refused the token ({status}): set RAY_AUTH_TOKEN_PATH or RAY_AUTH_TOKEN "
                "for Airflow's scheduler, workers and triggerer to the one that Ray was started with"
            )
        reason = answer.strip().splitlines()[-1][:500] if answer.strip() else "no reason given"
        # After a restart of Ray's head, the dashboard answers 500 until its agent is up.
        kind = RayUnreachableError if status >= 500 and "agent" in answer.lower() else RayJobsError
        return kind(f"{self.address} answered {status}: {reason}")
