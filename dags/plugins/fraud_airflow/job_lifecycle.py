"""Start a Ray job once and follow it to its end. Used by task processes and triggers."""

from __future__ import annotations

import asyncio
import hashlib
import re
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, Protocol, TypeVar

from fraud_airflow.jobs_api import TERMINAL, JobUnknownError, RayJobs, RayUnreachableError

LAST_LINES = 30
LONGEST_LINE = 2_000  # characters
MOST_LINES = 20_000  # of one job in the task's log; Ray's log has all lines
LONGEST_ID = 180  # characters; a submission id becomes a file name with a prefix

T = TypeVar("T")


class Log(Protocol):
    """Python's or Airflow's logger."""

    def info(self, message: str, /, *values: Any) -> Any:
        """Log a line."""

    def warning(self, message: str, /, *values: Any) -> Any:
        """Log a warning."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a job ended.

    job_id: submission id.
    status: SUCCEEDED, FAILED or STOPPED; REFUSED: Ray rejected it; LOST: Ray no longer knows it; UNREACHABLE: Ray did
        not answer for too long.
    message: Ray's reason.
    exit_code: of the driver process, if any.
    last_lines: end of the log.
    """

    job_id: str
    status: str
    message: str = ""
    exit_code: int | None = None
    last_lines: list[str] = field(default_factory=list)

    def as_event(self) -> dict[str, Any]:
        """The fields as plain values, for Airflow's database."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class JobRequest:
    """A job to submit; without a command, a job only to follow.

    job_id: submission id. command: command line. runtime_env, metadata: see Ray's Jobs API.
    """

    job_id: str
    command: list[str] = field(default_factory=list)
    runtime_env: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)


def submission_id(dag_id: str, run_id: str, task_id: str, map_index: int, try_number: int) -> str:
    """The id of a try's job. The same try always gets the same id, so no second job can start for it."""
    parts = [dag_id, run_id, task_id, *([str(map_index)] if map_index >= 0 else []), f"try{try_number}"]
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "-", ".".join(parts))
    exact = hashlib.sha256("\0".join(map(str, (dag_id, run_id, task_id, map_index))).encode()).hexdigest()[:8]
    return f"{plain[: LONGEST_ID - 20]}.{exact}.{try_number}"


def finish(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in a thread and wait for it. Works in signal handlers and while another loop runs."""
    result: list[T] = []
    failure: list[BaseException] = []

    def target() -> None:
        try:
            result.append(asyncio.run(work))
        except BaseException as error:  # noqa: BLE001 - raised again by the waiting thread
            failure.append(error)

    thread = threading.Thread(target=target, name="ray-jobs", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.2)  # a join without timeout would block signals
    if failure:
        raise failure[0]
    return result[0]


async def patiently(ask: Callable[[], Awaitable[T]], *, unreachable_s: float, log: Log, pause_s: float = 5.0) -> T:
    """Retry `ask` while Ray is unreachable. Raises RayUnreachableError after `unreachable_s`."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    while True:
        try:
            return await ask()
        except RayUnreachableError as error:
            if loop.time() - began > unreachable_s:
                raise
            log.warning("%s; retrying", error)
            await asyncio.sleep(min(pause_s, unreachable_s))


async def take_over(
    jobs: RayJobs, earlier: Sequence[str], *, is_retry: bool, unreachable_s: float, log: Log
) -> str | None:
    """The id of an earlier try's job to follow; None to submit a new one.

    earlier: ids of earlier tries, newest first; the newest that Ray knows counts. A retry takes over a job that runs or
    succeeded: the task process died, not the job. After a clear (is_retry=False) a running job is stopped, because a
    clear means a new start.
    """
    for other in earlier:
        try:
            job = await patiently(partial(jobs.look, other), unreachable_s=unreachable_s, log=log)
        except JobUnknownError:
            continue
        if is_retry and job["status"] not in ("FAILED", "STOPPED"):
            log.info("an earlier try's job %s is %s: following it instead of starting another", other, job["status"])
            return other
        if job["status"] not in TERMINAL:
            log.info("stopping job %s, which was submitted before the clear", other)
            await jobs.stop(other, patience_s=30.0)
        break
    return None


async def submit(jobs: RayJobs, order: JobRequest, *, unreachable_s: float, log: Log) -> None:
    """Submit a job unless it exists already. Retries are safe: the id never starts a second job."""

    def ask() -> Awaitable[bool]:
        return jobs.submit(order.job_id, order.command, runtime_env=order.runtime_env, metadata=order.metadata)

    if await patiently(ask, unreachable_s=unreachable_s, log=log):
        log.info("submitted Ray job %s: %s", order.job_id, " ".join(order.command))
    else:
        log.info("Ray job %s was submitted before: following it", order.job_id)


async def follow(jobs: RayJobs, job_id: str, *, poll_s: float, unreachable_s: float, log: Log) -> Outcome:
    """Copy a job's log into ours until the job ends. Survives lost connections. Keeps only the last lines in memory."""
    copied = _Copy(log)
    while True:
        try:
            job = await patiently(lambda: jobs.look(job_id), unreachable_s=unreachable_s, log=log, pause_s=poll_s)
        except RayUnreachableError as error:
            return Outcome(job_id=job_id, status="UNREACHABLE", message=str(error), last_lines=copied.end())
        except JobUnknownError as error:
            return Outcome(job_id=job_id, status="LOST", message=str(error), last_lines=copied.end())
        has_ended = job["status"] in TERMINAL
        try:
            async for piece in jobs.log(job_id, skip=copied.characters):
                copied.add(piece)
                if not piece and (await jobs.look(job_id))["status"] in TERMINAL:
                    break
        except (RayUnreachableError, JobUnknownError) as error:
            if not has_ended:
                log.warning("%s; looking again", error)
        if has_ended:
            return Outcome(
                job_id=job_id,
                status=job["status"],
                # Ray appends the log, which is copied already.
                message=(job.get("message") or "").split(", last available logs")[0].strip()[:2000],
                exit_code=job.get("driver_exit_code"),
                last_lines=copied.end(),
            )
        await asyncio.sleep(min(1.0, poll_s) if copied.is_new() else poll_s)


class _Copy:
    """Copies a job's log into ours line by line. Cuts long lines and keeps the last ones."""

    def __init__(self, log: Log) -> None:
        self.characters = 0
        self._log = log
        self._begun = ""
        self._lines = 0
        self._last: deque[str] = deque(maxlen=LAST_LINES)
        self._seen = 0

    def add(self, piece: str) -> None:
        self.characters += len(piece)
        *complete, self._begun = (self._begun + piece).split("\n")
        for line in complete:
            self._put(line)
        if len(self._begun) > LONGEST_LINE:
            self._put(self._begun)
            self._begun = ""

    def is_new(self) -> bool:
        """Whether text was added since the last call."""
        before, self._seen = self._seen, self.characters
        return self._seen > before

    def end(self) -> list[str]:
        if self._begun:
            self._put(self._begun)
            self._begun = ""
        return list(self._last)

    def _put(self, line: str) -> None:
        line = line.rstrip()[:LONGEST_LINE]
        self._lines += 1
        self._last.append(line)
        if self._lines <= MOST_LINES:
            self._log.info("%s", line)
        elif self._lines == MOST_LINES + 1:
            self._log.warning("more than %d lines: the rest is in Ray's dashboard only", MOST_LINES)
